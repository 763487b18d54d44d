"""L0 regularisation of weights and of whole units: a weight is open where its own gate and those of both its units are."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparserl.fields import NonNegative
from sparserl.networks.units import entering, feeder, leaving
from sparserl.regularizers.base import member_sums, regularized
from sparserl.regularizers.l0_units import L0Units
from sparserl.types import Gates, Layers

OWN = ".own"
"""How the names of the gates of single weights end."""


@dataclass(frozen=True, kw_only=True)
class L0Combined(L0Units):
    """Gates of units as in ``L0Units``, and one ``NAME.own`` in the shape of each weight.

    Keys beside those of ``L0`` (``make docs`` copies them from ``conf/regularizer/l0_combined.yaml``):
        unit_share (number, at least 0): How much a weight of the network without its closed units counts in the penalty beside
            an open one.
    """

    unit_share: NonNegative

    def shapes(self, layers: Layers) -> dict[str, tuple[int, ...]]:
        own = {f"{name}{OWN}": tuple(weight.shape[1:]) for name, weight in regularized(layers).items()}
        return super().shapes(layers) | own

    def covered_weights(self, layers: Layers, gates: Gates) -> dict[str, int]:
        """A gate of a weight stands for that one."""
        return super().covered_weights(layers, gates) | {f"{name}{OWN}": 1 for name in regularized(layers)}

    def multipliers(self, values: dict[str, Tensor], gates: Gates, layers: Layers) -> dict[str, Tensor]:
        units, own = _apart(values)
        by_unit = super().multipliers(units, gates, layers)
        return by_unit | {name: z * by_unit[name] if name in by_unit else z for name, z in own.items()}

    def stored(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        """The number of open weights and ``unit_share`` times that of the weights of the network without closed units."""
        return self.kept(is_open, layers) + self.unit_share * super().stored(_apart(is_open)[0], layers)

    def kept(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        units, own = _apart(is_open)
        terms = []
        for name, matrix in self.structure.items():
            term, before = own[name], feeder(name, self.structure)
            if name in units:
                term = term * entering(units[name], matrix)
            if before in units:
                term = term * leaving(units[before], layers[name], matrix)
            terms.append(term)
        return member_sums(terms)


def _apart(values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What belongs to units, and what to weights, both by the name of a weight."""
    own = {name.removesuffix(OWN): value for name, value in values.items() if name.endswith(OWN)}
    return {name: value for name, value in values.items() if not name.endswith(OWN)}, own
