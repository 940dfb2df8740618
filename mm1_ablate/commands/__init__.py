"""What the commands print and how they end; the work itself is in the rooms below."""
