"""The L1 penalty (lasso): the absolute values of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparserl.regularizers.base import Proximal, regularized
from sparserl.types import Layers


@dataclass(frozen=True, kw_only=True)
class L1(Proximal):
    """Pulls every weight to zero with the same force.

    Its proximal step is soft-thresholding: every weight moves towards zero by the learning rate times its coefficient, and no
    further.

    Keys (``make docs`` copies them from ``conf/regularizer/l1.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this are set to zero in the hardened policy: Adam makes none
            exactly zero without ``proximal``.
        lambda_c (number, at least 0; per member): Coefficient of the penalty.
        lambda_c_critic (number, at least 0 or ``null``; per member): The same for critics, which scope=all regularises too:
            published sparse critics keep more weights than actors. null is lambda_c.
        beta (``null``): There is no gate: whatever is given becomes null.
        scope (``policy``, ``all``): Whose weights: policy, or all (critics too).
        reduction (``mean``, ``sum``): The penalty is the mean over the regularised weights, so lambda_c means the same for
            every network, or their sum.
        proximal (``true`` or ``false``): false: the penalty is in the loss. true: after each step of the optimiser every weight
            moves towards zero by its learning rate times lambda_c (under mean, also divided by the number of weights), and no
            further, so there are exact zeros. That step takes the learning rate as it is: Adam does not scale it, so lambda_c
            means another force than without, and must be much larger under mean.
        delay_steps (integer, at least 0): Environment steps of each member without the penalty.
        ramp_steps (integer, at least 0): Environment steps of each member in which lambda_c then grows from 0 to its value.
    """

    def acts_on(self, layers: Layers) -> Layers:
        return regularized(layers)

    def norms(self, weights: Layers) -> list[Float[Tensor, "member ..."]]:
        return [weight.abs() for weight in weights.values()]

    def shrunken(self, weights: Layers, limit: Float[Tensor, "#member"]) -> Layers:
        limit = limit.view(-1, 1)
        flat = {name: weight.flatten(1) for name, weight in weights.items()}
        return {name: (its - its.clamp(-limit, limit)).view_as(weights[name]) for name, its in flat.items()}
