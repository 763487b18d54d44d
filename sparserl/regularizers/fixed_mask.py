"""Static masks out of a file: the zeros of a trained policy, trained again with fresh or given weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparserl.fields import located, unused
from sparserl.population.random import Generators
from sparserl.regularizers.base import regularized
from sparserl.regularizers.masks import Masked
from sparserl.runs.files import joined, read_masks
from sparserl.types import Gates, Layers, Weights


@dataclass(frozen=True, kw_only=True)
class FixedMask(Masked):
    """Which weights are zero is read from a file before training and never changes.

    With the seed of the run whose zeros they are, fresh weights are those that it began with: a lottery ticket (Frankle and
    Carbin 2019, arXiv 1803.03635).

    Keys (``make docs`` copies them from ``conf/regularizer/fixed_mask.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this count as zero in ``sparsity_thresholded``; the masks make
            exact zeros without it.
        lambda_c, lambda_c_critic, beta, reduction, target_sparsity (``null``): There is no penalty, and the file says how many
            weights are zero: whatever is given becomes null.
        scope (``policy``, ``all``): Whose weights: policy, or all (critics too, whose masks the file must then have).
        path (text or ``null``): A file of masks, as ``sparserl-export RUN --format mask`` writes it: of each weight by its name
            a tensor of 0 and 1. null keeps every weight: the dense control.
    """

    target_sparsity: None = unused()  # type: ignore[assignment]  # the file says it
    path: str | None = located()

    def masks(self) -> dict[str, Tensor]:
        """Those of the file. Raises ValueError, in a sentence for the user, where it is not one of masks."""
        if self.path is None:
            return {}
        try:
            return read_masks(Path(self.path))
        except ValueError as error:
            raise ValueError(
                f"regularizer.path is {self.path!r}, but {error}; name a file that sparserl-export wrote"
            ) from error

    def check(self, weights: Weights) -> None:
        if self.path is None:
            return
        layers = joined(weights, tuple(weights))
        wanted = {name: list(tensor.shape[1:]) for name, tensor in regularized(layers).items()}
        given = {name: list(mask.shape) for name, mask in self.masks().items()}
        for name in wanted | given:
            if wanted.get(name) != given.get(name):
                there, needed = given.get(name, "missing"), wanted.get(name, "none")
                raise ValueError(
                    f"regularizer.path is {self.path!r}, whose {name} does not fit: its shape there is {there}, "
                    f"and {needed} is needed"
                )

    def asks_for_zeros(self, step: int) -> bool:  # type: ignore[override]
        return self.path is not None

    def init(self, layers: Layers, generators: Generators) -> Gates:
        masks = self.masks()
        gates = {name: torch.ones_like(weight) for name, weight in regularized(layers).items()}
        for name, gate in gates.items():
            if masks:
                gate.copy_(masks[f"{self.component}/{name}"])
        return gates
