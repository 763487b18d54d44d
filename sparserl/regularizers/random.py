"""Random static masks: the control for every regulariser that chooses its zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sparserl.population.random import Generators
from sparserl.regularizers.base import regularized
from sparserl.regularizers.masks import Masked, without_lowest
from sparserl.types import Gates, Layers


@dataclass(frozen=True, kw_only=True)
class RandomMask(Masked):
    """Which weights are zero is drawn before training and never changes: "static" in Evci et al. 2020 (arXiv 1911.11134).

    The keys are described in ``conf/regularizer/random.yaml``.
    """

    distribution: Literal["uniform", "erk"]

    def init(self, layers: Layers, generators: Generators) -> Gates:
        weights = regularized(layers)
        sizes = [weight[0].numel() for weight in weights.values()]
        scores = torch.split(generators.uniform(sum(sizes)), sizes, dim=1)
        shares = self.layer_sparsity(weights, self.distribution)
        return {
            name: without_lowest(score.view_as(weight), shares[name])
            for (name, weight), score in zip(weights.items(), scores, strict=True)
        }
