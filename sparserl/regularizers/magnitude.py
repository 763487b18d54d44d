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
    """Sets the smallest weights to zero, more of them as training goes on.

    As published, a mask may open again: a weight keeps the value that it had when it was closed, and is compared by it at
    the next update. (Graesser et al. 2022, arXiv 2206.10369, who prune agents so, set closed weights to zero, and they
    hardly ever open again.)

    Keys (``make docs`` copies them from ``conf/regularizer/magnitude.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this count as zero in ``sparsity_thresholded``; the masks make
            exact zeros without it.
        lambda_c, lambda_c_critic, beta, reduction (``null``): There is no penalty: whatever is given becomes null.
        target_sparsity (number, at least 0, below 1; per member): Share of the weights of each regularised network that are
            zero from end_step on, 0 to below 1.
        scope (``policy``, ``all``): Whose weights: policy, or all (critics too).
        schedule (``gradual``, ``one_shot``): gradual (the share rises by the cubic law of Zhu and Gupta 2017) or one_shot (all
            at once at end_step).
        distribution (``global``, ``uniform``, ``erk``): Among which weights the smallest are sought: global (all of a network;
            of a layer whose weights are small nothing may be left), uniform (in each layer, the same share, as Zhu and Gupta)
            or erk (in each layer, by the Erdos-Renyi kernel, as Graesser et al.).
        start_step (integer, at least 0): Environment steps of each member after which pruning begins; one_shot has none.
        end_step (integer, at least 0): Environment steps of each member after which the share is target_sparsity. The masks
            stay from then on and the weights that are left train on.
        update_interval (integer, at least 1): Environment steps of each member between two updates of the masks; one_shot has
            none. Algorithms that learn from rollouts update between rollouts only.
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

    def is_due(self, previous_step: int, step: int) -> bool:
        return self.progress(step) != self.progress(previous_step)

    def scheduled(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        """New masks where the schedule has moved since ``previous_step``."""
        if not self.is_due(previous_step, step):
            return gates
        progress = self.progress(step)
        sizes = {name: weight.abs() for name, weight in regularized(layers).items()}
        if self.distribution == "global":
            return without_lowest_of_all(sizes, progress * self.target_sparsity.double())
        shares = self.layer_sparsity(sizes, self.distribution)
        return {name: without_lowest(size, progress * shares[name]) for name, size in sizes.items()}
