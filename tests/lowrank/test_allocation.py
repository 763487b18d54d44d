"""Ranks by layer within a budget: worked examples on spectra that can be read off, and what holds for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl.lowrank.accounting import DecomposedPolicy, stored
from sparserl.lowrank.allocation import (
    Choices,
    by_budget,
    by_energy,
    by_return,
    ladder_budgets,
    lower,
    most_evaluations,
    smallest,
    uniform,
)
from sparserl.lowrank.shrinking import Shrunken
from sparserl.lowrank.truncation import Decomposition, RankAssignment
from sparserl.networks.base import Matrix

SPECTRAL: list[Callable[[list[Choices], int], RankAssignment]] = [uniform, by_energy, by_budget]


def layer(*singular_values: float, sides: tuple[int, int] | None = None) -> Choices:
    """A square layer, or one of these sides, with its singular values on the diagonal."""
    rows, columns = sides or (len(singular_values),) * 2
    matrix = torch.zeros(rows, columns)
    matrix.diagonal()[: len(singular_values)] = torch.tensor(singular_values)
    return Choices.of(Decomposition.of(matrix))


ONE = layer(5.0, *[0.1] * 9)
"""10 x 10 with nearly all energy in one direction: 20 numbers for each rank up to 4, and 100 for the whole."""
FLAT = layer(*[1.0] * 10)
"""10 x 10 whose directions are alike."""
STEEP = layer(*[0.5**index for index in range(10)])
"""10 x 10 in which each direction has a quarter of the energy of the one before."""


def size(layers: Sequence[Choices], cut: RankAssignment) -> int:
    return sum(its.sizes[its.ranks.index(rank)] for its, rank in zip(layers, cut, strict=True))


def shares(layers: Sequence[Choices], cut: RankAssignment) -> list[float]:
    return [its.shares[its.ranks.index(rank)] for its, rank in zip(layers, cut, strict=True)]


# ---------------------------------------------------------------- what a layer can be


def test_a_layer_has_the_ranks_at_which_it_is_smaller_and_else_is_whole() -> None:
    assert (FLAT.ranks, FLAT.sizes) == ((1, 2, 3, 4, None), (20, 40, 60, 80, 100))
    assert FLAT.shares == pytest.approx((0.1, 0.2, 0.3, 0.4, 1.0))
    # of rank 2: at it nothing is lost
    assert (layer(2.0, 1.0, sides=(10, 10)).ranks, layer(2.0, 1.0, sides=(10, 10)).shares) == ((1, 2), (0.8, 1.0))
    assert layer(0.0, sides=(10, 10)).ranks == (1,), "of zeros too: there is no layer of rank 0"
    assert (layer(3.0, sides=(1, 5)).ranks, layer(3.0, sides=(1, 5)).sizes) == ((None,), (5,)), "no factors are smaller"
    assert (layer(sides=(0, 5)).ranks, layer(sides=(0, 5)).sizes) == ((None,), (0,)), "nothing is left of it"


@given(shapes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_uniform_ranks_are_those_of_the_rank_sweep_and_cost_as_much(shapes: list[tuple[int, int]], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weights = {f"{index}.weight": torch.randn(*shape, generator=draw) for index, shape in enumerate(shapes)}
    policy = DecomposedPolicy(Shrunken(weights, {}, {name: Matrix("linear") for name in weights}))
    layers = [Choices.of(its) for its in policy.decompositions]
    for k in range(1, 14):
        cut = policy.cut(k)
        parameters = policy.cost(cut).parameters
        assert parameters == size(layers, cut)
        assert size(layers, uniform(layers, parameters)) == parameters
        assert cut == uniform(layers, parameters) or policy.cost(policy.cut(k + 1)).parameters == parameters


def test_the_default_budgets_are_what_the_ladder_stores() -> None:
    """The paper's network: 4 x 120 breaks even at 3, 120 x 84 at 49, 84 x 2 at 1."""
    sizes = [
        stored(120, 4, k if k <= 3 else None) + stored(84, 120, k) + stored(2, 84, k if k <= 1 else None)
        for k in (1, 2, 4, 8, 16, 32, 49)
    ]
    assert ladder_budgets([(120, 4), (84, 120), (2, 84)]) == sizes
    assert sizes[0] == 124 + 204 + 86


