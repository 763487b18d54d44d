"""A small dense perceptron: the control for policies that are large and sparse, with as many weights as these keep."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import pairwise

from sparserl.fields import Count
from sparserl.networks.base import Network
from sparserl.networks.mlp import MLP


@dataclass(frozen=True)
class SmallDense(MLP):
    """Of what is deployed ``hidden`` is scaled down; critics that are not have ``hidden`` as it is.

    The keys are described in ``conf/network/small_dense.yaml``.
    """

    weights: Count = field(kw_only=True)

    def for_policy(self, observation_shape: tuple[int, ...], outputs: int) -> Network:
        hidden = scaled_down(tuple(self.hidden), math.prod(observation_shape), outputs, self.weights)
        return MLP(hidden, self.activation, self.initialization)


@cache
def scaled_down(hidden: tuple[int, ...], inputs: int, outputs: int, weights: int) -> tuple[int, ...]:
    """The sizes ``hidden`` times one factor of at most 1, rounded down but at least 1: the largest with at most ``weights``.

    Raises ValueError where one unit a layer has more.
    """

    def scaled(factor: Fraction) -> tuple[int, ...]:
        return tuple(max(1, math.floor(factor * size)) for size in hidden)

    def count(factor: Fraction) -> int:
        return sum(before * after for before, after in pairwise((inputs, *scaled(factor), outputs)))

    # between two neighbours of these no size changes
    factors = sorted({Fraction(units, size) for size in hidden for units in range(1, size + 1)}) or [Fraction(1)]
    found = bisect_right(factors, weights, key=count)
    if found == 0:
        raise ValueError(f"network.weights is {weights}; a policy with one unit in each hidden layer has {count(factors[0])}")
    return scaled(factors[found - 1])
