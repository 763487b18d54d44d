"""Whether it is worth while to compile a run: the rule of ``trainer.compile=auto``."""

from __future__ import annotations

from sparserl.algorithms.base import Algorithm
from sparserl.population.members import Population
from sparserl.training.dependencies import has_compiler

MOST_MEMBERS = 32
"""The most members that are compiled; more are not measured."""


def is_worth_compiling(algorithm: Algorithm, members: Population, gradient_steps: int) -> bool:
    """Whether there are enough gradient steps, on a CPU with a compiler."""
    if members.device.type != "cpu" or members.size > MOST_MEMBERS:
        return False
    return gradient_steps >= algorithm.fewest_compiled_steps and has_compiler()
