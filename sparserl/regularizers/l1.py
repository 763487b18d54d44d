"""The L1 penalty (lasso): the absolute values of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.fields import unused
from sparserl.regularizers.base import Thresholded, regularized
from sparserl.types import Gates, Layers, Penalty


@dataclass(frozen=True, kw_only=True)
class L1(Thresholded):
    """Pulls every weight to zero with the same force. The keys are described in ``conf/regularizer/l1.yaml``.

    With ``proximal`` the penalty has no gradient. Instead, after each step of the optimiser, every weight moves towards zero by
    the learning rate times its coefficient, and no further: soft-thresholding, the proximal operator of the penalty (ISTA, in
    Beck and Teboulle 2009, section 1). So there are exact zeros.
    """

    beta: None = unused()
    proximal: bool

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        penalty = self.reduce([weight.abs() for weight in regularized(layers).values()])
        return penalty.detach() if self.proximal else penalty

    def project(self, layers: Layers, gates: Gates, step: int, pull: Float[Tensor, "member"] | float) -> tuple[Layers, Gates]:
        if not self.proximal:
            return layers, gates
        weights = regularized(layers)
        number = sum(weight[0].numel() for weight in weights.values()) if self.reduction == "mean" else 1
        limit = (torch.as_tensor(pull) / number).view(-1, 1)
        flat = {name: weight.flatten(1) for name, weight in weights.items()}
        shrunk = {name: weight - weight.clamp(-limit, limit) for name, weight in flat.items()}
        return layers | {name: weight.view_as(layers[name]) for name, weight in shrunk.items()}, gates
