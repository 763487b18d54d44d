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

    Keys (``make docs`` copies them from ``conf/regularizer/random.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this count as zero in ``sparsity_thresholded``; the masks make
            exact zeros without it.
        lambda_c, lambda_c_critic, beta, reduction (``null``): There is no penalty: whatever is given becomes null.
        target_sparsity (number, at least 0, below 1; per member): Share of the weights of each regularised network that are
            zero, 0 to below 1.
        scope (``policy``, ``all``): Whose weights: policy, or all (critics too).
        distribution (``uniform``, ``erk``): How the zeros are spread over the layers: uniform (the same share in each) or erk
            (Erdos-Renyi kernel, Evci et al. 2020: small layers keep more, and those that would keep more than all keep all).
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
