"""The L2 penalty (ridge): the squares of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from sparserl.fields import unused
from sparserl.regularizers.base import Thresholded, regularized
from sparserl.types import Gates, Layers, Penalty


@dataclass(frozen=True, kw_only=True)
class L2(Thresholded):
    """Pulls every weight to zero in proportion to its size.

    Keys (``make docs`` copies them from ``conf/regularizer/l2.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this are set to zero in the hardened policy: Adam makes none
            exactly zero.
        lambda_c (number, at least 0; per member): Coefficient of the penalty.
        lambda_c_critic (number, at least 0 or ``null``; per member): The same for critics, which scope=all regularises too:
            published sparse critics keep more weights than actors. null is lambda_c.
        beta (``null``): There is no gate: whatever is given becomes null.
        scope (``policy``, ``all``): Whose weights: policy, or all (critics too).
        reduction (``mean``, ``sum``): The penalty is the mean over the regularised weights, so lambda_c means the same for
            every network, or their sum.
        delay_steps (integer, at least 0): Environment steps of each member without the penalty.
        ramp_steps (integer, at least 0): Environment steps of each member in which lambda_c then grows from 0 to its value.
    """

    beta: None = unused()

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        return self.reduce([weight.square() for weight in regularized(layers).values()])
