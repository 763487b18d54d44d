"""Whether it is worth while to compile a run: the rule of ``trainer.compile=auto``."""

from __future__ import annotations

import torch

from sparserl.algorithms.base import Algorithm
from sparserl.training.dependencies import has_compiler


def is_worth_compiling(algorithm: Algorithm, device: torch.device, gradient_steps: int) -> bool:
    """Whether there are enough gradient steps, on a CPU with a compiler.

    How many members there are does not count, or a run's numbers would depend on the others.
    """
    return device.type == "cpu" and gradient_steps >= algorithm.fewest_compiled_steps and has_compiler()
