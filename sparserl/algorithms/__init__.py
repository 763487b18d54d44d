"""How weights learn from experience: one algorithm a file."""
