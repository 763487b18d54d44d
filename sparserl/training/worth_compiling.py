"""Whether a run is compiled: what ``trainer.compile`` says, and where it is ``auto`` whether that is worth while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from sparserl.algorithms.base import Algorithm
from sparserl.population.state import State
from sparserl.training.dependencies import has_compiler


def is_worth_compiling(algorithm: Algorithm, device: torch.device, gradient_steps: int) -> bool:
    """Whether there are enough gradient steps, on a CPU with a compiler.

    How many members there are does not count, or a run's numbers would depend on the others.
    """
    return device.type == "cpu" and gradient_steps >= algorithm.fewest_compiled_steps and has_compiler()


def how_it_goes_on(asked: Literal["auto"] | bool, states: Sequence[State]) -> str | None:
    """A sentence where members began otherwise than ``trainer.compile`` asks for: they go on as they began. None elsewhere."""
    others = [bool(state["compile"]) for state in states if asked not in ("auto", state["compile"])]
    if not others:
        return None
    how = "compiled" if others[0] else "eagerly"
    return f"trainer.compile is {str(asked).lower()}, but a run goes on as it began: {how}"
