"""Populations that share a loop: every member's numbers are its own, whoever it is beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from parts import random_batches

from sparserl.algorithms.dqn import DQN
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.training.learner import Learner
from sparserl.training.learner_group import Company
from sparserl.types import Layers

KINDS = {"none": 2, "l0": 1, "l1": 3}
"""The populations and how many members each has."""

MEMBERS = sum(KINDS.values())


class ActsWithItsTarget(DQN):
    """An algorithm of which more than the policy acts."""

    acting = ("policy", "target_policy")


def companies(kind: type[DQN] = DQN) -> Iterator[Company]:
    """The same one again and again."""
    configs = [compose(f"regularizer={name}", f"seed={seed}") for name, size in KINDS.items() for seed in range(size)]
    while True:
        _, parts = build(configs)
        algorithm = kind(**{field.name: getattr(parts.algorithm, field.name) for field in dataclasses.fields(DQN)})
        spec = parts.environment.spec()
        yield Company(algorithm, [Learner(algorithm, each.regularizer, spec, each.members) for each in parts.cohorts])


def policies(company: Company) -> list[Layers]:
    """Of each member, as it is trained."""
    places = [company.place(member) for member in range(MEMBERS)]
    return [{name: tensor[row] for name, tensor in learner.weights["policy"].items()} for learner, row in places]


def equal(one: Layers, other: Layers) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_members_are_numbered_through_the_populations() -> None:
    company = next(companies())
    assert [(company.learners.index(learner), row) for learner, row in map(company.place, range(MEMBERS))] == [
        (0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip
    assert [(rows.start, rows.stop) for rows in company.rows] == [(0, 2), (2, 3), (3, 6)]


@pytest.mark.parametrize("kind", [DQN, ActsWithItsTarget])
def test_what_acts_are_the_hardened_weights_of_all_members(kind: type[DQN]) -> None:
    """Also after an update, which they must not be kept through."""
    company = next(companies(kind))
    for step, batch in enumerate(random_batches(2, MEMBERS, size=16)):
        weights = company.acting_weights()
        assert tuple(weights) == kind.acting
        for component, layers in weights.items():
            parts = [learner.hardened()[component] for learner in company.learners]
            assert all(torch.equal(tensor, torch.cat([part[name] for part in parts])) for name, tensor in layers.items())
        company.update(batch, step)


def test_each_learner_has_its_own_part_of_a_batch() -> None:
    """As if it had been given that alone."""
    made = companies()
    together, apart = next(made), next(made)
    for step, batch in enumerate(random_batches(3, MEMBERS, size=16)):
        metrics = together.update(batch, step)
        for learner, rows, found in zip(apart.learners, apart.rows, metrics, strict=True):
            expected = learner.update({name: values[rows] for name, values in batch.items()}, step)
            assert equal(expected, found)
    assert all(map(equal, policies(together), policies(apart)))


def test_policies_to_start_from_come_to_their_members() -> None:
    made = companies()
    company, fresh = next(made), policies(next(made))
    given = [{name: torch.full_like(tensor, member) for name, tensor in fresh[member].items()} for member in range(MEMBERS)]
    start = [layers if member % 2 else None for member, layers in enumerate(given)]
    company.acting_weights()  # which is not to be kept
    company.start_from(start)
    expected = [layers or fresh[member] for member, layers in enumerate(start)]
    assert all(map(equal, policies(company), expected))
    assert company.acting_weights()["policy"]["0.bias"][3].eq(3).all()


def test_states_bring_every_member_back() -> None:
    made = companies()
    company, other = next(made), next(made)
    first, second = random_batches(2, MEMBERS, size=16)
    company.update(first, 0)
    states = company.states()
    assert len(states) == MEMBERS
    other.acting_weights()  # which is not to be kept
    other.load_states(states)
    assert equal(other.acting_weights()["policy"], company.acting_weights()["policy"])
    for each in (company, other):
        each.update(second, 1)
    assert all(map(equal, policies(company), policies(other)))


def test_all_are_frozen_when_the_last_population_is() -> None:
    company = next(companies())
    (batch,) = random_batches(1, MEMBERS, size=16)
    for member in (0, 1, 2, 3, 4, 5):
        assert not company.all_frozen
        batch["reward"][member] = torch.nan
        company.update(batch, 0)
        assert [sentence is not None for sentence in company.frozen()] == [other <= member for other in range(MEMBERS)]
    assert company.all_frozen
