"""The pieces of a population. That a whole member equals its solo run is tested in test_members.py."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparserl.population.members import Population
from sparserl.population.random import Generators, MemberRng, SharedDraws, _Block
from sparserl.population.state import State, split, stack

CPU = torch.device("cpu")


# ---------------------------------------------------------------- random numbers


def test_a_members_numbers_do_not_depend_on_the_others() -> None:
    together = Generators((3, 5, 7), "replay", CPU)
    alone = Generators((5,), "replay", CPU)
    for shape in ((4,), (2, 3), (1,), (1000,)):
        assert torch.equal(together.uniform(*shape)[1], alone.uniform(*shape)[0])


def test_seeds_and_streams_give_different_numbers() -> None:
    draws = [Generators((seed,), stream, CPU).uniform(4) for seed in (0, 1, 2**40) for stream in ("gates", "replay", "init")]
    # two equal draws of four numbers of 24 bits have a chance of 2^-96
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 9


@pytest.mark.parametrize("seed", [0, 5, 2**40, 2**100])
def test_a_stream_is_numpys_mersenne_twister_of_the_same_seed_sequence(seed: int) -> None:
    """All 624 words of the state are the stream's own; ``manual_seed`` would leave but 2**32 streams."""
    twister = np.random.MT19937(np.random.SeedSequence(entropy=seed, spawn_key=(zlib.crc32(b"replay"),)))
    twister.random_raw()  # NumPy's first number is one that torch's generator passes over
    expected = (twister.random_raw(2000) % 2**24) / 2**24  # torch makes a float32 of the lowest 24 bits; more than 624 of them
    assert Generators((seed,), "replay", CPU).uniform(2000).flatten().tolist() == expected.tolist()


def test_a_stream_can_be_told_by_the_initial_seed_of_its_generator() -> None:
    assert len({Generators((seed,), stream, CPU)[0].initial_seed() for seed in (0, 1) for stream in ("init", "replay")}) == 4


def test_places_in_a_large_ring_are_drawn_evenly() -> None:
    """Of 2**24 places of a float32, some of 12 million rows would have two and others one, and be drawn half as often."""
    rows, draws = 12_000_000, 200_000
    places = (np.arange(2**24) * rows) >> 24
    has_two = np.bincount(places, minlength=rows) == 2
    share = has_two.mean()  # 0.398 of the rows, which a float32 would draw in 0.570 of all cases
    drawn = Population((0,)).rng("replay").below(rows, draws)[0].numpy()
    assert (drawn.min() >= 0, drawn.max() < rows) == (True, True)
    # the standard error is sqrt(0.398 * 0.602 / 200,000) = 0.0011; five of them
    assert abs(has_two[drawn].mean() - share) < 0.0055
    by_float = places[np.random.default_rng(0).integers(2**24, size=draws)]
    assert has_two[by_float].mean() > share + 0.15


@pytest.mark.parametrize("bound", [1, 2, 7, 2**40])
def test_whole_numbers_are_below_their_bound_and_a_members_own(bound: int) -> None:
    both, alone = (Population(seeds).rng("replay").below(bound, 3, 100) for seeds in ((0, 1), (1,)))
    assert both.shape == (2, 3, 100)
    assert ((both >= 0) & (both < bound)).all()
    assert torch.equal(both[1:], alone)
    assert (both.unique().numel() == 1) == (bound == 1)


