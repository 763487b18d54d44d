"""Returns over several steps, against a list of what happened and by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay import begin, due, population

from sparserl.experience.replay import DISCOUNT, Replay
from sparserl.experience.selection import PLACE
from sparserl.population.members import Population
from sparserl.types import Transition

GAMMA = 0.5
"""Its powers, and so the returns of whole rewards, are exact."""


def replay(
    members: Population, capacity: int, batch_size: int, n_step: int, train_freq: int = 1, learning_starts: int = 0
) -> Replay:
    experience = Replay(capacity, batch_size, learning_starts, train_freq, n_step, GAMMA)
    begin(experience, members)
    return experience


def step(reward: torch.Tensor, number: int, ended: torch.Tensor) -> Transition:
    """``ended`` ``[member, env]`` is 1 where an episode is terminated, 2 where truncated. The action says which row it is."""
    members, envs = reward.shape
    name = torch.arange(members).view(-1, 1) * 10_000 + number * envs + torch.arange(envs)
    return {
        "observation": torch.stack([name, -name], dim=-1).float(),
        "next_observation": torch.stack([name + 0.5, -name - 0.5], dim=-1).float(),
        "action": name,
        "reward": reward.float(),
        "terminated": (ended == 1).float(),
        "truncated": (ended == 2).float(),
    }


@given(
    members=st.integers(1, 3),
    capacity=st.integers(3, 40),
    envs=st.integers(1, 3),
    steps=st.integers(1, 30),
    n_step=st.integers(2, 5),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_returns_are_those_of_the_steps_that_follow_in_the_same_episode(
    members: int, capacity: int, envs: int, steps: int, n_step: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    experience = replay(population(members), capacity, 64, n_step, train_freq=envs)
    seen: list[Transition] = []
    for number in range(steps):
        reward = torch.randint(-3, 4, (members, envs), generator=generator)
        ended = torch.randint(0, 6, (members, envs), generator=generator)
        seen.append(step(reward, number, ended))
        experience.extend(seen[-1])
        (batch,) = due(experience)
    for member in range(members):
        for row in range(64):
            number, env = divmod(int(batch["action"][member, row]) - member * 10_000, envs)
            total, discount, last = 0.0, 1.0, number
            for last in range(number, min(number + n_step, steps)):
                total += discount * float(seen[last]["reward"][member, env])
                discount *= GAMMA
                if seen[last]["terminated"][member, env] or seen[last]["truncated"][member, env]:
                    break
            over = seen[last]["terminated"][member, env]
            assert batch["reward"][member, row] == total
            assert batch[DISCOUNT][member, row] == (0 if over else discount)
            for name in ("next_observation", "terminated", "truncated"):
                assert torch.equal(batch[name][member, row], seen[last][name][member, env])
            assert torch.equal(batch["observation"][member, row], seen[number]["observation"][member, env])


def test_it_goes_on_from_a_state_as_if_nothing_had_been() -> None:
    experience = replay(Population((5, 6)), 12, 8, n_step=3, train_freq=2)
    for number in range(9):
        experience.extend(step(torch.full((2, 2), number), number, torch.full((2, 2), number % 3)))
        due(experience)
    again = replay(Population((5, 6)), 12, 8, n_step=3, train_freq=2)
    again.load_state_dict(copy.deepcopy(experience.state_dict()))
    for number in range(9, 14):
        given = step(torch.full((2, 2), number), number, torch.full((2, 2), number % 3))
        for each in (experience, again):
            each.extend(given)
        (expected,), (found,) = due(experience), due(again)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(("ended", "discount"), [(0, GAMMA**3), (1, 0), (2, GAMMA)])
def test_by_hand(ended: int, discount: float) -> None:
    """The first of three steps with rewards 4, 2 and 1: 4 + 1 + 1/4, or 4 alone where an episode ends with it."""
    experience = replay(population(1), 10, 200, n_step=3, train_freq=3)
    for number, reward in enumerate((4, 2, 1)):
        experience.extend(step(torch.tensor([[reward]]), number, torch.tensor([[ended if number == 0 else 0]])))
    (batch,) = due(experience)
    first = (batch["action"][0] == 0).nonzero()[0, 0]  # one of three rows in 200 draws: missed with a chance of (2/3)^200
    assert batch["reward"][0, first] == (4 if ended else 5.25)
    assert batch[DISCOUNT][0, first] == discount


def test_what_a_minibatch_of_some_members_is_made_from_is_their_part() -> None:
    """Of members in the middle too, whose part of the ring begins where it is cut."""
    experience = replay(population(4), capacity=12, batch_size=16, n_step=3, train_freq=2)
    generator = torch.Generator().manual_seed(0)
    for number in range(9):  # more than the ring holds
        experience.extend(step(torch.randint(-3, 4, (4, 2), generator=generator), number, torch.zeros(4, 2)))
        (selection,) = experience.selections(lambda rollout: rollout)
    whole = selection.batch()
    for members in (slice(0, 1), slice(1, 3), slice(3, 4)):
        part = selection.of(members).batch()
        assert part.keys() == whole.keys()
        assert all(torch.equal(values, whole[name][members]) for name, values in part.items())


@given(st.integers(1, 6), st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_minibatches_of_steps_ahead_are_those_after_each_step(n_step: int, envs: int, sizes: list[int], before: int) -> None:
    """The ring is full soon, and ends in the middle of a step; steps that were put into it ahead are in it."""
    ordinary, ahead = (
        replay(population(3), capacity=17, batch_size=8, n_step=n_step, train_freq=envs, learning_starts=envs * before)
        for _ in range(2)
    )
    generator = torch.Generator().manual_seed(0)

    def another(number: int) -> Transition:
        ended = (torch.rand(3, envs, generator=generator) < 0.2).float()
        return step(torch.randint(-3, 4, (3, envs), generator=generator), number, ended)

    assert ahead.learns_each_step(envs)
    assert not ahead.learns_each_step(envs + 1)
    number = 0
    while not ahead.is_learning(envs):
        transition, number = another(number), number + 1
        for experience in (ordinary, ahead):
            experience.extend(transition)
            due(experience)
    for size in sizes:
        found = ahead.ahead(size, envs)
        assert found.steps == size
        part = found.of(slice(1, 2))
        for taken in range(size):
            transition, number = another(number), number + 1
            ordinary.extend(transition)
            (expected,) = due(ordinary)
            for its, members in ((found, slice(0, 3)), (part, slice(1, 2))):
                each = {name: tensor[taken] for name, tensor in its.each.items()}
                if its is found:
                    its.store.put(its.stored, transition, each[PLACE])
                batch = its.store({**its.stored, **its.fixed, **each})
                assert batch.keys() == expected.keys()
                assert all(torch.equal(values, expected[name][members]) for name, values in batch.items())
        ahead.learned(size)
        assert due(ahead) == []
    states = [experience.state_dict() for experience in (ordinary, ahead)]
    assert states[0]["seen"] == states[1]["seen"]
    assert all(torch.equal(tensor, states[1]["fields"][name]) for name, tensor in states[0]["fields"].items())
