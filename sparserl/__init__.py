"""Sparse reinforcement-learning policies: train them, factor them, and say what was kept and what was saved."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparserl.deploy import load_policy

__all__ = ["load_policy"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``load_policy``, imported when it is asked for: what only reads files does not wait seconds for torch."""
    if name != "load_policy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparserl.deploy import load_policy

    return load_policy
