"""The L1 penalty (lasso): the absolute values of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from sparserl.fields import meaningless
from sparserl.regularizers.base import Thresholded, regularized
from sparserl.types import Gates, Layers, Penalty


@dataclass(frozen=True, kw_only=True)
class L1(Thresholded):
    """Pulls every weight to zero with the same force. The keys are described in ``conf/regularizer/l1.yaml``."""

    beta: None = meaningless()

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        return self.reduce([weight.abs() for weight in regularized(layers).values()])
