"""L0 regularisation: a hard-concrete gate for each weight (Louizos, Welling, Kingma 2018, arXiv 1712.01312).

A weight runs as ``w * z``, and the penalty is the expected number of open gates.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparserl.regularizers.base import member_sums, regularized
from sparserl.regularizers.hard_concrete import HardConcrete
from sparserl.types import Layers


@dataclass(frozen=True, kw_only=True)
class L0(HardConcrete):
    """Gates have the names and shapes of the weights. The keys are described in ``conf/regularizer/l0.yaml``."""

    def shapes(self, layers: Layers) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape[1:]) for name, weight in regularized(layers).items()}

    def stored(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        return member_sums(list(is_open.values()))
