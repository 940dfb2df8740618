"""What a study will run, why, what it costs, and what it can show."""
