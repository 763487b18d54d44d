"""Populations that share a loop: every member's numbers are its own, whoever it is beside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from parts import as_kind, random_batches

from sparserl.algorithms.dqn import DQN
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.experience.selection import Selection
from sparserl.training.learner import Learner
from sparserl.training.learner_group import LearnerGroup
from sparserl.types import Layers

KINDS = {"none": 2, "l0": 1, "l1": 3}
"""The populations and how many members each has."""

MEMBERS = sum(KINDS.values())

SEEN = {"mean": torch.zeros(4), "var": torch.ones(4), "count": torch.ones(1)}
"""The statistics of CartPole's observations, which are a component of the policy too."""


class ActsWithItsTarget(DQN):
    """An algorithm of which more than the policy acts."""

    acting = ("policy", "target_policy")


def groups(kind: type[DQN] = DQN) -> Iterator[LearnerGroup]:
    """The same one again and again."""
    configs = [compose(f"regularizer={name}", f"seed={seed}") for name, size in KINDS.items() for seed in range(size)]
    while True:
        _, parts = build(configs)
        algorithm = as_kind(kind, parts.algorithm).bind(parts.environment.spec())
        yield LearnerGroup(algorithm, [Learner(algorithm, each.regularizer, each.members) for each in parts.populations])


def policies(group: LearnerGroup) -> list[Layers]:
    """Of each member, as it is trained."""
    places = [group.locate(member) for member in range(MEMBERS)]
    return [{name: tensor[row].clone() for name, tensor in learner.weights["policy"].items()} for learner, row in places]


def equal(one: Layers, other: Layers) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_members_are_numbered_through_the_populations() -> None:
    group = next(groups())
    assert [(group.learners.index(learner), row) for learner, row in map(group.locate, range(MEMBERS))] == [
        (0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip
    assert [(rows.start, rows.stop) for rows in group.rows] == [(0, 2), (2, 3), (3, 6)]


@pytest.mark.parametrize("kind", [DQN, ActsWithItsTarget])
def test_what_acts_are_the_deterministic_weights_of_all_members(kind: type[DQN]) -> None:
    """Also after an update, which they must not be kept through."""
    group = next(groups(kind))
    for step, batch in enumerate(random_batches(2, MEMBERS, size=16)):
        weights = group.acting()
        assert tuple(weights) == group.learners[0].algorithm.acting
        for component, layers in weights.items():
            parts = [learner.deterministic()[component] for learner in group.learners]
            assert all(torch.equal(tensor, torch.cat([part[name] for part in parts])) for name, tensor in layers.items())
        group.update([Selection(batch)], step)


@pytest.mark.parametrize("several", [False, True])
def test_what_is_deployed_follows_whatever_changes_it(several: bool) -> None:
    """It is a copy, of one learner too, and must be made anew."""
    group = next(groups())
    if not several:
        group = LearnerGroup(group.learners[2].algorithm, group.learners[2:])
    batches = random_batches(3, MEMBERS, size=16)
    members = slice(0, MEMBERS) if several else slice(3, 6)
    its = [{name: tensor[members] for name, tensor in batch.items()} for batch in batches]
    fresh = group.learners[0].weights
    start = {c: {name: tensor[0] + 1 for name, tensor in fresh[c].items()} for c in ("policy", "observations")}
    begun = group.states()
    number = members.stop - members.start
    changes: list[Callable[[], object]] = [
        lambda: group.update([Selection(its[0])], 1),
        lambda: group.start_from([start] * number),
        lambda: group.update([Selection(its[1])], 2),
        lambda: group.load_states(copy.deepcopy(begun)),
    ]
    before = group.deployed()
    for change in changes:
        change()
        after = group.deployed()
        assert not equal(before["policy"], after["policy"])
        for component, layers in after.items():
            parts = [learner.deterministic()[component] for learner in group.learners]
            assert all(torch.equal(tensor, torch.cat([part[name] for part in parts])) for name, tensor in layers.items())
        assert group.deployed() is after, "it is kept until something changes"
        before = after


def test_each_learner_has_its_own_part_of_a_batch() -> None:
    """As if it had been given that alone."""
    made = groups()
    together, apart = next(made), next(made)
    for step, batch in enumerate(random_batches(3, MEMBERS, size=16)):
        metrics = together.update([Selection(batch)], step)
        for learner, rows, (found,) in zip(apart.learners, apart.rows, metrics, strict=True):
            expected = learner.update({name: values[rows] for name, values in batch.items()}, step)
            assert equal(expected, found)
    assert all(map(equal, policies(together), policies(apart)))


def test_each_learner_prepares_its_own_part_of_a_rollout() -> None:
    """With its own weights: the values of all members are those of the joined critics."""
    configs = [compose("algorithm=ppo", f"regularizer={name}", f"seed={seed}") for name in ("none", "l0") for seed in range(2)]
    _, parts = build(configs)
    algorithm = parts.algorithm.bind(parts.environment.spec())
    group = LearnerGroup(algorithm, [Learner(algorithm, its.regularizer, its.members) for its in parts.populations])
    group.begin_rollout(0)
    shape, draw = (4, 10, 3), torch.Generator().manual_seed(0)
    rollout = {
        "observation": torch.randn(*shape, 4, generator=draw),
        "next_observation": torch.randn(*shape, 4, generator=draw),
        "action": torch.randint(2, shape, generator=draw),
        "reward": torch.randn(shape, generator=draw),
        "terminated": torch.zeros(shape),
        "truncated": torch.zeros(shape),
    }
    found = group.prepare(rollout)

    expected = algorithm.prepare(group.acting(), rollout)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not torch.equal(found["value"][:2], found["value"][2:]), "under gates values are others, or this test sees nothing"


def test_policies_to_start_from_come_to_their_members() -> None:
    made = groups()
    group, fresh = next(made), policies(next(made))
    given = [{name: torch.full_like(tensor, member) for name, tensor in fresh[member].items()} for member in range(MEMBERS)]
    start = [{"policy": layers, "observations": SEEN} if member % 2 else None for member, layers in enumerate(given)]
    group.acting()  # which is not to be kept
    group.start_from(start)
    expected = [given[member] if member % 2 else fresh[member] for member in range(MEMBERS)]
    assert all(map(equal, policies(group), expected))
    assert group.acting()["policy"]["0.bias"][3].eq(3).all()
    learner, _ = group.locate(3)
    assert equal(learner.weights["policy"], learner.weights["target_policy"])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"0.weight": torch.ones(1)}, r"0.weight does not fit: its shape there is \[1\]"),
        ({"0.bias": torch.ones(1, 1)}, r"0.bias does not fit: its shape there is \[1, 1\]"),
        ({"3.bias": torch.ones(1, 2)}, r"3.bias does not fit: .* none is needed"),
        ({"1.weight": None}, r"1.weight does not fit: its shape there is missing"),
    ],
    ids=["a weight that would broadcast", "a bias that would broadcast", "one too many", "one missing"],
)
def test_a_policy_to_start_from_that_does_not_fit_is_refused_and_nothing_is_changed(
    change: dict[str, torch.Tensor | None], fault: str
) -> None:
    made = groups()
    group, fresh = next(made), policies(next(made))
    given = {name: tensor for name, tensor in (fresh[1] | change).items() if tensor is not None}
    whole = {name: tensor + 1 for name, tensor in fresh[0].items()}
    with pytest.raises(ValueError, match=fault):
        group.learners[0].start_from([{"policy": layers, "observations": SEEN} for layers in (whole, given)])
    assert all(map(equal, policies(group), fresh))