def test_uniform_numbers_are_uniform() -> None:
    numbers = Generators((0, 1), "init", CPU).uniform(100_000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # mean 1/2, standard error sqrt(1/12/n) = 0.0009; variance 1/12, standard error sqrt(1/180/n) = 0.0002; five of them
    assert (numbers.mean(dim=1) - 1 / 2).abs().max() < 0.0046
    assert (numbers.var(dim=1) - 1 / 12).abs().max() < 0.0012


def test_normal_numbers_are_normal_and_a_members_own() -> None:
    numbers = Population((0, 1)).rng("init").normal(100_000)
    # mean 0, standard error 1/sqrt(n) = 0.0032; variance 1, standard error sqrt(2/n) = 0.0045; beyond 2: 4.55 %, standard
    # error 0.07 %; five of each
    assert numbers.mean(dim=1).abs().max() < 0.016
    assert (numbers.var(dim=1) - 1).abs().max() < 0.023
    assert ((numbers.abs() > 2).double().mean(dim=1) - 0.0455).abs().max() < 0.0033
    for size in (1, 5, 100_000):  # torch draws fewer than 16 another way
        both, alone = (Population(seeds).rng("update").normal(size) for seeds in ((0, 1), (1,)))
        assert torch.equal(both[1:], alone)
        assert not torch.equal(both[0], both[1])


def test_generators_go_on_from_their_state() -> None:
    generators = Generators((1, 2), "gates", CPU)
    generators.uniform(7)
    state = generators.state_dict()
    expected = generators.uniform(5)
    fresh = Generators((1, 2), "gates", CPU)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.uniform(5), expected)
    reordered = Generators((2, 1), "gates", CPU)
    reordered.load_state_dict(stack([split(state, 1), split(state, 0)]))
    assert torch.equal(reordered.uniform(5), expected.flip(0))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Block, "size", 10)


@pytest.mark.usefixtures("small_blocks")
def test_small_pieces_are_the_blocks_of_the_generator_in_order() -> None:
    rng = Population((4, 9)).rng("exploration")
    blocks = Population((4, 9)).generators("exploration")
    # 3 + 6 + 1 of the first ten; 2 + 4 of the next, of which four are left over when 24 are asked for
    first, second, third = blocks.uniform(10), blocks.uniform(10), blocks.uniform(24)
    assert torch.equal(rng.uniform(3), first[:, :3])
    assert torch.equal(rng.uniform(2, 3), first[:, 3:9].reshape(2, 2, 3))
    assert torch.equal(rng.uniform(1), first[:, 9:])
    assert torch.equal(rng.uniform(2), second[:, :2])
    assert torch.equal(rng.uniform(4), second[:, 2:6])
    assert torch.equal(rng.uniform(4, 6), third.reshape(2, 4, 6))


@pytest.mark.usefixtures("small_blocks")
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=12))
@settings(deadline=None)
def test_numbers_of_several_times_are_those_of_one_time_after_another(asked: list[tuple[int, int]]) -> None:
    """At the end of a block too, where what is left of it is too little for one time and is left out."""
    at_once, by_one = (MemberRng(Population((3, 4)).generators("replay")) for _ in range(2))
    for block in (its for rng in (at_once, by_one) for its in (rng._uniforms, rng._normals, rng._integers)):
        block.size = 13  # type: ignore[misc]
    for times, size in asked:
        bounds = [*range(2, 2 + times)]
        for found, single in (
            (at_once.uniforms(times, size, 2), lambda _, size=size: by_one.uniform(size, 2)),
            (at_once.normals(times, size), lambda _, size=size: by_one.normal(size)),
            (at_once.below_each(bounds, size), lambda bound, size=size: by_one.below(bound, size)),
        ):
            assert found.is_contiguous()
            assert torch.equal(found, torch.stack([single(bound) for bound in bounds]))


def test_no_number_is_handed_out_twice() -> None:
    rng = Population((0,)).rng("replay")
    numbers = torch.cat([rng.uniform(size).flatten() for size in (1, 4, 5, 1, 9, 2, 30, 3, 10, 10)])
    # 75 numbers of 24 bits: the chance that any two are equal is below 75^2 / 2^25 = 2e-4, and the seed is fixed
    assert numbers.unique().numel() == numbers.numel() == 75


