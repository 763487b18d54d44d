"""Every algorithm learns what each probe asks for, to the exact values, and the regularisers find what is useless."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import probes
import pytest
import torch
from parts import as_kind, class_of, environment_for, modules
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.double_dqn import DoubleDQN
from sparserl.algorithms.dqn import DQN
from sparserl.config.build import build
from sparserl.config.schema import Config
from sparserl.config.validation import compose
from sparserl.environments.base import Environment
from sparserl.population.random import MemberRng
from sparserl.training.events import Finished, Row
from sparserl.training.learner import Learner
from sparserl.training.metrics import zero_share
from sparserl.types import Batch, Time, Weights

ALGORITHMS = modules("algorithms")


def made_for(kind: str) -> list[str]:
    """The algorithms for discrete or for continuous actions."""
    return [name for name in ALGORITHMS if kind in class_of("algorithm", name).actions]


ALL_PROBES = [probe for probe in vars(probes).values() if isinstance(probe, type) and issubclass(probe, probes.Probe)]
PROBES = [probe for probe in ALL_PROBES if probe is not probes.Probe and not issubclass(probe, probes.ContinuousProbe)]

SEEDS = (0, 1, 2)
DISCOUNT = 0.8

COMMON = (
    "trainer.total_steps=3000",
    "trainer.num_envs=4",
    "trainer.eval_every=100000",
    "trainer.eval_episodes=2",
    "trainer.log_every=100000",
    "trainer.checkpoint_every=100000",
    f"algorithm.gamma={DISCOUNT}",
    "algorithm.normalize_observation=false",
    "experience.batch_size=32",
    "network.hidden=[16,16]",
)
OFF_POLICY = (
    *COMMON,
    "algorithm.learning_rate.start=5e-3",
    "algorithm.target_update_interval=1",
    "algorithm.tau=0.05",
    "algorithm.epsilon=0.5",
    "experience.train_freq=4",
)
ON_POLICY = (*COMMON, "algorithm.learning_rate.start=1e-2", "experience.n_steps=16")
A2C = (
    *COMMON,
    "trainer.total_steps=8000",
    "algorithm.learning_rate={_target_:sparserl.schedules.Linear,start:1e-2,end:0.0,steps:8000,delay_steps:0}",
    "experience.n_steps=5",
    "experience.batch_size=null",
    # of 24 seeds none is further than 0.01 from the best continuous action; without these two 7 are further than 0.2
    "algorithm.log_std_init=-1",
    "algorithm.normalize_advantage=true",
)
ACTOR_CRITIC = (
    *COMMON,
    "trainer.total_steps=1500",
    "algorithm.actor_learning_rate=5e-3",
    "algorithm.critic_learning_rate=5e-3",
    "algorithm.random_steps=300",
    "experience.learning_starts=300",
    "experience.train_freq=4",
)
SETTINGS = {"ppo": ON_POLICY, "a2c": A2C} | dict.fromkeys(("ddpg", "td3", "sac"), ACTOR_CRITIC)
"""Of algorithms that do not learn action values only."""


def learned(world: Environment, members: Sequence[Config]) -> Learner:
    """A population trained on ``world``."""
    trainer, parts = build(members)
    *_, last = trainer.run(dataclasses.replace(parts, environment=world))
    assert isinstance(last, Finished)
    (learner,) = last.group.learners
    return learner


def seeded(*overrides: str, algorithm: str = "dqn") -> list[Config]:
    """A member for each seed."""
    config = compose(f"algorithm={algorithm}", *SETTINGS.get(algorithm, OFF_POLICY), *overrides)
    return [config | {"seed": seed} for seed in SEEDS]


def output(learner: Learner, component: str, states: Tensor) -> Tensor:
    """Of a network without noise, ``[member, state, output]``."""
    layers = learner.deterministic()[component]
    return learner.algorithm.networks[component](layers, states.expand(learner.size, *states.shape))


@pytest.fixture(scope="module", params=made_for("discrete"))
def learner(request: pytest.FixtureRequest) -> Learner:
    """The seeds of every probe as one population, which costs what one of them does."""
    together = probes.Together(tuple(probe() for probe in PROBES))
    return learned(together, seeded("regularizer=none", algorithm=request.param) * len(PROBES))


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_an_algorithm_learns_the_exact_values(learner: Learner, probe: type[probes.Probe]) -> None:
    """Within 0.05 of values that are 1 apart and more: chance initialisation is off by about 1 at some state, bootstrapping
    through a termination by at least DISCOUNT, not bootstrapping through a truncation by 4.

    A critic learns the values of states under a policy that is good by then, and the policy takes the best action with a
    probability of at least 0.98, where chance would take it with 0.5; it may cost a critic 0.02 * 2 of the value.
    """
    world, first = probe(), PROBES.index(probe) * len(SEEDS)
    states, mine = probes.two_features(world.states()), slice(first, first + len(SEEDS))
    expected = world.q_values(world.states(), DISCOUNT)
    found = output(learner, "policy", states)[mine]
    if "critic" in learner.learned:
        best, differ = expected.argmax(dim=-1), expected[:, 0] != expected[:, 1]
        probability = torch.softmax(found, dim=-1).gather(-1, best.expand(len(SEEDS), -1).unsqueeze(-1))[..., 0]
        assert (probability[:, differ] > 0.98).all()
        found, expected = output(learner, "critic", states)[mine], expected.amax(dim=-1, keepdim=True)
    torch.testing.assert_close(found, expected.expand(len(SEEDS), *expected.shape), atol=0.05, rtol=0.02)


def test_without_learning_the_probes_are_not_solved() -> None:
    """The negative control: the same check fails for a network that is never updated, for as long as one may watch it."""
    world = probes.ActionTimesObservation()
    learner = learned(world, seeded("regularizer=none", "algorithm.learning_rate=0", "trainer.total_steps=200"))
    # half of how far apart the actions are from 0: they cannot be told apart
    assert (output(learner, "policy", world.states()) - world.q_values(world.states(), DISCOUNT)).abs().amax(
        dim=(1, 2)
    ).min() > 0.5


class UngatedTarget(DQN):
    """What DQN must not be under L0: its target, which follows nothing that has gates, runs with every gate open."""

    @property
    def targets(self) -> dict[str, str]:
        return {"target_policy": "target_policy"}


class NoisyChoice(DQN):
    """Nor this: the action that it bootstraps from is the best of values that share the noise of the gates."""

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        return super().losses(weights, weights, batch, time, rng)


@pytest.mark.parametrize(
    ("kind", "lowest", "highest"), [(DQN, 9.3, 10.7), (DoubleDQN, 9.3, 10.7), (NoisyChoice, 13, 25), (UngatedTarget, 50, None)]
)
def test_under_random_gates_values_stay_what_they_are_worth(kind: type[DQN], lowest: float, highest: float | None) -> None:
    """A reward of 1 for ever, discounted by 0.9, is worth 10, and nothing can be worth more.

    The right ones come within 7 %, which leaves room for the variance of their gates and for what is left to learn: eight
    seeds of each end between 9.5 and 10.7.

    Of two equal values under one noise the higher is some x above their mean, and bootstrapping adds that up to
    1 / (1 - 0.9 (1 + x)): 13 is an x of 2.6 %, 25 one of 6.7 %. Eight seeds end between 15 and 18.

    Gates that are 90 % open have a mean of 0.88, and two layers of them count here: a target without gates is 1.3 times the
    value it is a target for. 1.3 * 0.9 > 1, so values grow for as long as one trains: here for 400 gradient steps, in which
    eight seeds come to 100-370. 50 is above whatever ends somewhere.
    """
    moving = "regularizer.delay_steps=0", "regularizer.freeze_at_step=null"
    gates = "regularizer.initial_open=0.9", "regularizer.gate_learning_rate=0", *moving
    quick = "algorithm.gamma=0.9", "algorithm.tau=0.2", "trainer.total_steps=1600", "trainer.log_every=400"
    trainer, parts = build(seeded("regularizer=l0", "regularizer.lambda_c=0", *gates, *quick))
    algorithm = as_kind(kind, parts.algorithm)
    populations = [dataclasses.replace(population, algorithm=algorithm) for population in parts.populations]
    parts = dataclasses.replace(parts, environment=probes.Truncated(), algorithm=algorithm, populations=populations)
    *_, last = (event for event in trainer.run(parts) if isinstance(event, Row))
    for member in last.metrics:
        assert member["policy/q_value"] > lowest
        assert highest is None or member["policy/q_value"] < highest


def penalised(
    lambda_c: float, *overrides: str, algorithm: str = "dqn", probe: type[probes.UselessInput] = probes.UselessInput
) -> tuple[Tensor, Tensor]:
    """What a probe with a useless input leaves with the penalty and, the control, in the same population without it.

    The weights without noise of its two inputs ``[with or without, member, feature, unit]``, and how far values are from the
    true ones ``[with or without, member]``.
    """
    world, members = probe(), seeded(*overrides, algorithm=algorithm)
    weights = {"lambda_c": lambda_c}, {"lambda_c": 0.0}
    both = [member | {"regularizer": member["regularizer"] | weight} for weight in weights for member in members]
    learner = learned(world, both)
    expected, component = world.q_values(world.states(), DISCOUNT), "policy"
    if "critic" in learner.learned:
        expected, component = expected.amax(dim=-1, keepdim=True), "critic"
    error = (output(learner, component, world.states()) - expected).abs().amax(dim=(1, 2))
    return learner.deterministic()["policy"]["0.weight"].view(2, len(SEEDS), 2, -1), error.view(2, len(SEEDS))


VALUES = pytest.mark.parametrize(
    ("algorithm", "probe"), [("dqn", probes.UselessInput), ("double_dqn", probes.UselessInputForEver)]
)
"""Double DQN is DQN where nothing follows an action."""


@VALUES
def test_l0_closes_every_weight_of_a_useless_input_and_without_a_penalty_it_does_not(
    algorithm: str, probe: type[probes.UselessInput]
) -> None:
    moving = "regularizer.delay_steps=500", "regularizer.ramp_steps=250", "regularizer.gate_learning_rate=0.05"
    (closed, left), error = penalised(60, "regularizer=l0", *moving, algorithm=algorithm, probe=probe)
    useless = probes.UselessInput.useless
    assert (closed[:, useless] == 0).all()
    assert (closed[:, 0] != 0).any(dim=1).all(), "something must still read the input that matters"
    assert (left[:, useless] != 0).float().mean() > 0.5  # all are open at first, and nothing asks for more zeros
    assert error.max() < 0.5  # the two values are 2 apart: the greedy action is right by a wide margin


def test_under_l0_ppo_closes_a_useless_input_while_its_gates_act() -> None:
    """Of 16 weights, eight seeds leave 0 or 1 of the useless input and 7 to 11 of the other; without a penalty all stay."""
    moving = "regularizer.delay_steps=500", "regularizer.ramp_steps=250", "regularizer.gate_learning_rate=0.05"
    (closed, left), error = penalised(10, "regularizer=l0", *moving, algorithm="ppo")
    useless = probes.UselessInput.useless
    assert (closed[:, useless] != 0).sum(dim=1).max() <= 3
    assert (closed[:, 0] != 0).sum(dim=1).min() >= 4, "something must still read the input that matters"
    assert (left[:, useless] != 0).float().mean() > 0.5
    assert error.max() < 0.25  # a policy by chance is worth 1 less; eight seeds come to 0.02-0.07


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_under_masks_that_close_half_of_the_weights_the_best_action_is_learned(algorithm: str) -> None:
    """It depends on what is seen. Values of actions are 2 apart, and eight seeds come within 1e-5 of them.

    PPO takes the best action with a probability of 0.998 or more on eight seeds; by chance it is 0.5.
    """
    world = probes.ActionTimesObservation()
    masked = [f"regularizer={name}" for name in ("random", "magnitude")]
    members = [member for name in masked for member in seeded(name, "regularizer.target_sparsity=0.5", algorithm=algorithm)]
    trainer, parts = build(members)
    *_, last = trainer.run(dataclasses.replace(parts, environment=world))
    assert isinstance(last, Finished)
    values = world.q_values(world.states(), DISCOUNT)
    for learner in last.group.learners:
        assert zero_share(learner.deterministic()["policy"]).tolist() == pytest.approx([0.5] * len(SEEDS), abs=0.01)
        found = output(learner, "policy", world.states())
        if algorithm == "dqn":
            torch.testing.assert_close(found, values.expand_as(found), atol=0.1, rtol=0)
        else:
            best = values.argmax(dim=-1).expand(len(SEEDS), -1).unsqueeze(-1)
            assert torch.softmax(found, dim=-1).gather(-1, best).min() > 0.95


@VALUES
def test_l1_shrinks_the_weights_of_a_useless_input_and_without_a_penalty_it_does_not(
    algorithm: str, probe: type[probes.UselessInput]
) -> None:
    """Initial weights are uniform within 1/sqrt(2), so 0.35 in the mean: without a penalty they stay about there."""
    quick = "algorithm.learning_rate.start=1e-2", "trainer.total_steps=2400"
    (shrunk, left), error = penalised(0.6, "regularizer=l1", *quick, algorithm=algorithm, probe=probe)
    useless = probes.UselessInput.useless
    assert (shrunk[:, useless].abs().mean(dim=1) < 0.02).all()
    assert (shrunk[:, 0].abs().amax(dim=1) > 0.2).all(), "l1 must not shrink the input that matters to nothing"
    assert (left[:, useless].abs().mean(dim=1) > 0.1).all()
    assert error.max() < 0.5


# ---------------------------------------------------------------- continuous actions

ON = "regularizer.delay_steps=0", "regularizer.ramp_steps=0"
REGULARIZED = (
    ("regularizer=none",),
    ("regularizer=l0", *ON, "regularizer.lambda_c=0.1"),
    ("regularizer=l1", *ON, "regularizer.lambda_c=0.01"),
)


@pytest.mark.parametrize("algorithm", made_for("continuous"))
def test_an_algorithm_learns_the_best_continuous_action(algorithm: str) -> None:
    """Under each regulariser, in one loop: within 0.2 in the mean, in units in which bounds are -1 and 1.

    Where each of two observations has a best action of its own, 0.5 and -0.5, one that does not depend on what is seen is off
    by 0.5. Three seeds come to 0.01-0.08.
    """
    world, fitting = probes.UselessContinuousInput(), f"environment={environment_for(algorithm)}"
    members = [member for its in REGULARIZED for member in seeded(*its, fitting, algorithm=algorithm)]
    trainer, parts = build(members)
    *_, last = trainer.run(dataclasses.replace(parts, environment=world))
    assert isinstance(last, Finished)
    states = world.states().expand(len(members), *world.states().shape)
    action = world.spec().unscale_action(last.group.deterministic_action(states, slice(0, len(members))))
    error = (action - world.best(states)).abs().mean(dim=(1, 2))
    assert error.max() < 0.2
