"""The loop that trains a population."""
