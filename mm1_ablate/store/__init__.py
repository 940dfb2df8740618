"""The record of truth: what every trial is, how far it has come, what it answered and scored. Everything else can be made again from it."""
