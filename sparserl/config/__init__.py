"""From what a user types to the parts of a run."""