def test_shared_draws_are_those_of_all_members_made_once() -> None:
    """Takers that ask for the same get their own members' parts, and the stream goes on as after one taker."""
    members = Population((3, 4, 5))
    rng, other = members.rng("exploration"), members.rng("exploration")
    shared = SharedDraws(rng)
    takers = [shared.of(rows) for rows in (slice(0, 1), slice(1, 3))]
    taken = [(its.uniform(2, 2), its.normal(3), its.below(10, 4)) for its in takers]
    expected = [other.uniform(2, 2), other.normal(3), other.below(10, 4)]
    for its, parts in zip(takers, ((3,), (1, 2)), strict=True):  # several times at once, however they are divided
        found = [draw(times, 3) for draw in (its.uniforms, its.normals) for times in parts]
        taken[takers.index(its)] += tuple(torch.cat(found).unbind(0))
    for draw in (other.uniforms, other.normals):
        expected += draw(3, 3).unbind(0)
    for number, whole in enumerate(expected):
        assert torch.equal(torch.cat([its[number] for its in taken]), whole)
    assert torch.equal(rng.uniform(5), other.uniform(5))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("used", [0, 3, 10])
def test_numbers_go_on_from_their_state_within_a_block(used: int) -> None:
    """Uniform and normal numbers, whichever is asked for first."""
    rng = Population((4, 9)).rng("replay")
    rng.uniform(used), rng.normal(2 * used)
    state = rng.state_dict()
    alone = Population((9,)).rng("replay")
    alone.load_state_dict(stack([split(state, 1)]))
    for size in (4, 4, 11):
        assert torch.equal(rng.uniform(size)[1], alone.uniform(size)[0])
        assert torch.equal(rng.normal(size)[1], alone.normal(size)[0])


# ---------------------------------------------------------------- states

common = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


@st.composite
def states(draw: st.DrawFn, members: int) -> State:
    """Any nesting of dictionaries and lists; at its ends tensors [member, ...], a tensor of each member, or common values."""

    def tensor(shape: list[int]) -> Tensor:
        count = members * int(torch.tensor(shape).prod()) if shape else members
        return torch.arange(count, dtype=torch.float32).view(members, *shape)

    sizes = st.lists(st.integers(0, 4), min_size=members, max_size=members)
    one_of_each = sizes.map(lambda its: tuple(torch.arange(float(size)) for size in its))
    leaves = common | st.lists(st.integers(0, 3), max_size=2).map(tensor) | one_of_each
    nested = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    )
    return draw(nested)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@given(data=st.data(), members=st.integers(1, 4))
@settings(deadline=None)
def test_stack_is_the_inverse_of_split(data: st.DataObject, members: int) -> None:
    state = data.draw(states(members))
    assert same(stack([split(state, member) for member in range(members)]), state)


def test_split_takes_one_member_and_shares_no_memory() -> None:
    state = {"weights": torch.arange(6.0).view(3, 2), "steps": 4, "seen": (torch.ones(1), torch.arange(2.0), torch.ones(0))}
    member = split(state, 1)
    assert member["steps"] == 4
    state["weights"].zero_()
    state["seen"][1].zero_()
    assert member["weights"].tolist() == [2.0, 3.0]
    assert [tensor.tolist() for tensor in member["seen"]] == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("one", "other"),
    [({"steps": 3}, {"steps": 4}), ({"a": [{"step": 1}, None]}, {"a": [{"step": 2}, None]}), ("done", "failed")],
)
def test_members_that_disagree_on_a_common_value_cannot_be_stacked(one: State, other: State) -> None:
    with pytest.raises(ValueError, match="disagree"):
        stack([one, other])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ([1], [1, 2]),
        # one member's optimiser has been stepped, the other's has not
        ([None], [{"step": 1}]),
        ([{"step": 1}], [None]),
    ],
)
def test_members_whose_states_are_built_differently_cannot_be_stacked(one: State, other: State) -> None:
    with pytest.raises(ValueError, match=r".+"):
        stack([one, other])
