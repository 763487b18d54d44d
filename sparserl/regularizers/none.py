"""No regularisation: dense weights, the control for every other regulariser."""

from __future__ import annotations

from dataclasses import dataclass

from sparserl.fields import unused
from sparserl.regularizers.base import Regularizer


@dataclass(frozen=True, kw_only=True)
class NoRegularizer(Regularizer):
    """The hooks as they are in the base class: each does nothing."""

    lambda_c: None = unused()
    lambda_c_critic: None = unused()
    beta: None = unused()
    scope: None = unused()
    reduction: None = unused()
