"""Ranks of the layers within a budget of stored numbers, from singular values, and greedily by return.

A budget is a limit: what is chosen stores at most as many numbers, as ``accounting.stored`` counts them. A layer can have each
rank at which its factors are smaller than itself, up to its numerical rank, or else stay whole, as in the rank sweep. The
energy of a layer is the sum of its squared singular values.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sparserl.lowrank.accounting import stored
from sparserl.lowrank.truncation import Decomposition, RankAssignment, break_even, ladder

FINENESS = 16
"""Greedy by return lowers a layer by one direction, or by this fraction of its directions where that is more."""

Evaluate = Callable[[Sequence[RankAssignment]], Sequence[float]]
"""The mean return of a policy at each of several cuts."""

Places = tuple[int, ...]
"""For each layer the place of its rank among its ``Choices``."""


@dataclass(frozen=True)
class Choices:
    """What one layer can be cut to, from rank 1 to the largest, or to whole where that is not smaller; at least one choice."""

    ranks: RankAssignment
    sizes: tuple[int, ...]
    """Numbers stored at each, in increasing order."""
    shares: tuple[float, ...]
    """Of the layer's energy, kept at each; that of the last is 1."""

    @classmethod
    def of(cls, decomposition: Decomposition) -> Choices:
        """Of a layer that has this decomposition."""
        squares = decomposition.singular_values.square().cumsum(0)
        ranks = tuple(dict.fromkeys(decomposition.cut(k) for k in range(1, len(squares) + 1))) or (None,)
        shares = (squares / squares[-1]).tolist() if len(squares) else []
        return cls(ranks, tuple(stored(*decomposition.shape, rank) for rank in ranks), (*shares[: len(ranks) - 1], 1.0))


def cut_at(layers: Sequence[Choices], places: Places) -> RankAssignment:
    """The ranks at places."""
    return tuple(layer.ranks[place] for layer, place in zip(layers, places, strict=True))


def size_at(layers: Sequence[Choices], places: Places) -> int:
    """The numbers stored at places."""
    return sum(layer.sizes[place] for layer, place in zip(layers, places, strict=True))


def smallest(layers: Sequence[Choices]) -> int:
    """The numbers stored with rank 1 in every layer, or the whole layer where that is fewer: no budget may be below it."""
    return size_at(layers, (0,) * len(layers))


def ladder_budgets(shapes: Iterable[tuple[int, int]]) -> list[int]:
    """The numbers that matrices of full numerical rank store at the uniform ranks of the ladder, in increasing order."""
    limits = [(*shape, break_even(*shape)) for shape in shapes]
    ranks = ladder(max(limit for *_, limit in limits))
    return sorted({sum(stored(m, n, rank if rank <= limit else None) for m, n, limit in limits) for rank in ranks})


def uniform(layers: Sequence[Choices], budget: int) -> RankAssignment:
    """One rank for all layers, as in the rank sweep: the largest that fits.

    Raises ValueError where the budget is below ``smallest``, as all of these do.
    """
    _check(layers, budget)
    last = tuple(len(layer.ranks) - 1 for layer in layers)
    at = [tuple(min(place, limit) for limit in last) for place in range(max(last) + 1)]
    return cut_at(layers, max(places for places in at if size_at(layers, places) <= budget))


def by_energy(layers: Sequence[Choices], budget: int) -> RankAssignment:
    """In each layer the lowest rank that keeps a share of its energy: the largest share that fits."""
    _check(layers, budget)
    shares = sorted({0.0, *(share for layer in layers for share in layer.shares)})
    at = [tuple(bisect_left(layer.shares, share) for layer in layers) for share in shares]
    return cut_at(layers, max(places for places in at if size_at(layers, places) <= budget))


def by_budget(layers: Sequence[Choices], budget: int) -> RankAssignment:
    """From rank 1 on, the step that adds the largest share of its layer's energy per stored number, while one fits.

    A step adds the next direction of a layer, or the rest: a whole layer may store hardly more than its factors. This is the
    greedy solution of a knapsack with multiple choices (Sinha, Zoltners 1979). A larger budget never keeps a smaller sum of
    shares.
    """
    _check(layers, budget)
    places = (0,) * len(layers)
    while steps := [
        ((layer.shares[higher] - layer.shares[place]) / (layer.sizes[higher] - layer.sizes[place]), -index, raised)
        for index, (layer, place) in enumerate(zip(layers, places, strict=True))
        for higher in {place + 1, len(layer.ranks) - 1}
        if place < higher < len(layer.ranks) and size_at(layers, raised := _moved(places, index, higher)) <= budget
    ]:
        *_, places = max(steps)
    return cut_at(layers, places)


def by_return(
    layers: Sequence[Choices], budgets: Iterable[int], evaluate: Evaluate, start: RankAssignment | None = None
) -> Iterator[tuple[int, RankAssignment]]:
    """From ``start``, the whole layers by default, lower the layer whose lowering costs the least return, again and again.

    Gives each budget, from the largest, with the first ranks that fit. So a start with what an earlier search gave for some
    budget goes on from there: the ranks of a budget do not depend on the others. Of equal returns the layer is lowered that
    loses the smallest share of its energy per stored number; a return that is no number is the lowest.
    """
    places = tuple(len(layer.ranks) - 1 for layer in layers)
    if start is not None:
        places = tuple(layer.ranks.index(rank) for layer, rank in zip(layers, start, strict=True))
    for budget in sorted(set(budgets), reverse=True):
        _check(layers, budget)
        while size_at(layers, places) > budget:
            lowered = [_moved(places, index, lower(place)) for index, place in enumerate(places) if place]
            returns = evaluate([cut_at(layers, candidate) for candidate in lowered]) if len(lowered) > 1 else [0.0]
            known = [-math.inf if math.isnan(value) else value for value in returns]
            losses = [_loss(layers, places, candidate) for candidate in lowered]
            best = max(range(len(lowered)), key=lambda index: (known[index], -losses[index], -index))
            places = lowered[best]
        yield budget, cut_at(layers, places)


def lower(place: int) -> int:
    """The place to which greedy by return lowers a layer from one above 0."""
    return place - max(1, place // FINENESS)


def most_evaluations(layers: Sequence[Choices]) -> int:
    """How many networks greedy by return evaluates at most."""
    steps = 0
    for layer in layers:
        place = len(layer.ranks) - 1
        while place:
            place, steps = lower(place), steps + 1
    return steps * len(layers)


def _moved(places: Places, index: int, place: int) -> Places:
    return (*places[:index], place, *places[index + 1 :])


def _loss(layers: Sequence[Choices], places: Places, lowered: Places) -> float:
    """The share of its energy that the one lowered layer loses, per number that is saved."""
    lost = sum(layer.shares[a] - layer.shares[b] for layer, a, b in zip(layers, places, lowered, strict=True))
    return lost / (size_at(layers, places) - size_at(layers, lowered))


def _check(layers: Sequence[Choices], budget: int) -> None:
    if budget < smallest(layers):
        raise ValueError(f"the budget is {budget}, and at rank 1 the network stores {smallest(layers)} numbers")
