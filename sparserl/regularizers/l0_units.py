"""L0 regularisation of whole units: a hard-concrete gate for each hidden unit, a channel in convolutions.

The gates are those of Louizos, Welling, Kingma 2018 (arXiv 1712.01312, section 3.2, where a group of weights shares one). The
penalty is the expected number of weights of the network without its closed units: it is exact, since the gates of two layers
are independent. What leaves the last units of a shared trunk are weights of heads, which are other components, and not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparserl.networks.units import bias_of, entering, feeder, hidden_units, leaving, weights_left
from sparserl.regularizers.hard_concrete import HardConcrete
from sparserl.types import Gates, Layers


@dataclass(frozen=True, kw_only=True)
class L0Units(HardConcrete):
    """Gates ``[member, unit]`` by the weight that enters the units.

    A gate multiplies what leaves its unit. Where it is 0, the weights that enter the unit and its bias are 0 too.

    Keys beside those of ``L0`` (``make docs`` copies them from ``conf/regularizer/l0_units.yaml``):
        lambda_c (number, at least 0; per member): Coefficient of the penalty, the expected share (or number) of weights of the
            network without its closed units.
    """

    def shapes(self, layers: Layers) -> dict[str, tuple[int, ...]]:
        return {name: (number,) for name, number in hidden_units(layers, self.structure).items()}

    def covered_weights(self, layers: Layers, gates: Gates) -> dict[str, int]:
        """Those that enter a unit and those that leave it, so that most weights count for two gates."""
        covered = {}
        for name, number in hidden_units(layers, self.structure).items():
            beside = [name, *self.structure[name].feeds]
            covered[name] = sum(layers[weight][0].numel() for weight in beside if weight in layers) // number
        return covered

    def multipliers(self, values: dict[str, Tensor], gates: Gates, layers: Layers) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, matrix in self.structure.items():
            before = feeder(name, self.structure)
            factors = [leaving(values[before], layers[name], matrix)] if before in values else []
            if name in values:
                # units whose outgoing weights are another component's are scaled by what enters them
                z = (values[name] > 0).to(values[name].dtype) if matrix.feeds else values[name]
                factors.append(entering(z, matrix))
                found[bias_of(name)] = z.view(layers[bias_of(name)].shape)
            if factors:
                found[name] = factors[0] if len(factors) == 1 else factors[0] * factors[1]
        return found

    def stored(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        return weights_left({name: its.mean(dim=1) for name, its in is_open.items()}, layers, self.structure)
