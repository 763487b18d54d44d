from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparserl.environments.cartpole import CartPole
from sparserl.experience.replay import Replay
from sparserl.population.members import Population
from sparserl.population.state import split, stack
from sparserl.types import Batch, Rollout, Transition

BASE = 1000
"""More than any test has steps or sub-environments, so that a member, a step and a sub-environment make one number."""


def transition(members: int, envs: int, step: int) -> Transition:
    """One step of every sub-environment; each number in it says from which member, step and sub-environment it is."""
    member = torch.arange(members).view(-1, 1)
    name = (member * BASE + step) * BASE + torch.arange(envs)
    return {
        "observation": torch.stack([name, -name], dim=-1).float(),
        "next_observation": torch.stack([name + 1, -name - 1], dim=-1).float(),
        "action": name,
        "reward": name.float(),
        "terminated": (name % 2).float(),
        "truncated": (name % 3).float(),
    }


def begin(experience: Replay, members: Population) -> None:
    experience.begin(members, CartPole(500).spec(), CartPole(500).relabel)


def replay(members: Population, capacity: int, batch_size: int, learning_starts: int = 0, train_freq: int = 1) -> Replay:
    experience = Replay(capacity, batch_size, learning_starts, train_freq, n_step=1, gamma=0.99)
    begin(experience, members)
    return experience


def never(_: Rollout) -> Batch:
    raise AssertionError("what is sampled one by one is no rollout to prepare")


def due(experience: Replay) -> list[Batch]:
    return [selection.batch() for selection in experience.selections(never)]


def population(size: int) -> Population:
    return Population(tuple(range(100, 100 + size)))


class ListReplay:
    """What a replay is, written without a thought for speed: for each member a list of rows, the oldest dropped."""

    def __init__(self, members: int, capacity: int) -> None:
        self.buffer_size = capacity
        self.rows: list[list[dict[str, Tensor]]] = [[] for _ in range(members)]

    def extend(self, fields: Transition) -> None:
        for member, rows in enumerate(self.rows):
            for env in range(fields["reward"].shape[1]):
                rows.append({name: value[member, env] for name, value in fields.items()})
            del rows[: -self.buffer_size]


