"""A compiled gradient step is the eager one but for rounding, and everything that may change between two steps reaches it.

``test_compile.py`` runs these tests and ``traced_loops.py`` in processes of their own: what checks annotations in others cannot
be traced. Compiling takes half a minute of a core, so here the program is the graph that was traced, run by torch, as
``tracing.py`` does it; ``compiled_steps.py`` compiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiling import (
    CASES,
    MEMBERS,
    ROUNDING,
    STEPS,
    difference,
    learner_of,
    learner_with,
    train,
)
from hypothesis import given
from hypothesis import strategies as st
from parts import as_kind, random_batches

from sparserl.algorithms.base import Objective
from sparserl.algorithms.dqn import DQN
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import DelayedRamp, crossed
from sparserl.training.compiled import Trace
from sparserl.training.deterministic_call import DeterministicPolicies
from sparserl.training.evaluation import rows_of
from sparserl.training.guards import TracedNumber, evaluate, prepared
from sparserl.training.interrupts import prepare
from sparserl.training.learner import Learner
from sparserl.training.learner_programs import LearnerPrograms
from sparserl.training.step_inputs import StepInputs
from sparserl.types import Batch, Metrics, Time, Weights

prepare()


# ---------------------------------------------------------------- guards


def traced(name: str = "step", value: int = 7) -> tuple[TracedNumber, list[Any]]:
    guards: list[Any] = []
    return TracedNumber(name, {name: value}, {name: torch.tensor(value)}, guards), guards


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 50))
def test_a_program_holds_where_what_was_decided_would_be_decided_again(first: int, second: int, interval: int) -> None:
    numbers = {"step": first + 10, "previous_step": first}
    guards: list[Any] = []
    step, previous = (TracedNumber(name, numbers, {}, guards) for name in ("step", "previous_step"))
    decided = crossed(previous, step, interval)  # type: ignore[arg-type]
    assert decided == crossed(first, first + 10, interval)
    assert prepared(guards)({"step": second + 10, "previous_step": second}) == (
        crossed(second, second + 10, interval) == decided
    )


def test_a_number_that_is_computed_from_a_step_follows_it() -> None:
    """In the middle of a ramp: one program from its beginning to its end."""
    step, guards = traced(value=150)
    share = DelayedRamp(100, 100)(step)  # type: ignore[arg-type]
    assert torch.ones(2).mul(share).tolist() == [0.5, 0.5]
    assert evaluate(share.expression, {"step": 175}) == 0.75
    assert prepared(guards)({"step": 175})
    assert not prepared(guards)({"step": 99})
    assert not prepared(guards)({"step": 201})


@pytest.mark.parametrize("use", [int, float, hash, lambda number: [0, 1][number], lambda number: f"{float(number)}"])
def test_a_value_that_would_be_stale_in_the_next_step_is_refused(use: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="the same in every later step"):
        use(traced()[0])


# ---------------------------------------------------------------- what must not be compiled


class Stale(DQN):
    """What a program would do with the step that it was traced at for ever."""

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        found = super().losses(weights, noise_free, batch, time, rng)["policy"]
        return {"policy": Objective(found.loss * float(time.step), ("policy",), found.metrics)}


def test_a_step_that_would_be_stale_is_not_compiled(as_traced: list[Trace], capsys: pytest.CaptureFixture[str]) -> None:
    asked, eager = (learner_of("dqn", "none", MEMBERS, is_compiled) for is_compiled in (True, False))
    for learner in (asked, eager):
        algorithm = as_kind(Stale, learner.algorithm).bind(learner.algorithm.spec)
        learner.__init__(algorithm, learner.regularizer, Population(tuple(range(MEMBERS))), learner is asked)  # type: ignore[misc]
        train(learner, random_batches(3, MEMBERS, 32))
    assert difference(asked, eager) == 0
    assert "the same in every later step" in capsys.readouterr().err


# ---------------------------------------------------------------- programs as they were traced

QUICK = ("dqn", "none"), ("dqn", "l0")


@pytest.mark.parametrize(
    "case", [pytest.param(case, id="-".join(case), marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_a_traced_step_is_the_eager_one(case: tuple[str, ...], as_traced: list[Trace]) -> None:
    """Within rounding."""
    algorithm, regularizer, *more = case
    start, eager, asked = (
        learner_of(algorithm, regularizer, MEMBERS, is_compiled, *more) for is_compiled in (False, False, True)
    )
    for learner in (eager, asked):
        train(learner, random_batches(STEPS, MEMBERS, 64, algorithm))
    assert asked.backend == "compiled"
    assert difference(asked, eager) < ROUNDING
    assert difference(start, eager) > 100 * ROUNDING


@pytest.mark.parametrize(("hidden", "rows"), [("[13,7]", 1), ("[1,5]", 8), ("[5,1]", 1)])
def test_a_traced_step_of_one_transition_or_one_unit_is_the_eager_one(hidden: str, rows: int, as_traced: list[Trace]) -> None:
    """Arrays with an axis of one number lie in memory row by row and column by column."""
    more = f"network.hidden={hidden}", "network.activation=tanh"  # a single unit may be dead under ReLU
    start, eager, asked = (learner_of("dqn", "none", MEMBERS, its, *more) for its in (False, False, True))
    for learner in (eager, asked):
        train(learner, random_batches(3, MEMBERS, rows))
    assert asked.backend == "compiled"
    assert difference(asked, eager) < ROUNDING
    assert difference(start, eager) > 100 * ROUNDING


def test_the_program_of_steps_before_gates_move_is_also_that_after_they_are_frozen(as_traced: list[Trace]) -> None:
    """They move from step 100 to step 200 of 300; all that differs before and after is what the gates are fixed at."""
    active = "regularizer.delay_steps=100", "regularizer.freeze_at_step=200"
    phases = *active, "regularizer.ramp_steps=0", "regularizer.lambda_c=100", "regularizer.gate_learning_rate=1"
    asked, eager = (learner_with([0, 1], "l0", "dqn", is_compiled, *phases) for is_compiled in (True, False))
    for learner in (asked, eager):
        train(learner, random_batches(STEPS, 2, 32, "dqn"))
    assert asked.backend == "compiled"
    assert len(as_traced) == 2
    assert difference(asked, eager) < ROUNDING
    assert any(bool((its < 0).any()) for its in asked.gates["policy"].values()), "some gates are closed, or this sees nothing"


def test_what_is_learned_from_a_rollout_is_the_same_as_a_program(as_traced: list[Trace]) -> None:
    """Advantages, values and probabilities, under the sample of the gates that acted; within rounding."""
    batches = []
    for is_compiled in (True, False):
        learner = learner_with([0, 1], "l0", "ppo", is_compiled)
        learner.begin_rollout(0)
        draw = torch.Generator().manual_seed(0)
        shape = 2, 6, 3
        observation, next_observation = torch.randn(2, *shape, 4, generator=draw)
        terminated, truncated = (torch.rand(2, *shape, generator=draw) < 0.2).float()
        rollout = {
            "observation": observation,
            "action": torch.randint(2, shape, generator=draw),
            "next_observation": next_observation,
            "reward": torch.randn(shape, generator=draw),
            "terminated": terminated,
            "truncated": truncated,
        }
        with torch.no_grad():
            batches.append(learner.prepare(rollout))
        assert learner.is_compiled is is_compiled
    assert len(as_traced) == 1
    assert batches[0].keys() == batches[1].keys()
    for name, tensor in batches[0].items():
        torch.testing.assert_close(tensor, batches[1][name], atol=1e-5, rtol=1e-5)
    assert not torch.equal(batches[0]["value"][0], batches[0]["value"][1]), "members differ, or this test sees nothing"


@pytest.mark.parametrize("algorithm", ["a2c", "ddpg", "double_dqn", "dqn", "ppo", "sac", "td3"])
def test_what_policies_do_without_noise_is_the_same_as_a_program(algorithm: str, as_traced: list[Trace]) -> None:
    """With whatever weights they are given, such as those that the rank sweep has cut, and for any number of members."""
    learner = learner_of(algorithm, "none")
    all_weights, spec = learner.deterministic(), learner.algorithm.spec
    weights = {component: all_weights[component] for component in learner.algorithm.policy}
    seen = torch.randn(MEMBERS, 60, *spec.observation_shape, generator=torch.Generator().manual_seed(0))
    policies = DeterministicPolicies(learner.algorithm, compiles=lambda: True)
    for rows in (slice(0, MEMBERS), slice(1, 2)):
        its = rows_of(weights, rows)
        expected = learner.algorithm.deterministic_action(its, seen[rows])
        found = policies(its, seen[rows])
        assert (found - expected).abs().max() < ROUNDING
    cut = {component: {name: tensor * 0.1 for name, tensor in layers.items()} for component, layers in weights.items()}
    expected = learner.algorithm.deterministic_action(cut, seen)
    assert (policies(cut, seen) - expected).abs().max() < ROUNDING
    assert not torch.equal(expected, learner.algorithm.deterministic_action(weights, seen)), "this test would see nothing"
    assert len(as_traced) == 1


# ---------------------------------------------------------------- controls: what this comparison sees


def frozen_noise(now: StepInputs, before: StepInputs, first: StepInputs) -> StepInputs:
    """A noise that is a constant of the program."""
    return dataclasses.replace(now, noise=first.noise)


def stale(name: str) -> Callable[[StepInputs, StepInputs, StepInputs], StepInputs]:
    """A scalar that reaches the program a step late."""

    def late(now: StepInputs, before: StepInputs, first: StepInputs) -> StepInputs:
        return dataclasses.replace(now, scalars=dataclasses.replace(now.scalars, **{name: getattr(before.scalars, name)}))

    return late


def test_frozen_noise_and_stale_scalars_are_more_than_rounding(as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch) -> None:
    """One input is wrong: then the steps differ from eager ones by ten times as much as the tests of right ones allow."""
    call = LearnerPrograms.step

    def after_steps(wrong: Callable[[StepInputs, StepInputs, StepInputs], StepInputs] | None) -> Learner:
        given: list[StepInputs] = []

        def run(self: Any, selection: Any, its: StepInputs, observed: Any) -> Metrics | None:
            given.append(its)
            if wrong is not None:
                its = wrong(given[-1], given[-2] if given[1:] else given[-1], given[0])
            return call(self, selection, its, observed)

        monkeypatch.setattr(LearnerPrograms, "step", run)
        learner = learner_of("dqn", "l0")
        train(learner, random_batches(STEPS, MEMBERS, 64))
        assert learner.backend == "compiled"
        return learner

    eager = learner_of("dqn", "l0", is_compiled=False)
    train(eager, random_batches(STEPS, MEMBERS, 64))
    assert difference(after_steps(None), eager) < ROUNDING
    for wrong in (frozen_noise, stale("penalty"), stale("rates"), stale("gate_rate")):
        assert difference(after_steps(wrong), eager) > 10 * ROUNDING
