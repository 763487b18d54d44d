"""Hindsight against a plain list of transitions: whose goals may be exchanged, how often, and what becomes of the rest."""

from __future__ import annotations

import copy
from contextlib import closing
from typing import Any

import pytest
import torch
from goals import goals
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparserl.environments.cartpole import CartPole
from sparserl.experience.hindsight import Hindsight
from sparserl.experience.replay import Replay
from sparserl.population.members import Population
from sparserl.population.state import split, stack
from sparserl.types import Batch, Rollout, Spec, Transition

BASE = 1000
"""More than any test has steps or sub-environments, so that a member, a step and a sub-environment make one number."""
SPEC = Spec((4,), discrete_actions=2, goal_size=2)


def relabel(achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
    """A reward that tells both goals apart; terminated where they are equal."""
    return achieved[..., 0] * 3 - desired[..., 0], (achieved == desired).all(dim=-1).float()


def transition(members: int, envs: int, step: int, ends: Tensor) -> Transition:
    """One step of every sub-environment. Whatever is achieved says from which member, step and sub-environment it is.

    ``ends [member, env]``: 0 where the episode goes on, 1 where it is terminated and 2 where it is truncated.
    """
    name = (torch.arange(members).view(-1, 1) * 20 + step) * 20 + torch.arange(envs)  # in float32 exact
    seen = torch.stack([name, -name, -1 - name, torch.full_like(name, -5)], dim=-1).float()
    return {
        "observation": seen,
        "next_observation": seen + torch.tensor([0.5, 0.5, -0.25, 0]),  # even where the goal moves within an episode
        "action": name,
        "reward": 0.5 + name,
        "terminated": (ends == 1).float(),
        "truncated": (ends == 2).float(),
        "achieved_goal": torch.stack([name, name * 2], dim=-1).float(),
    }


def begun(kind: Replay, members: Population) -> Any:
    kind.begin(members, SPEC, relabel)
    return kind


def hindsight(members: Population, capacity: int, batch_size: int, k: int = 4, train_freq: int = 1) -> Hindsight:
    experience: Hindsight = begun(Hindsight(capacity, batch_size, 0, train_freq, 1, 0.9, k), members)
    return experience


def never(_: Rollout) -> Batch:
    raise AssertionError("what is sampled one by one is no rollout to prepare")


def due(experience: Replay) -> list[Batch]:
    return [selection.batch() for selection in experience.selections(never)]


def is_relabelled(batch: Batch) -> Tensor:
    return batch["observation"][..., 3] != -5


class ListHindsight:
    """For each member a list of rows, the oldest dropped, and which achieved goals each row may get."""

    def __init__(self, members: int, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[list[dict[str, Any]]] = [[] for _ in range(members)]

    def extend(self, fields: Transition) -> None:
        for member, rows in enumerate(self.rows):
            for env in range(fields["reward"].shape[1]):
                rows.append({name: value[member, env] for name, value in fields.items()} | {"env": env})
            del rows[: -self.capacity]

    def goals_of(self, member: int, place: int) -> set[int]:
        rows = self.rows[member]
        found = set()
        for row in rows[place:]:
            if row["env"] == rows[place]["env"]:
                found.add(int(row["action"]))
                if row["terminated"] + row["truncated"] > 0:
                    break
        return found


@given(
    members=st.integers(1, 3),
    capacity=st.integers(1, 14),
    envs=st.integers(1, 5),
    waits=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    data=st.data(),
)
@settings(deadline=None, max_examples=80)
def test_a_goal_is_one_that_was_achieved_later_in_the_same_episode(
    members: int, capacity: int, envs: int, waits: list[int], data: st.DataObject
) -> None:
    """Rings of whatever size, several steps between two samples, ends of all kinds."""
    envs = min(envs, capacity)
    draws = 600
    experience, naive = hindsight(population(members), capacity, draws, k=3, train_freq=envs), ListHindsight(members, capacity)
    step = 0
    for wait in waits:
        for _ in range(wait):
            ends = data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=members * envs, max_size=members * envs))
            fields = transition(members, envs, step % 20, torch.tensor(ends).view(members, envs))
            experience.extend(fields)
            naive.extend(fields)
            step += 1
            if step % 20 == 0:
                return
        batch = due(experience)[-1]
        for member, rows in enumerate(naive.rows):
            assert set(batch["action"][member].tolist()) == {int(row["action"]) for row in rows}
            for place, row in enumerate(rows):
                here = batch["action"][member] == row["action"]
                mine, relabelled = (
                    {name: value[member, here] for name, value in batch.items()},
                    is_relabelled(batch)[member, here],
                )
                its_goals = mine["observation"][relabelled, 2]
                allowed = naive.goals_of(member, place)
                assert set(its_goals.int().tolist()) <= allowed
                # a row is drawn 600 / 14 = 43 times or more in the mean: that the 32 relabelled ones miss a goal may happen
                assert torch.equal(mine["observation"][relabelled, 3], 2 * its_goals)
                # what follows from the goal, and what has nothing to do with it
                assert torch.equal(mine["next_observation"][relabelled, 2:], mine["observation"][relabelled, 2:])
                assert torch.equal(mine["reward"][relabelled], row["achieved_goal"][0] * 3 - its_goals)
                assert torch.equal(mine["terminated"][relabelled], (its_goals == row["achieved_goal"][0]).float())
                for name in ("observation", "next_observation"):
                    assert (mine[name][:, :2] == row[name][:2]).all()
                for name in ("observation", "next_observation", "reward", "terminated"):
                    assert (mine[name][~relabelled] == row[name]).all()
                assert (mine["truncated"] == row["truncated"]).all()