@given(
    members=st.integers(1, 3),
    capacity=st.integers(1, 12),
    envs=st.integers(1, 12),
    steps=st.integers(1, 12),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_what_can_be_sampled_is_what_a_list_of_the_last_rows_holds(
    members: int, capacity: int, envs: int, steps: int, data: st.DataObject
) -> None:
    envs = min(envs, capacity)
    # a batch misses one of at most 12 rows with a chance below 12 (11/12)^400 = 1e-14
    experience, naive = (
        replay(population(members), capacity, batch_size=400, train_freq=envs),
        ListReplay(members, capacity),
    )
    for step in range(steps):
        experience.extend(transition(members, envs, step))
        naive.extend(transition(members, envs, step))
        (batch,) = due(experience)
        assert experience.size == len(naive.rows[0])
        for member in range(members):
            by_name = {int(row["action"]): row for row in naive.rows[member]}
            assert set(batch["action"][member].tolist()) == by_name.keys()
            sampled = data.draw(st.integers(0, 399))
            row = by_name[int(batch["action"][member, sampled])]
            assert batch.keys() == row.keys()
            for name, value in row.items():
                assert torch.equal(batch[name][member, sampled], value)
                assert batch[name].dtype == value.dtype


@given(members=st.integers(1, 3), envs=st.integers(1, 4), batch_size=st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_a_batch_has_the_shapes_of_the_transition_with_batch_for_env(members: int, envs: int, batch_size: int) -> None:
    experience = replay(population(members), 10, batch_size)
    fields = transition(members, envs, 0) | {"image": torch.zeros(members, envs, 2, 3, 4, dtype=torch.uint8)}
    experience.extend(fields)
    for batch in due(experience):
        assert {n: b.shape for n, b in batch.items()} == {n: (members, batch_size, *f.shape[2:]) for n, f in fields.items()}
        assert batch["image"].dtype == torch.uint8


# ---------------------------------------------------------------- when


@given(
    envs=st.integers(1, 9),
    train_freq=st.integers(1, 12),
    learning_starts=st.integers(0, 40),
    steps=st.integers(1, 40),
)
@settings(deadline=None)
def test_gradient_steps_are_paid_for_by_environment_steps(envs: int, train_freq: int, learning_starts: int, steps: int) -> None:
    experience = replay(population(1), 20, 1, learning_starts, train_freq)
    # the first step of the loop after which more than `learning_starts` transitions have been seen is the first to pay
    unpaid = learning_starts // envs * envs
    total = 0
    for step in range(1, steps + 1):
        is_due = experience.steps_left(envs) == 1
        experience.extend(transition(1, envs, step))
        batches = due(experience)
        total += len(batches)
        assert total == max(0, step * envs - unpaid) // train_freq
        assert bool(batches) == is_due


@given(envs=st.integers(1, 12), train_freq=st.integers(1, 12), learning_starts=st.integers(0, 40), before=st.integers(0, 30))
@settings(deadline=None)
def test_it_says_when_something_is_learned_next(envs: int, train_freq: int, learning_starts: int, before: int) -> None:
    experience = replay(population(1), 20, 1, learning_starts, train_freq)
    for step in range(before):
        experience.extend(transition(1, envs, step))
        due(experience)
    *early, last = range(experience.steps_left(envs))
    for step in early:
        experience.extend(transition(1, envs, before + step))
        assert due(experience) == []
    experience.extend(transition(1, envs, before + last))
    assert due(experience)


@pytest.mark.parametrize(
    ("envs", "train_freq", "learning_starts", "counts"),
    [
        # one sub-environment, nothing to wait for: a batch every third step
        (1, 3, 0, [0, 0, 1, 0, 0, 1, 0]),
        # four at once and a batch for every three steps: 4, 8, 12 steps pay for 1, 2, 4 batches in all
        (4, 3, 0, [1, 1, 2, 1, 1, 2, 1]),
        # two at once, the first four steps are too early (4 is not more than 4), then 2, 4, 6 ... steps pay
        (2, 4, 4, [0, 0, 0, 1, 0, 1, 0]),
        # three at once: 9 is the first multiple of 3 beyond 7
        (3, 1, 7, [0, 0, 3, 3, 3, 3, 3]),
        # fewer batches than steps of the loop, also with several sub-environments
        (2, 10, 0, [0, 0, 0, 0, 1, 0, 0]),
    ],
)
def test_batches_come_at_the_right_steps(envs: int, train_freq: int, learning_starts: int, counts: list[int]) -> None:
    experience = replay(population(2), 20, 1, learning_starts, train_freq)
    seen = []
    for step in range(len(counts)):
        experience.extend(transition(2, envs, step))
        seen.append(len(due(experience)))
    assert seen == counts


def test_every_batch_is_drawn_anew() -> None:
    experience = replay(population(1), 1000, batch_size=50, train_freq=1)
    for step in range(500):
        experience.extend(transition(1, 2, step))
        due(experience)
    experience.extend(transition(1, 2, 500))
    first, second = due(experience)
    # 50 rows out of a thousand are the same ones again with a chance of 1000^-50
    assert not torch.equal(first["action"], second["action"])


def test_nothing_is_due_before_anything_was_seen() -> None:
    assert due(replay(population(1), 10, 5)) == []


# ---------------------------------------------------------------- how


@pytest.mark.parametrize("seen", [13, 20, 33], ids=["not yet full", "just full", "overwritten"])
def test_sampling_is_uniform(seen: int) -> None:
    capacity, draws = 20, 20_000
    experience = replay(population(3), capacity, batch_size=draws, learning_starts=seen - 1)
    for step in range(seen):
        experience.extend(transition(3, 1, step))
    (batch,) = due(experience)
    size = min(seen, capacity)
    for member in range(3):
        steps = batch["action"][member] // BASE % BASE
        observed = torch.bincount(steps - (seen - size), minlength=size).double()
        chi_square = ((observed - draws / size).square() / (draws / size)).sum()
        # the chance of a larger value under uniform sampling: one of the nine here falls below 1e-6 once in 1e5 seeds,
        # while leaving a single row out, or doubling it, gives a chi-square of a thousand and a chance of 1e-200
        assert chance_of_chi_square(float(chi_square), degrees=size - 1) > 1e-6


def chance_of_chi_square(value: float, degrees: int) -> float:
    return float(torch.special.gammaincc(torch.tensor(degrees / 2).double(), torch.tensor(value / 2).double()))


def test_one_batch_is_drawn_with_replacement() -> None:
    experience = replay(population(1), 100, batch_size=100, learning_starts=99)
    for step in range(100):
        experience.extend(transition(1, 1, step))
    (batch,) = due(experience)
    # the share of 100 rows met in 100 draws is 1 - (1 - 1/100)^100 = 0.634 +- 0.031; without replacement it is 1
    assert 45 <= batch["action"].unique().numel() <= 80


def test_members_draw_from_their_own_ring_with_their_own_numbers() -> None:
    experience = replay(population(3), 50, batch_size=40)
    for step in range(60):
        experience.extend(transition(3, 1, step))
        batches = due(experience)
    action = batches[-1]["action"]
    assert (action // BASE**2).tolist() == [[member] * 40 for member in range(3)]
    steps = action // BASE % BASE
    # two of three members choose the same 40 of 50 rows with a chance of 3 * 50^-40
    assert len({tuple(row) for row in steps.tolist()}) == 3


def test_what_a_member_samples_does_not_depend_on_the_others() -> None:
    together, alone = replay(Population((7, 8, 9)), 30, 16), replay(Population((8,)), 30, 16)
    for step in range(20):
        fields = transition(3, 2, step)
        together.extend(fields)
        alone.extend({name: value[1:2] for name, value in fields.items()})
        for batch, solo in zip(due(together), due(alone), strict=True):
            for name, value in solo.items():
                assert torch.equal(batch[name][1:2], value)


# ---------------------------------------------------------------- going on


@given(
    capacity=st.integers(3, 12),
    envs=st.integers(1, 3),
    train_freq=st.integers(1, 7),
    learning_starts=st.integers(0, 20),
    before=st.integers(0, 12),
)
@settings(deadline=None, max_examples=60)
def test_a_replay_goes_on_from_its_state_in_any_order_of_members(
    capacity: int, envs: int, train_freq: int, learning_starts: int, before: int
) -> None:
    def feed(experience: Replay, fields: Transition) -> list[Batch]:
        experience.extend(fields)
        return due(experience)

    uninterrupted = replay(Population((5, 6)), capacity, 4, learning_starts, train_freq)
    for step in range(before):
        feed(uninterrupted, transition(2, envs, step))
    kept = [split(uninterrupted.state_dict(), member) for member in range(2)]

    # member 1 goes on alone, and both go on in the other order
    alone = replay(Population((6,)), capacity, 4, learning_starts, train_freq)
    alone.load_state_dict(stack([kept[1]]))
    swapped = replay(Population((6, 5)), capacity, 4, learning_starts, train_freq)
    swapped.load_state_dict(stack([kept[1], kept[0]]))
    assert alone.size == swapped.size == uninterrupted.size

    for step in range(before, before + 10):
        fields = transition(2, envs, step)
        expected = feed(uninterrupted, fields)
        solo = feed(alone, {name: value[1:] for name, value in fields.items()})
        other = feed(swapped, {name: value.flip(0) for name, value in fields.items()})
        assert len(expected) == len(solo) == len(other)
        for batch, of_solo, of_other in zip(expected, solo, other, strict=True):
            for name, value in batch.items():
                assert torch.equal(of_solo[name], value[1:])
                assert torch.equal(of_other[name], value.flip(0))


def test_beginning_again_forgets_everything() -> None:
    experience = replay(population(1), 10, 64)
    experience.extend(transition(1, 3, 0))
    begin(experience, population(1))
    assert experience.size == 0
    assert due(experience) == []
    experience.extend(transition(1, 3, 5))
    assert set((due(experience)[0]["action"] // BASE).flatten().tolist()) == {5}


@pytest.mark.parametrize(("capacity", "envs"), [(1, 2), (3, 4), (5, 100)])
def test_a_step_that_is_larger_than_the_ring_is_refused(capacity: int, envs: int) -> None:
    experience = replay(population(1), capacity, 1)
    with pytest.raises(ValueError, match=f"experience.buffer_size is {capacity}.*{envs} transitions"):
        experience.extend(transition(1, envs, 0))
