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
    """An ``MLP`` whose ``hidden`` is scaled down in what is deployed; critics that are not deployed have ``hidden`` as it is.

    Keys beside those of ``MLP`` (``make docs`` copies them from ``conf/network/small_dense.yaml``):
        weights (integer, at least 1): The most weights (without biases) that the policy may have, for example the
            ``nonzero_weights`` of a sparse run's result.json, or the ``parameters`` of the selected rank in its lowrank.csv.
            The sizes in ``hidden`` are multiplied by one factor, of at most 1, and rounded down, so that there are as many
            weights as possible. Critics that share no trunk with the policy keep ``hidden`` as it is.
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
