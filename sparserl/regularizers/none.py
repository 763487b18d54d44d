"""No regularisation: dense weights, the control for every other regulariser."""

from __future__ import annotations

from dataclasses import dataclass

from sparserl.fields import unused
from sparserl.regularizers.base import Regularizer


@dataclass(frozen=True, kw_only=True)
class NoRegularizer(Regularizer):
    """The hooks as they are in the base class: each does nothing.

    Keys (``make docs`` copies them from ``conf/regularizer/none.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this count as zero in ``sparsity_thresholded``, the control
            for l1 and l2.
        lambda_c, lambda_c_critic, beta, scope, reduction (``null``): There is no penalty and no gate: whatever is given becomes
            null.
    """

    lambda_c: None = unused()
    lambda_c_critic: None = unused()
    beta: None = unused()
    scope: None = unused()
    reduction: None = unused()
