"""Members: who they are, their random numbers, and their states."""
