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
from sparserl.trainer import Finished

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
