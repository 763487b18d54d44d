"""Whether it is worth while to compile a run: the rule of ``trainer.compile=auto``."""

from __future__ import annotations

from sparserl.algorithms.base import Algorithm
from sparserl.population.members import Population
from sparserl.training.dependencies import has_compiler

FEWEST_STEPS, MOST_MEMBERS = 80_000, 32
"""The fewest gradient steps and the most members. The programs of dense DQN take 37 s of one core to make, once, and save
0.9 ms of a gradient step and of acting before it, and with eight members 0.7 ms (results of bench_compiled.py): some 50,000
steps earn that back. The most members are not measured."""


def is_worth_compiling(algorithm: Algorithm, members: Population, gradient_steps: int) -> bool:
    """Whether there are enough gradient steps, on a CPU with a compiler, of an algorithm that is faster compiled."""
    if not algorithm.gains_by_compiling or members.device.type != "cpu" or members.size > MOST_MEMBERS:
        return False
    return gradient_steps >= FEWEST_STEPS and has_compiler()
