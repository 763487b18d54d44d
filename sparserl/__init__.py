"""Sparse reinforcement-learning policies: train them, factor them, and say what was kept and what was saved."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparserl.config.validation import compose
    from sparserl.loading import load_policy
    from sparserl.sweeps.loop import run

__all__ = ["compose", "load_policy", "run"]
__version__ = "0.1.0"

_HOMES = {"compose": "sparserl.config.validation", "load_policy": "sparserl.loading", "run": "sparserl.sweeps.loop"}


def __getattr__(name: str) -> Any:
    """What a program uses, imported when it is asked for: what only reads files does not wait seconds for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
