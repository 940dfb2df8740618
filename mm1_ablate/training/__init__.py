"""Training of trials and of what they start from, as Lightning jobs."""