def test_deterministic_actions_are_of_the_members_asked_for() -> None:
    group, observation = next(groups()), torch.randn(MEMBERS, 20, 4, generator=torch.Generator().manual_seed(0))
    actions = group.deterministic_action(observation, slice(0, MEMBERS))
    for rows in (slice(0, 1), slice(1, 4), slice(5, 6)):
        assert torch.equal(group.deterministic_action(observation[rows], rows), actions[rows])
    assert len({tuple(row) for row in actions.tolist()}) > 1, "members must differ, or this test sees nothing"


def test_a_member_that_is_stopped_from_outside_learns_no_more() -> None:
    """It keeps its weights and the reason, those beside it learn on, and it is stopped once only."""
    group = next(groups())
    group.stop(4, "its environment failed", 10)
    group.stop(4, "another reason", 20)
    before = policies(group)
    (batch,) = random_batches(1, MEMBERS, size=16)
    group.update([Selection(batch)], 30)
    assert group.stopped() == [None] * 4 + ["its environment failed: stopped at step 10", None]
    assert [equal(one, other) for one, other in zip(policies(group), before, strict=True)] == [False] * 4 + [True, False]


def test_states_bring_every_member_back() -> None:
    made = groups()
    group, other = next(made), next(made)
    first, second = random_batches(2, MEMBERS, size=16)
    group.update([Selection(first)], 0)
    states = group.states()
    assert len(states) == MEMBERS
    other.acting()  # which is not to be kept
    other.load_states(states)
    assert equal(other.acting()["policy"], group.acting()["policy"])
    for each in (group, other):
        each.update([Selection(second)], 1)
    assert all(map(equal, policies(group), policies(other)))


def test_all_are_stopped_when_the_last_population_is() -> None:
    group = next(groups())
    (batch,) = random_batches(1, MEMBERS, size=16)
    for member in (0, 1, 2, 3, 4, 5):
        assert not group.all_stopped
        batch["reward"][member] = torch.nan
        group.update([Selection(batch)], 0)
        assert [sentence is not None for sentence in group.stopped()] == [other <= member for other in range(MEMBERS)]
    assert group.all_stopped
