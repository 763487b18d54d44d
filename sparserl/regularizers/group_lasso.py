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
    coefficient times ``sqrt(n)``, and no further than to 0 (block soft-thresholding).

    Keys (``make docs`` copies them from ``conf/regularizer/group_lasso.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this are set to zero in the hardened policy: Adam makes none
            exactly zero without ``proximal``.
        lambda_c (number, at least 0; per member): Coefficient of the penalty. Chosen with PPO on CartPole, 100,000 steps, seeds
            0 to 3: at 0.1 no unit became zero, at 1 the policies had 23 to 54 % zeros, at 3 74 to 86 % and at 10 94 to 95 %,
            with mean returns of 499, 497, 495 and 495.
        lambda_c_critic (number, at least 0 or ``null``; per member): The same for critics, which scope=all regularises too:
            published sparse critics keep more weights than actors. null is lambda_c.
        beta (``null``): There is no gate: whatever is given becomes null.
        scope (``policy``, ``all``): Whose weights: policy, or all (critics too).
        reduction (``mean``, ``sum``): The penalty is divided by the number of weights that enter hidden units (mean), so
            lambda_c means the same for every network, or is the sum over the units.
        proximal (``true`` or ``false``): false: the penalty is in the loss. true: after each step of the optimiser the weights
            that enter a unit are shortened, as one vector, by its learning rate times lambda_c times the root of their number
            (under mean, also divided as above), and no further than to zero. That step takes the learning rate as it is: Adam
            does not scale it, so lambda_c means another force than without, and must be much larger under mean.
        delay_steps (integer, at least 0): Environment steps of each member without the penalty.
        ramp_steps (integer, at least 0): Environment steps of each member in which lambda_c then grows from 0 to its value.
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
