"""Worlds to act in, seen as vectors of P x N sub-environments."""