def population(size: int) -> Population:
    return Population(tuple(range(100, 100 + size)))


@pytest.mark.parametrize("k", [1, 4])
def test_k_of_k_plus_1_are_relabelled_and_all_goals_from_then_on_are_equally_likely(k: int) -> None:
    experience, draws, steps, envs = hindsight(population(2), 100, 40_000, k, train_freq=12 * 3), 40_000, 12, 3
    for step in range(steps):
        # the episodes of the second sub-environment end after 8 steps, that of the others is under way
        experience.extend(transition(2, envs, step, torch.tensor([[0, 2 * (step == 7), 0]] * 2)))
    (batch,) = due(experience)
    share = is_relabelled(batch).double().mean(dim=1)
    # six standard deviations of a share of 40,000
    assert (share - k / (k + 1)).abs().max() < 6 * 0.5 / draws**0.5
    for env, start, end in ((0, 0, 12), (1, 0, 8), (1, 8, 12), (2, 0, 12)):
        for step in range(start, end):
            name = step * 20 + env
            chosen = is_relabelled(batch)[0] & (batch["action"][0] == name)
            counts = torch.bincount((batch["observation"][0, chosen, 2] - name).int() // 20, minlength=1).double()
            assert len(counts) == end - step, "every goal from this step to the episode's last, and no other"
            expected = counts.sum() / len(counts)
            chi_square = float((counts - expected).square().sum() / expected)
            # the chance that one of 36 x 2 uniform choices exceeds this is 72e-7; to leave one of twelve goals out gives 40
            assert chance_of_chi_square(chi_square, len(counts) - 1) > 1e-7


def chance_of_chi_square(value: float, degrees: int) -> float:
    return (
        1.0
        if degrees == 0
        else float(torch.special.gammaincc(torch.tensor(degrees / 2).double(), torch.tensor(value / 2).double()))
    )


def test_the_rest_is_sampled_as_by_replay() -> None:
    """The first uniforms of a batch are those of Replay, so the first batch has the same rows."""
    plain, experience = begun(Replay(50, 64, 0, 20, 1, 0.9), population(2)), hindsight(population(2), 50, 64, train_freq=20)
    for step in range(10):
        fields = transition(2, 2, step, torch.zeros(2, 2))
        plain.extend(fields)
        experience.extend(fields)
    (expected,), (batch,) = due(plain), due(experience)
    assert torch.equal(batch["action"], expected["action"])
    assert batch.keys() == expected.keys() - {"achieved_goal"}
    assert {name: value.dtype for name, value in batch.items()} == {name: expected[name].dtype for name in batch}


def test_an_episode_that_is_longer_than_the_ring_gives_goals_of_what_is_left_of_it() -> None:
    experience = hindsight(population(1), 7, 500, train_freq=2)
    for step in range(19):
        experience.extend(transition(1, 2, step, torch.zeros(1, 2)))
        batch = due(experience)[-1]
    its_goals = batch["observation"][is_relabelled(batch)][:, 2].int()
    # seven transitions of two sub-environments: steps 15 (the second only), 16, 17, 18
    assert set(its_goals.tolist()) == {15 * 20 + 1} | {step * 20 + env for step in (16, 17, 18) for env in (0, 1)}


def test_members_equal_their_solo_runs_and_end_where_they_end() -> None:
    together, alone = hindsight(Population((7, 8, 9)), 31, 16), hindsight(Population((8,)), 31, 16)
    draw = torch.Generator().manual_seed(0)
    for step in range(19):
        fields = transition(3, 2, step, torch.randint(0, 3, (3, 2), generator=draw))
        together.extend(fields)
        alone.extend({name: value[1:2] for name, value in fields.items()})
        for batch, solo in zip(due(together), due(alone), strict=True):
            assert batch.keys() == solo.keys()
            for name, value in solo.items():
                assert torch.equal(batch[name][1:2], value)


@given(
    capacity=st.integers(3, 12), envs=st.integers(1, 3), train_freq=st.integers(1, 7), before=st.integers(0, 12), data=st.data()
)
@settings(deadline=None, max_examples=40)
def test_it_goes_on_from_its_state_in_any_order_of_members(
    capacity: int, envs: int, train_freq: int, before: int, data: st.DataObject
) -> None:
    def feed(experience: Replay, fields: Transition) -> list[Batch]:
        experience.extend(fields)
        return due(experience)

    ends = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=38 * envs, max_size=38 * envs))).view(19, 2, envs)
    uninterrupted = hindsight(Population((5, 6)), capacity, 4, train_freq=train_freq)
    for step in range(before):
        feed(uninterrupted, transition(2, envs, step, ends[step]))
    kept = [split(uninterrupted.state_dict(), member) for member in range(2)]
    untouched = copy.deepcopy(kept)

    alone = hindsight(Population((6,)), capacity, 4, train_freq=train_freq)
    alone.load_state_dict(stack([kept[1]]))
    swapped = hindsight(Population((6, 5)), capacity, 4, train_freq=train_freq)
    swapped.load_state_dict(stack([kept[1], kept[0]]))
    for step in range(before, 19):
        fields = transition(2, envs, step, ends[step])
        expected = feed(uninterrupted, fields)
        solo = feed(alone, {name: value[1:] for name, value in fields.items()})
        other = feed(swapped, {name: value.flip(0) for name, value in fields.items()})
        for batch, of_solo, of_other in zip(expected, solo, other, strict=True):
            for name, value in batch.items():
                assert torch.equal(of_solo[name], value[1:])
                assert torch.equal(of_other[name], value.flip(0))
    assert torch.equal(kept[0]["last_step"], untouched[0]["last_step"])


