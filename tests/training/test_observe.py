"""Components that are statistics of what the environment gave: the mean observation, by which inputs are centred."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from jaxtyping import Float
from parts import as_kind, make_learner
from torch import Tensor

from sparserl.algorithms.base import Algorithm, Objective
from sparserl.algorithms.dqn import DQN
from sparserl.algorithms.ppo import PPO
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.experience.selection import Selection
from sparserl.policies import categorical
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.population.state import State
from sparserl.training.events import Finished, Row, Snapshot
from sparserl.training.learner import Learner
from sparserl.training.learner_group import LearnerGroup
from sparserl.types import Action, Batch, Rollout, Time, Transition, Weights


class Centred(Algorithm):
    """To be mixed with an algorithm. ``given`` holds each transition or rollout that statistics took in."""

    policy = ("statistics", "policy")
    observes = True
    given: ClassVar[list[Transition]] = []

    def init(self, members: Population) -> Weights:
        mean = torch.zeros(members.size, *self.spec.observation_shape)
        return super().init(members) | {"statistics": {"mean": mean, "count": torch.zeros(members.size)}}

    def act(self, weights: Weights, observation: Float[Tensor, "member env *obs"], step: int, rng: MemberRng) -> Action:
        return super().act(weights, centred(weights, observation), step, rng)

    def deterministic_action(self, weights: Weights, observation: Float[Tensor, "member env *obs"]) -> Tensor:
        return super().deterministic_action(weights, centred(weights, observation))

    def observe(self, weights: Weights, rollout: Rollout) -> Weights:
        self.given.append({name: values.flatten(1, 2) for name, values in rollout.items()})
        observation, known = rollout["observation"].flatten(1, 2), weights["statistics"]
        count = known["count"] + observation.shape[1]
        difference = observation - known["mean"].unsqueeze(1)
        return {"statistics": {"mean": known["mean"] + difference.sum(dim=1) / count.unsqueeze(1), "count": count}}


class CentredDQN(Centred, DQN):
    """Replay keeps raw observations."""

    acting = ("policy", "statistics")

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        seen = {name: centred(weights, batch[name]) for name in ("observation", "next_observation")}
        return super().losses(weights, noise_free, batch | seen, time, rng)


class CentredPPO(Centred, PPO):
    """A rollout is centred once, by what it was acted with."""

    acting = ("policy", "critic", "statistics")

    def prepare(self, weights: Weights, rollout: Rollout) -> Batch:
        seen = {
            name: centred(weights, rollout[name].flatten(1, 2)).view(rollout[name].shape)
            for name in ("observation", "next_observation")
        }
        return super().prepare(weights, rollout | seen)

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        found = super().losses(weights, noise_free, batch, time, rng)
        log_prob = categorical.log_prob(self.network(weights["policy"], batch["observation"]), batch["action"])
        found["policy"].metrics["difference"] = (log_prob - batch["log_prob"]).detach().abs().amax(dim=1)
        return found


KINDS = {"dqn": CentredDQN, "ppo": CentredPPO}


def centred(weights: Weights, observation: Tensor) -> Tensor:
    return observation - weights["statistics"]["mean"].unsqueeze(1)


def trained(name: str, *overrides: str, states: list[State] | None = None) -> tuple[LearnerGroup, list[Snapshot], list[Row]]:
    """Three members, of which two share a regulariser: 480 environment steps of each, 120 of the loop."""
    small = "trainer=smoke", "trainer.total_steps=480", "trainer.checkpoint_every=192", "trainer.num_envs=4"
    shaped = {"dqn": ("experience.learning_starts=100",), "ppo": ("experience.n_steps=20", "experience.batch_size=40")}
    own = "algorithm.normalize_observation=false", "network.hidden=[8]"  # these have statistics of their own
    options = (f"algorithm={name}", *small, *shaped[name], *own, *overrides)
    configs = [compose(f"regularizer={r}", f"seed={seed}", *options) for r, seed in (("none", 0), ("none", 1), ("l1", 2))]
    trainer, parts = build(configs)
    algorithm = as_kind(KINDS[name], parts.algorithm)
    populations = [dataclasses.replace(population, algorithm=algorithm) for population in parts.populations]
    parts = dataclasses.replace(parts, algorithm=algorithm, populations=populations)
    Centred.given.clear()
    snapshots, rows = [], []
    for event in trainer.run(parts, states):
        if isinstance(event, Snapshot):
            snapshots.append(copy.deepcopy(event))
        elif isinstance(event, Row):
            rows.append(event)
    assert isinstance(event, Finished)
    return event.group, snapshots, rows


def statistics(group: LearnerGroup) -> list[dict[str, Tensor]]:
    places = [group.locate(member) for member in range(3)]
    return [{name: t[row] for name, t in learner.weights["statistics"].items()} for learner, row in places]


@pytest.mark.parametrize("name", KINDS)
def test_statistics_are_of_what_each_member_was_given_in_training(name: str) -> None:
    """Evaluations, of which there are three with two episodes each, add nothing."""
    group, _, rows = trained(name)
    # rollouts are of 80 steps, and those of the last one are taken in when another begins
    steps = 480 if name == "dqn" else 400
    found = statistics(group)
    for member, (learner, row) in enumerate(map(group.locate, range(3))):
        own = [its["observation"][row] for its in Centred.given if its["observation"].shape[0] == learner.size]
        assert sum(len(observations) for observations in own) % steps == 0
        assert found[member]["count"] == steps
        assert found[member]["mean"].abs().max() > 1e-3
    assert not torch.equal(found[0]["mean"], found[1]["mean"])
    assert sum("eval/return_mean" in row.metrics[0] for row in rows) == 3
    # the mean of member 2, who is alone in its population, is that of all it was given
    own = torch.cat([its["observation"][0] for its in Centred.given if len(its["observation"]) == 1])
    torch.testing.assert_close(found[2]["mean"], own.mean(dim=0))
    assert len(own) == steps


def test_statistics_change_only_between_rollouts() -> None:
    """So the first ratio of each rollout is 1 although observations are centred otherwise than in the one before."""
    learner = make_learner("algorithm=ppo", "regularizer=none")
    algorithm = as_kind(CentredPPO, learner.algorithm).bind(learner.algorithm.spec)
    group = LearnerGroup(algorithm, [Learner(algorithm, learner.regularizer, Population((0,)))])
    draw, exploration = torch.Generator().manual_seed(0), Population((0,)).rng("exploration")
    means = []
    for rollout in range(3):
        group.begin_rollout(rollout)
        means.append(group.acting()["statistics"]["mean"].clone())
        steps: list[Transition] = []
        for _ in range(16):
            observation = torch.randn(1, 8, 4, generator=draw) + 3
            action = algorithm.act(group.acting(), observation, 0, exploration).action
            ones, zeros = torch.ones(1, 8), torch.zeros(1, 8)
            steps.append(
                {
                    "observation": observation,
                    "next_observation": observation,
                    "action": action,
                    "reward": ones,
                    "terminated": zeros,
                    "truncated": zeros,
                }
            )
            group.observe(steps[-1])
            assert torch.equal(group.acting()["statistics"]["mean"], means[-1])
        batch = algorithm.prepare(group.acting(), {name: torch.stack([s[name] for s in steps], dim=1) for name in steps[0]})
        ((first,),) = group.update([Selection(batch)], rollout)
        ((second,),) = group.update([Selection(batch)], rollout)
        assert first["policy/difference"].item() == 0
        assert second["policy/difference"].item() > 0
    assert means[0].eq(0).all()
    assert (means[1] - 3).abs().max() < 0.5  # 128 numbers with a standard error of 0.09
    assert not torch.equal(means[1], means[2])


def test_statistics_of_a_member_that_was_stopped_stay() -> None:
    learner = make_learner("regularizer=none", members=3)
    learner = Learner(
        as_kind(CentredDQN, learner.algorithm).bind(learner.algorithm.spec), learner.regularizer, Population((0, 1, 2))
    )
    learner.stopped.stop(1, "a reason", 0)
    learner.observe({"observation": torch.ones(3, 1, 2, 4)})
    assert learner.weights["statistics"]["count"].tolist() == [2.0, 0.0, 2.0]
    assert learner.weights["statistics"]["mean"][:, 0].tolist() == [1.0, 0.0, 1.0]
    # and what acts and what is evaluated have the new ones
    for weights in (learner.acting(), learner.deterministic()):
        assert weights["statistics"]["mean"][:, 0].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("index", [0, 1])
def test_statistics_go_on_from_a_checkpoint(name: str, index: int) -> None:
    """To the bit, also from the middle of a rollout: the steps of it that statistics have not taken in are kept (it failed
    before). 192 steps are 2.4 rollouts, 384 are 4.8."""
    group, snapshots, rows = trained(name)
    kept: Sequence[State] = snapshots[index].states
    assert kept[0]["learner"]["weights"]["statistics"]["count"] > 0
    resumed, _, others = trained(name, states=list(kept))
    for one, other in zip(statistics(group), statistics(resumed), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    for component, layers in group.deployed().items():
        assert all(torch.equal(tensor, resumed.deployed()[component][n]) for n, tensor in layers.items())
    assert [row.metrics[0]["eval/return_mean"] for row in rows[-1:]] == [
        row.metrics[0]["eval/return_mean"] for row in others[-1:]
    ]
