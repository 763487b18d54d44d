"""Each number of a transition says from which member, step and sub-environment it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl.environments.cartpole import CartPole
from sparserl.experience.rollout import Rollout
from sparserl.population.members import Population
from sparserl.population.state import split, stack
from sparserl.types import Batch, Transition
from sparserl.types import Rollout as Steps

BASE = 1000
"""More than any test has steps or sub-environments."""


def transition(members: int, envs: int, step: int) -> Transition:
    name = (torch.arange(members).view(-1, 1) * BASE + step) * BASE + torch.arange(envs)
    return {"action": name, "observation": torch.stack([name, -name], dim=-1).float(), "reward": name.float()}


def begin(experience: Rollout, members: Population) -> None:
    experience.begin(members, CartPole(500).spec(), CartPole(500).relabel)


def rollout(members: Population, n_steps: int = 6, n_epochs: int = 2, batch_size: int | None = 5) -> Rollout:
    experience = Rollout(n_steps, n_epochs, batch_size)
    begin(experience, members)
    return experience


def flattened(steps: Steps) -> Batch:
    return {name: values.flatten(1, 2) for name, values in steps.items()}


def due(experience: Rollout) -> list[Batch]:
    return [selection.batch() for selection in experience.selections(flattened)]


def collected(experience: Rollout, members: int, envs: int, steps: range) -> list[Batch]:
    for step in steps:
        experience.extend(transition(members, envs, step))
    return due(experience)


@given(
    members=st.integers(1, 3),
    envs=st.integers(1, 4),
    n_steps=st.integers(1, 6),
    n_epochs=st.integers(1, 3),
    batch_size=st.integers(1, 30) | st.none(),
)
@settings(deadline=None, max_examples=60)
def test_each_epoch_has_every_transition_once(
    members: int, envs: int, n_steps: int, n_epochs: int, batch_size: int | None
) -> None:
    experience = rollout(Population(tuple(range(members))), n_steps, n_epochs, batch_size)
    batches = collected(experience, members, envs, range(n_steps))
    rows = n_steps * envs
    batch_size = batch_size or rows  # None is all at once
    sizes = [batch_size] * (rows // batch_size) + [rows % batch_size] * (rows % batch_size > 0)
    assert [batch["action"].shape[1] for batch in batches] == sizes * n_epochs
    for epoch in range(n_epochs):
        seen = torch.cat([batch["action"] for batch in batches[epoch * len(sizes) : (epoch + 1) * len(sizes)]], dim=1)
        for member in range(members):
            expected = {(member * BASE + step) * BASE + env for step in range(n_steps) for env in range(envs)}
            assert sorted(seen[member].tolist()) == sorted(expected)
    for batch in batches:  # the fields of a row stay together
        assert torch.equal(batch["observation"], torch.stack([batch["action"], -batch["action"]], dim=-1).float())
        assert torch.equal(batch["reward"], batch["action"].float())


def test_members_epochs_and_rollouts_have_orders_of_their_own() -> None:
    experience = rollout(Population((0, 1)), n_steps=20, n_epochs=2, batch_size=20)
    first, second = (collected(experience, 2, 1, range(20)) for _ in range(2))
    orders = [tuple((row % BASE**2 // BASE).tolist()) for batch in (*first, *second) for row in batch["action"]]
    # eight orders of 20 rows: two are equal with a chance of 28 / 20! = 1e-17; and none is the one in which they came
    assert len({*orders, tuple(range(20))}) == 9


def test_what_a_member_learns_from_does_not_depend_on_the_others() -> None:
    together, alone = rollout(Population((7, 8, 9))), rollout(Population((8,)))
    for _ in range(2):
        for step in range(6):
            fields = transition(3, 4, step)
            together.extend(fields)
            alone.extend({name: value[1:2] for name, value in fields.items()})
        for batch, solo in zip(due(together), due(alone), strict=True):
            assert all(torch.equal(batch[name][1:2], value) for name, value in solo.items())


def test_a_rollout_is_prepared_once_whole_and_without_gradients() -> None:
    experience, seen = rollout(Population((0, 1)), n_steps=3, n_epochs=4, batch_size=2), []

    def prepare(steps: Steps) -> Batch:
        assert not torch.is_grad_enabled()
        seen.append(steps)
        return flattened(steps) | {"prepared": flattened(steps)["reward"] + 1}

    for step in range(3):
        experience.extend(transition(2, 4, step))
    batches = [selection.batch() for selection in experience.selections(prepare)]
    (steps,) = seen
    assert steps["observation"].shape == (2, 3, 4, 2)
    assert torch.equal(steps["action"], torch.stack([transition(2, 4, step)["action"] for step in range(3)], dim=1))
    assert all(torch.equal(batch["prepared"], batch["reward"] + 1) for batch in batches)


def test_nothing_is_due_before_the_end_of_a_rollout_and_nothing_is_left_after_it() -> None:
    experience = rollout(Population((0,)), n_steps=3)
    for number in range(2):
        begins = []
        for step in range(3):
            begins.append(experience.rollout_begins)
            assert due(experience) == []
            experience.extend(transition(1, 2, 3 * number + step))
        assert begins == [True, False, False]
        batches = due(experience)
        assert {int(name) // BASE for batch in batches for name in batch["action"].flatten()} == {
            3 * number + step for step in range(3)
        }
        assert due(experience) == []


@pytest.mark.parametrize("before", [0, 2, 6, 9])
def test_a_rollout_goes_on_from_its_state_in_any_order_of_members(before: int) -> None:
    """From within a rollout too."""
    uninterrupted = rollout(Population((5, 6)))
    for step in range(before):
        uninterrupted.extend(transition(2, 3, step))
        due(uninterrupted)
    kept = [split(uninterrupted.state_dict(), member) for member in range(2)]
    swapped = rollout(Population((6, 5)))
    swapped.load_state_dict(stack([kept[1], kept[0]]))
    for step in range(before, before + 8):
        assert uninterrupted.rollout_begins == swapped.rollout_begins
        fields = transition(2, 3, step)
        uninterrupted.extend(fields)
        swapped.extend({name: value.flip(0) for name, value in fields.items()})
        for batch, other in zip(due(uninterrupted), due(swapped), strict=True):
            assert all(torch.equal(other[name], value.flip(0)) for name, value in batch.items())


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_steps_may_come_some_at_once(sizes: list[int], n_steps: int) -> None:
    """As many as are left at most; what is learned from them is the same."""
    by_step, at_once = (rollout(Population((5, 6)), n_steps) for _ in range(2))
    number = 0
    for size in sizes:
        size = min(size, at_once.steps_left(3))
        steps = [transition(2, 3, number + step) for step in range(size)]
        for its in steps:
            assert due(by_step) == []
            by_step.extend(its)
        at_once.extend_by({name: torch.stack([its[name] for its in steps], dim=1) for name in steps[0]})
        number += size
        is_due = at_once.steps_left(3) == 0
        batches = due(at_once)
        assert bool(batches) == is_due
        for mine, its in zip(batches, due(by_step), strict=True):
            assert all(torch.equal(mine[name], value) for name, value in its.items())


def test_beginning_again_forgets_everything() -> None:
    experience = rollout(Population((0,)), n_steps=3)
    experience.extend(transition(1, 2, 0))
    begin(experience, Population((0,)))
    assert experience.rollout_begins
    assert collected(experience, 1, 2, range(4, 7))[0]["action"].min() >= 4 * BASE
