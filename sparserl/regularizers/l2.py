"""The L2 penalty (ridge): the squares of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from sparserl.fields import unused
from sparserl.regularizers.base import Thresholded, regularized
from sparserl.types import Gates, Layers, Penalty


@dataclass(frozen=True, kw_only=True)
class L2(Thresholded):
    """Pulls every weight to zero in proportion to its size. The keys are described in ``conf/regularizer/l2.yaml``."""

    beta: None = unused()

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        return self.reduce([weight.square() for weight in regularized(layers).values()])