# ---------------------------------------------------------------- worked examples


def test_energy_and_budget_give_a_flat_layer_what_a_steep_one_does_not_need() -> None:
    """Within 100 numbers of the 200: uniform has rank 2 and leaves 20 over. One direction of ONE has 99.6 % of its energy."""
    assert uniform([ONE, FLAT], 100) == (2, 2)
    assert by_energy([ONE, FLAT], 100) == (1, 4)
    assert by_budget([ONE, FLAT], 100) == (1, 4)
    # 20 more are enough for the whole of FLAT, of which the last 20 numbers have 60 % of the energy
    assert uniform([ONE, FLAT], 120) == (3, 3)
    assert by_energy([ONE, FLAT], 120) == (1, None)
    assert by_budget([ONE, FLAT], 120) == (1, None)


def test_by_energy_a_share_is_kept_of_every_layer() -> None:
    """STEEP has 0.75 of its energy in one direction and 0.94 in two; FLAT has to be whole to keep more than 0.4."""
    assert by_energy([STEEP, FLAT], 119) == (1, 4)
    assert by_energy([STEEP, FLAT], 120) == (1, None), "a share of 0.75"
    assert by_energy([STEEP, FLAT], 140) == (2, None), "a share of 0.94"
    assert by_energy([STEEP, FLAT], 200) == (None, None)


def test_by_budget_the_step_of_most_energy_per_number_is_next() -> None:
    """STEEP's second direction adds 0.19 for 20 numbers, its third 0.05. FLAT's next one 0.1, and its whole 0.9 for 80."""
    assert by_budget([STEEP, FLAT], 40) == (1, 1)
    assert by_budget([STEEP, FLAT], 60) == (2, 1), "the whole of FLAT does not fit"
    assert by_budget([STEEP, FLAT], 80) == (2, 2)
    assert by_budget([STEEP, FLAT], 120) == (1, None), "0.9 / 80 is more than 0.19 / 20"
    assert by_budget([STEEP, FLAT], 140) == (2, None)


def test_by_budget_a_number_counts_more_in_a_small_layer() -> None:
    """Equal shares for 20 numbers of the one and 110 of the other."""
    wide = layer(*[0.5**index for index in range(10)], sides=(10, 100))
    assert by_budget([STEEP, wide], 20 + 110 + 60) == (4, 1)


@pytest.mark.parametrize("way", SPECTRAL)
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_of_layers_that_are_alike_every_way_makes_uniform_ranks(way: Callable[..., RankAssignment], rank: int) -> None:
    layers = [STEEP] * 3
    assert way(layers, 3 * 20 * rank) == (rank,) * 3


def test_by_return_layers_that_are_alike_end_at_uniform_ranks() -> None:
    """Of equal returns the layer is lowered that loses the smallest share."""
    found = dict(by_return([STEEP] * 3, [60, 120, 180, 240], lambda cuts: [500.0] * len(cuts)))
    assert found == {60: (1, 1, 1), 120: (2, 2, 2), 180: (3, 3, 3), 240: (4, 4, 4)}


# ---------------------------------------------------------------- by return


def additive(cuts: Sequence[RankAssignment]) -> list[float]:
    """A return to which the flat layer's rank adds nothing, and each rank of the steep one 10, so spectra mislead."""
    return [10.0 * (5 if steep is None else steep) for steep, _ in cuts]


def test_by_return_finds_the_best_ranks_of_a_known_return() -> None:
    """The best of all ranks within each budget, where by energy and by budget the useless layer is the one that grows."""
    layers = [STEEP, FLAT]
    for budget, cut in by_return(layers, range(40, 201, 20), additive):
        fitting = [its for its in product(STEEP.ranks, FLAT.ranks) if size(layers, its) <= budget]
        assert additive([cut]) == [max(additive(fitting))]
    assert dict(by_return(layers, [120], additive)) == {120: (None, 1)}
    assert by_energy(layers, 120) == by_budget(layers, 120) == (1, None)


