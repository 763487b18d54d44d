"""The group lasso: the norms of the weights that enter each hidden unit, a channel in convolutions.

Yuan and Lin 2006, Model Selection and Estimation in Regression with Grouped Variables, section 2; for the units of networks
Wen et al. 2016 (arXiv 1608.03665, section 3). A unit is kept as a whole or is zero as a whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.networks.base import Matrix
from sparserl.networks.units import entering, hidden_units
from sparserl.regularizers.base import Proximal
from sparserl.types import Layers


@dataclass(frozen=True, kw_only=True)
class GroupLasso(Proximal):
    """The sum over hidden units of ``sqrt(n) * ||w||_2``, where w are the n weights that enter the unit.

    Its gradient in w is ``sqrt(n) * w / ||w||_2``, and 0 where w is 0. A unit whose weights are all of one size costs what it
    costs under L1. The weights that enter the outputs are free. Its proximal step shortens w by the learning rate times the
    coefficient times ``sqrt(n)``, and no further than to 0 (block soft-thresholding). The keys are described in
    ``conf/regularizer/group_lasso.yaml``.
    """

    def acts_on(self, layers: Layers) -> Layers:
        return {name: layers[name] for name in hidden_units(layers, self.structure)}

    def norms(self, weights: Layers) -> list[Float[Tensor, "member ..."]]:
        return [math.sqrt(its.shape[2]) * _norm(its) for its in self._groups(weights).values()]

    def shrunken(self, weights: Layers, limit: Float[Tensor, "#member"]) -> Layers:
        kept = {}
        for name, its in self._groups(weights).items():
            length = _norm(its).clamp_min(torch.finfo(its.dtype).tiny)
            share = (1 - limit.view(-1, 1) * math.sqrt(its.shape[2]) / length).clamp_min(0)
            kept[name] = weights[name] * entering(share, self.structure[name])
        return kept

    def _groups(self, weights: Layers) -> dict[str, Float[Tensor, "member unit weight"]]:
        return {name: _group(weight, self.structure[name]) for name, weight in weights.items()}


def _group(weight: Float[Tensor, "member ..."], matrix: Matrix) -> Float[Tensor, "member unit weight"]:
    """A weight with what enters a unit on the last axis."""
    return weight.mT if matrix.layout == "linear" else weight.flatten(2)


def _norm(groups: Float[Tensor, "member unit weight"]) -> Float[Tensor, "member unit"]:
    """Autograd gives it the gradient 0 where it is 0."""
    norm: Tensor = torch.linalg.vector_norm(groups, dim=2)
    return norm
