"""The L1 penalty (lasso): the absolute values of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparserl.regularizers.base import Proximal, regularized
from sparserl.types import Layers


@dataclass(frozen=True, kw_only=True)
class L1(Proximal):
    """Pulls every weight to zero with the same force. The keys are described in ``conf/regularizer/l1.yaml``.

    Its proximal step is soft-thresholding: every weight moves towards zero by the learning rate times its coefficient, and no
    further.
    """

    def acts_on(self, layers: Layers) -> Layers:
        return regularized(layers)

    def norms(self, weights: Layers) -> list[Float[Tensor, "member ..."]]:
        return [weight.abs() for weight in weights.values()]

    def shrunken(self, weights: Layers, limit: Float[Tensor, "#member"]) -> Layers:
        limit = limit.view(-1, 1)
        flat = {name: weight.flatten(1) for name, weight in weights.items()}
        return {name: (its - its.clamp(-limit, limit)).view_as(weights[name]) for name, its in flat.items()}