def test_beginning_again_forgets_everything() -> None:
    experience = hindsight(population(1), 10, 64, train_freq=3)
    for step in range(3):
        experience.extend(transition(1, 3, step, torch.ones(1, 3)))
    begun(experience, population(1))
    assert due(experience) == []
    experience.extend(transition(1, 3, 5, torch.zeros(1, 3)))
    (batch,) = due(experience)
    assert (batch["observation"][is_relabelled(batch)][:, 2].int() // 20 == 5).all()


def test_an_environment_without_goals_is_refused() -> None:
    with pytest.raises(ValueError, match="Hindsight needs an environment with goals"):
        Hindsight(10, 1, 0, 1, 1, 0.9, 4).begin(population(1), CartPole(500).spec(), CartPole(500).relabel)


@pytest.mark.parametrize("kind", ["Line-v0", "EndingLine-v0"])
def test_with_an_environment_rewards_are_those_it_would_have_given(kind: str) -> None:
    environment, members = goals(kind), population(2)
    experience = Hindsight(200, 500, 0, 60, 1, 0.9, 4)
    experience.begin(members, environment.spec(), environment.relabel)
    actions = members.rng("actions")
    with closing(environment.open(members.generators("environment"), 3)) as vector:
        observation = vector.reset()
        for _ in range(60):
            action = (actions.uniform(3) * 2).long()
            outcome = vector.step(action)
            experience.extend(
                {
                    "observation": observation,
                    "next_observation": outcome.next_observation,
                    "action": action,
                    "reward": outcome.reward,
                    "terminated": outcome.terminated,
                    "truncated": outcome.truncated,
                    **outcome.extras,
                }
            )
            observation = outcome.observation
    batch = due(experience)[-1]
    achieved = (batch["next_observation"][..., 0] - batch["next_observation"][..., 3]).abs() < 0.5
    assert torch.equal(batch["reward"], achieved.float() - 1)
    assert torch.equal(batch["terminated"], achieved.float() * (kind == "EndingLine-v0"))
    # goals of these environments are -2, 1 and 3: the others were given in hindsight
    assert not set(batch["observation"][..., 3].unique().tolist()) <= {-2, 1, 3}
    assert (batch["observation"][..., 4] == 10).all()
