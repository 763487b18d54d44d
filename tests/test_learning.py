"""Every algorithm learns what each probe asks for, to the exact values, and the regularisers find what is useless."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import probes
import pytest
import torch
from torch import Tensor

from sparserl.algorithms.dqn import DQN
from sparserl.build import build, compose
from sparserl.learner import Learner
from sparserl.trainer import Finished, Row
from sparserl.types import Batch, Loss, Metrics, Weights

ALGORITHMS = sorted(
    path.stem
    for path in Path(probes.__file__).parents[1].glob("sparserl/algorithms/*.py")
    if path.stem not in ("__init__", "base")
)
PROBES = [probe for probe in vars(probes).values() if isinstance(probe, type) and issubclass(probe, probes.Probe)]
PROBES.remove(probes.Probe)

SEEDS = (0, 1, 2)
DISCOUNT = 0.8

SETTINGS = (
    "trainer.total_steps=6000",
    "trainer.envs=4",
    "trainer.eval_every=100000",
    "trainer.eval_episodes=2",
    "trainer.log_every=100000",
    "trainer.checkpoint_every=100000",
    f"algorithm.discount={DISCOUNT}",
    "algorithm.learning_rate.start=5e-3",
    "algorithm.target_rate=0.05",
    "algorithm.epsilon=0.5",
    "experience.update_every=4",
    "experience.batch_size=32",
    "network.hidden=[16,16]",
)


def learned(probe: probes.Probe, *overrides: str) -> Learner:
    """Three members trained on a probe."""
    trainer, parts = build([compose(*SETTINGS, *overrides, f"seed={seed}") for seed in SEEDS])
    *_, last = trainer.events(dataclasses.replace(parts, environment=probe))
    assert isinstance(last, Finished)
    return last.learner


def q_values(learner: Learner, states: Tensor) -> Tensor:
    """Of the hardened policy, ``[member, state, action]``."""
    assert isinstance(learner.algorithm, DQN)
    everyone = states.expand(len(SEEDS), *states.shape)
    return learner.algorithm.network(learner.hardened()["policy"], everyone)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_learns_the_exact_values(algorithm: str, probe: type[probes.Probe]) -> None:
    """Within 0.05 of values that are 1 apart and more: chance initialisation is off by about 1 at some state, bootstrapping
    through a termination by at least DISCOUNT, not bootstrapping through a truncation by 4."""
    world = probe()
    learner = learned(world, f"algorithm={algorithm}", "regularizer=none")
    expected = world.q_values(world.states(), DISCOUNT)
    torch.testing.assert_close(
        q_values(learner, world.states()), expected.expand(len(SEEDS), *expected.shape), atol=0.05, rtol=0.02
    )


def test_without_learning_the_probes_are_not_solved() -> None:
    """The negative control: the same check fails for a network that is never updated."""
    world = probes.ActionTimesObservation()
    learner = learned(world, "regularizer=none", "algorithm.learning_rate=0")
    assert (q_values(learner, world.states()) - world.q_values(world.states(), DISCOUNT)).abs().amax(dim=(1, 2)).min() > 0.5


class UngatedTarget(DQN):
    """What DQN must not be under L0: its target runs with every gate open."""

    @property
    def targets(self) -> dict[str, str]:
        return {}


class NoisyChoice(DQN):
    """Nor this: the action that it bootstraps from is the best of values that share the noise of the gates."""

    def losses(self, weights: Weights, quiet: Weights, batch: Batch, step: int) -> dict[str, tuple[Loss, Metrics]]:
        return super().losses(weights, weights, batch, step)


@pytest.mark.parametrize(("kind", "lowest", "highest"), [(DQN, 18, 21), (NoisyChoice, 40, 100), (UngatedTarget, 1000, None)])
def test_under_random_gates_values_stay_what_they_are_worth(kind: type[DQN], lowest: float, highest: float | None) -> None:
    """A reward of 1 for ever, discounted by 0.95, is worth 20, and nothing can be worth more.

    Gates that are 90 % open have a mean of 0.88, and two layers of them count here: a target without gates is 1.3 times the
    value it is a target for, and 1.3 * 0.95 > 1, so values grow for ever. And of two equal values under one noise the higher
    is some percent above their mean, which bootstrapping adds up. The right one comes within the 4 % that its gates' own
    variance, with what is left to learn, explains.
    """
    moving = "regularizer.delay_steps=0", "regularizer.freeze_steps=null"
    gates = "regularizer.initial_open=0.9", "regularizer.gate_learning_rate=0", *moving
    settings = "algorithm.discount=0.95", "regularizer=l0", "regularizer.lambda_c=0", *gates, "trainer.log_every=500"
    trainer, parts = build([compose(*SETTINGS, *settings, f"seed={seed}") for seed in SEEDS])
    algorithm = kind(**{field.name: getattr(parts.algorithm, field.name) for field in dataclasses.fields(DQN)})
    parts = dataclasses.replace(parts, environment=probes.Truncated(), algorithm=algorithm)
    *_, last = (event for event in trainer.events(parts) if isinstance(event, Row))
    q_value = last.metrics["policy/q_value"]
    assert (q_value > lowest).all()
    assert highest is None or (q_value < highest).all()


def outgoing(learner: Learner, feature: int) -> Tensor:
    """The hardened weights that read one input, ``[member, unit]``."""
    return learner.hardened()["policy"]["0.weight"][:, feature]


def test_l0_closes_every_weight_of_a_useless_input() -> None:
    world = probes.UselessInput()
    settings = "regularizer.delay_steps=1000", "regularizer.ramp_steps=500", "regularizer.gate_learning_rate=0.05"
    learner = learned(world, "regularizer=l0", "regularizer.lambda_c=120", "trainer.total_steps=12000", *settings)
    assert (outgoing(learner, world.useless) == 0).all()
    assert (outgoing(learner, 0) != 0).any(dim=1).all(), "something must still read the input that matters"
    error = (q_values(learner, world.states()) - world.q_values(world.states(), DISCOUNT)).abs()
    assert error.max() < 0.5  # the two values are 2 apart: the greedy action is right by a wide margin


def test_l1_shrinks_the_weights_of_a_useless_input_and_none_does_not() -> None:
    """Initial weights of an input are uniform within 1/sqrt(2), so 0.35 in the mean; none leaves them about there."""
    world = probes.UselessInput()
    l1 = learned(world, "regularizer=l1", "regularizer.lambda_c=0.3")
    none = learned(world, "regularizer=none")
    assert (outgoing(l1, world.useless).abs().mean(dim=1) < 0.02).all()
    assert (outgoing(none, world.useless).abs().mean(dim=1) > 0.1).all()
    assert (outgoing(l1, 0).abs().amax(dim=1) > 0.2).all(), "l1 must not shrink the input that matters to nothing"