def test_by_return_a_budget_has_the_same_ranks_alone_among_others_and_gone_on_with() -> None:
    def evaluate(cuts: Sequence[RankAssignment]) -> list[float]:
        return [math.sin(sum(7 * (rank or 9) ** 2 * index for index, rank in enumerate(cut, 1))) for cut in cuts]

    layers = [STEEP, FLAT, ONE]
    budgets = range(60, 301, 20)
    together = dict(by_return(layers, budgets, evaluate))
    assert [*together] == sorted(budgets, reverse=True)
    for larger, budget in pairwise(together):
        assert dict(by_return(layers, [budget], evaluate)) == {budget: together[budget]}
        assert dict(by_return(layers, [budget], evaluate, together[larger])) == {budget: together[budget]}


def test_by_return_no_number_is_the_lowest_return() -> None:
    def evaluate(cuts: Sequence[RankAssignment]) -> list[float]:
        return [-5.0 if steep is None else math.nan for steep, _ in cuts]

    assert dict(by_return([STEEP, FLAT], [120], evaluate)) == {120: (None, 1)}


def test_by_return_evaluates_no_more_than_it_says_and_nothing_where_there_is_no_choice() -> None:
    evaluated: list[RankAssignment] = []

    def evaluate(cuts: Sequence[RankAssignment]) -> list[float]:
        evaluated.extend(cuts)
        return [0.0] * len(cuts)

    assert dict(by_return([STEEP, FLAT], [200], evaluate)) == {200: (None, None)}
    assert evaluated == [], "all of it fits"
    assert dict(by_return([STEEP], [20], evaluate)) == {20: (1,)}
    assert evaluated == [], "of one layer there is one to lower"
    assert dict(by_return([STEEP, FLAT], [40], evaluate)) == {40: (1, 1)}
    assert 0 < len(evaluated) <= most_evaluations([STEEP, FLAT]) == (4 + 4) * 2


def test_by_return_large_layers_are_lowered_by_a_sixteenth() -> None:
    assert [lower(place) for place in (1, 31, 32, 49, 160)] == [0, 30, 30, 46, 150]


# ---------------------------------------------------------------- what holds for all

SPECTRA = st.lists(
    st.tuples(st.integers(1, 14), st.integers(1, 14), st.lists(st.floats(0.0, 4.0, width=16), min_size=14, max_size=14)),
    min_size=1,
    max_size=4,
)
"""Of each layer its sides and singular values, in any order."""


def layers_of(spectra: Sequence[tuple[int, int, list[float]]]) -> list[Choices]:
    return [layer(*values[: min(rows, columns)], sides=(rows, columns)) for rows, columns, values in spectra]


def whole(layers: Sequence[Choices]) -> int:
    return sum(its.sizes[-1] for its in layers)


@given(spectra=SPECTRA, part=st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_no_way_exceeds_a_budget_and_all_of_it_is_kept_where_that_fits(
    spectra: list[tuple[int, int, list[float]]], part: float
) -> None:
    layers = layers_of(spectra)
    budget = smallest(layers) + int(part * (whole(layers) - smallest(layers)))
    cuts = [way(layers, budget) for way in SPECTRAL]
    cuts += dict(by_return(layers, [budget], lambda cuts: [float(hash(cut) % 97) for cut in cuts])).values()
    assert max(size(layers, cut) for cut in cuts) <= budget
    for way in SPECTRAL:
        assert shares(layers, way(layers, whole(layers))) == [1.0] * len(layers)


@given(spectra=SPECTRA)
@settings(deadline=None, max_examples=30)
def test_a_larger_budget_never_keeps_less(spectra: list[tuple[int, int, list[float]]]) -> None:
    """In each layer under uniform and energy; under budget in the sum of shares, which it chooses by."""
    layers = layers_of(spectra)
    budgets = range(smallest(layers), whole(layers) + 1, 1 + whole(layers) // 40)
    for way in (uniform, by_energy):
        kept = [shares(layers, way(layers, budget)) for budget in budgets]
        assert all(a <= b for less, more in pairwise(kept) for a, b in zip(less, more, strict=True))
    sums = [sum(shares(layers, by_budget(layers, budget))) for budget in budgets]
    assert all(less <= more + 1e-9 for less, more in pairwise(sums)), "but for rounding"


@pytest.mark.parametrize("way", [*SPECTRAL, lambda layers, budget: dict(by_return(layers, [budget], additive))])
def test_a_budget_below_rank_1_is_refused(way: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="the budget is 39, and at rank 1 the network stores 40 numbers"):
        way([STEEP, FLAT], 39)
