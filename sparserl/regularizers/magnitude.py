"""Pruning by magnitude while training: the smallest weights are zero (Zhu and Gupta 2017, arXiv 1710.01878)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sparserl.fields import Count, Steps
from sparserl.population.random import Generators
from sparserl.regularizers.base import regularized
from sparserl.regularizers.masks import Masked, without_lowest, without_lowest_of_all
from sparserl.types import Gates, Layers


@dataclass(frozen=True, kw_only=True)
class Magnitude(Masked):
    """The keys are described in ``conf/regularizer/magnitude.yaml``.

    As published, a mask may open again: a weight keeps the value that it had when it was closed, and is compared by it at
    the next update. (Graesser et al. 2022, arXiv 2206.10369, who prune agents so, set closed weights to zero, and they
    hardly ever open again.)
    """

    schedule: Literal["gradual", "one_shot"]
    distribution: Literal["global", "uniform", "erk"]
    start_step: Steps
    end_step: Steps
    update_interval: Count

    def __post_init__(self) -> None:
        if self.schedule == "gradual" and self.start_step > self.end_step:
            raise ValueError(
                f"regularizer.start_step is {self.start_step}; it must be at most regularizer.end_step, {self.end_step}"
            )

    def progress(self, step: int) -> float:
        """The share of ``target_sparsity`` that masks have after ``step`` environment steps of each member, 0 to 1.

        Equation 1 of Zhu and Gupta, from a sparsity of 0, at the last multiple of ``update_interval`` after ``start_step``.
        """
        if step >= self.end_step:
            return 1.0
        if self.schedule == "one_shot" or step < self.start_step:
            return 0.0
        passed = (step - self.start_step) // self.update_interval * self.update_interval
        return 1 - (1 - passed / (self.end_step - self.start_step)) ** 3

    def init(self, layers: Layers, generators: Generators) -> Gates:
        return {name: torch.ones_like(weight) for name, weight in regularized(layers).items()}

    def scheduled(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        """New masks where the schedule has moved since ``previous_step``."""
        progress = self.progress(step)
        if progress == self.progress(previous_step):
            return gates
        sizes = {name: weight.abs() for name, weight in regularized(layers).items()}
        if self.distribution == "global":
            return without_lowest_of_all(sizes, progress * self.target_sparsity.double())
        shares = self.layer_sparsity(sizes, self.distribution)
        return {name: without_lowest(size, progress * shares[name]) for name, size in sizes.items()}
