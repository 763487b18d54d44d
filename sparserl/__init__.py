"""Sparse reinforcement-learning policies: train them, factor them, and say what was kept and what was saved."""

from sparserl.deploy import load_policy

__all__ = ["load_policy"]
__version__ = "0.1.0"
