"""A compiled gradient step is the eager one but for rounding, and everything that may change between two steps reaches it.

``test_compile.py`` runs these tests in a process of their own: what checks annotations in others cannot be traced.
Compiling takes half a minute of a core, so here the program is the graph that was traced, run by torch; ``compiled_steps.py``
compiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import (
    CASES,
    EACH_STEP,
    MEMBERS,
    ROUNDING,
    STEPS,
    TOGETHER,
    difference,
    learner_of,
    learner_with,
    member_of,
    run_loop,
    train,
)
from hypothesis import given
from hypothesis import strategies as st
from parts import as_kind, random_batches
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.dqn import DQN
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import DelayedRamp, crossed
from sparserl.training import collecting, compiled, programs
from sparserl.training.collecting_call import CollectingCall
from sparserl.training.compiled import Trace
from sparserl.training.dependencies import CompileError
from sparserl.training.deterministic_call import DeterministicPolicies
from sparserl.training.evaluation import rows_of
from sparserl.training.events import Finished
from sparserl.training.guards import TracedNumber, evaluate, prepared
from sparserl.training.interrupts import prepare
from sparserl.training.iteration_call import IterationCall
from sparserl.training.learner import Learner
from sparserl.training.learner_programs import LearnerPrograms
from sparserl.training.step_inputs import StepInputs
from sparserl.training.updates_call import UpdatesCall
from sparserl.types import Action, Batch, Metrics, Time, Weights

prepare()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def as_traced(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Trace]:
    """Programs are run as they were traced, without a compiler. Gives the traces that were made."""
    made: list[Trace] = []

    def compile_to(trace: Trace, library: Path) -> None:
        library.write_text(str(len(made)))
        made.append(trace)

    def load(library: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        module = made[int(library.read_text())].module()

        def run(tensors: list[Tensor]) -> list[Tensor]:
            assert all(tensor.is_contiguous() for tensor in tensors), "what is compiled would read other numbers"
            with torch.no_grad():
                return list(module(*tensors))

        return run

    monkeypatch.setattr(Trace, "compile_to", compile_to)
    monkeypatch.setattr(programs, "load", load)
    monkeypatch.setattr(compiled, "has_compiler", lambda: True)
    return made


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


# ---------------------------------------------------------------- loops: acting, minibatches and statistics are in programs too


@pytest.mark.parametrize(
    ("algorithm", "more", "collected"),
    [
        ("dqn", (), set()),  # its statistics, which acting reads, take in each step
        ("dqn", ("algorithm.normalize_observation=false",), {20, 2}),  # until something is learned, and then always
        pytest.param("ppo", (), {20}, marks=pytest.mark.slow),
    ],
)
def test_a_loop_of_programs_is_the_eager_one(
    algorithm: str,
    more: tuple[str, ...],
    collected: set[int],
    as_traced: list[Trace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within rounding: with another action, another minibatch, or statistics that are a step late it would be another run.

    Gates are frozen in between. Steps of CartPole are in programs too.
    """
    taken: list[int] = []
    result = CollectingCall.result

    def record(call: CollectingCall, found: Any) -> Any:
        taken.append(len(call.times))
        return result(call, found)

    monkeypatch.setattr(CollectingCall, "result", record)
    asked, eager = (
        run_loop(algorithm, TOGETHER, is_compiled, freeze_at_step=250, more=more)[0] for is_compiled in (True, False)
    )
    assert set(taken) == collected
    of_each_learner = 400 // 5 if collected else 0
    assert sum(taken) == 2 * of_each_learner
    assert {learner.backend for learner in asked.learners} == {"compiled"}
    for member in range(len(TOGETHER)):
        for mine, its in zip(member_of(asked, member), member_of(eager, member), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)
    first = member_of(eager, 0), member_of(eager, 1)
    assert max(float((mine - its).abs().max()) for mine, its in zip(*first, strict=True)) > 0.1


def test_gradient_steps_on_a_rollout_that_are_one_program_are_eager_ones(
    as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two epochs of 100 transitions in minibatches of 40, with gates that move: the last of an epoch is smaller."""
    done: list[int] = []
    results = UpdatesCall.results

    def record(call: UpdatesCall, found: Any) -> Any:
        done.append(len(call.times))
        return results(call, found)

    monkeypatch.setattr(UpdatesCall, "results", record)
    more = "experience.batch_size=40", "experience.n_epochs=2", "algorithm.target_kl=0.16"
    asked, eager = (run_loop("ppo", TOGETHER, its, more=more)[0] for its in (True, False))
    assert set(done) == {2}
    assert {trace._call.what for trace in as_traced} > {"gradient steps", "the gradient step"}
    for learner in asked.learners:
        assert learner.backend == "compiled"
        assert learner._updates == 4 * 2 * 3
    for member in range(len(TOGETHER)):
        for mine, its in zip(member_of(asked, member), member_of(eager, member), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)
    first = member_of(eager, 0), member_of(eager, 1)
    assert max(float((mine - its).abs().max()) for mine, its in zip(*first, strict=True)) > 0.01


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


CHANGING = "algorithm.target_update_interval=15", "experience.buffer_size=150"
"""Two programs: that of steps which the target follows is not that of others. The ring is full soon."""


OTHERS = CHANGING, ("algorithm=double_dqn", "algorithm.normalize_observation=false")


@pytest.mark.parametrize("more", [(), *(pytest.param(its, marks=pytest.mark.slow) for its in OTHERS)])
def test_iterations_of_a_program_are_eager_ones(
    more: tuple[str, ...], as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within rounding, with returns over three steps, statistics, and gates that are frozen in between.

    An action, a transition or a minibatch that is a step late would make it another run.
    """
    done: list[int] = []
    results = IterationCall.results

    def record(call: IterationCall, found: Any) -> Any:
        done.append(len(call.times))
        return results(call, found)

    monkeypatch.setattr(IterationCall, "results", record)
    options = *EACH_STEP, *more
    asked, eager = (run_loop("dqn", TOGETHER, its, freeze_at_step=250, more=options)[0] for its in (True, False))
    steps = (400 - 100) // 5
    assert sum(done) == 2 * steps - 2, "the steps at which gates become active, and are frozen, are taken by themselves"
    assert max(done) > 1
    for learner in asked.learners:
        assert learner.backend == "compiled"
        assert learner._updates == steps
    for member in range(len(TOGETHER)):
        for mine, its in zip(member_of(asked, member), member_of(eager, member), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)
    first = member_of(eager, 0), member_of(eager, 1)
    assert max(float((mine - its).abs().max()) for mine, its in zip(*first, strict=True)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["magnitude", "l0_rank"])
def test_gates_that_a_schedule_sets_end_what_is_one_call(regularizer: str, as_traced: list[Trace]) -> None:
    """Masks at every tenth step; bases when gates become active."""
    changing = {
        "magnitude": ("regularizer.start_step=100", "regularizer.end_step=350", "regularizer.update_interval=50"),
        "l0_rank": ("regularizer.delay_steps=200", "regularizer.ramp_steps=0", "network.activation=tanh"),
    }
    options = *EACH_STEP, *changing[regularizer]
    asked, eager = (run_loop("dqn", [(regularizer, 0)], its, more=options)[0] for its in (True, False))
    assert asked.learners[0].backend == "compiled"
    for mine, its in zip(member_of(asked, 0), member_of(eager, 0), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)


def test_a_member_that_diverges_in_the_middle_of_a_call_is_stopped_at_its_step(as_traced: list[Trace]) -> None:
    stopped = []
    for is_compiled in (True, False):
        more = (*EACH_STEP, "algorithm.normalize_observation=false", "algorithm.learning_rate=1e15")
        group, _ = run_loop("dqn", [("none", 0), ("none", 1)], is_compiled, more=more)
        stopped.append(group.stopped())
    assert all(stopped[1]), "members diverge, or this test sees nothing"
    assert stopped[0] == stopped[1]


@pytest.mark.slow
def test_a_learner_that_cannot_iterate_in_a_program_leaves_the_others_as_they_were(
    as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes its own steps eagerly, with its own part of the random numbers."""
    key = IterationCall.key

    def refuse_gates(call: IterationCall) -> Any:
        if call._state.gates or call._state.fixed_gates:
            raise CompileError("made to fail")
        return key(call)

    monkeypatch.setattr(IterationCall, "key", refuse_gates)
    together, snapshots = run_loop("dqn", TOGETHER, is_compiled=True, more=EACH_STEP)
    again, _ = run_loop("dqn", TOGETHER, is_compiled=True, states=snapshots[0].states, more=EACH_STEP)
    assert together.learners[0].backend == "compiled"
    assert not together.learners[1].is_compiled
    for member, own in enumerate(TOGETHER):
        alone, _ = run_loop("dqn", [own], is_compiled=True, more=EACH_STEP)
        for mine, its, same in zip(member_of(together, member), member_of(alone, 0), member_of(again, member), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)
            assert torch.equal(mine, same)


@pytest.mark.slow
def test_without_loops_in_programs_steps_are_programs_of_their_own(
    as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with versions of torch before 2.13."""
    monkeypatch.setattr(collecting, "can_repeat", lambda: False)
    asked, eager = (run_loop("dqn", TOGETHER, its, more=EACH_STEP)[0] for its in (True, False))
    assert {trace._call.what for trace in as_traced} == {"acting", "the gradient step", "acting without noise"}
    for mine, its in zip(member_of(asked, 0), member_of(eager, 0), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)


def test_a_learner_that_cannot_collect_in_a_program_leaves_the_others_as_they_were(
    as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes its own steps eagerly, with its own part of the random numbers."""
    key, plain = CollectingCall.key, ("algorithm.normalize_observation=false",)

    def refuse_gates(call: CollectingCall) -> Any:
        if call._state.gates or call._state.fixed_gates:
            raise CompileError("made to fail")
        return key(call)

    monkeypatch.setattr(CollectingCall, "key", refuse_gates)
    together, _ = run_loop("dqn", TOGETHER, is_compiled=True, more=plain)
    assert [learner.backend for learner in together.learners] == ["compiled", "eager"]
    for member, own in enumerate(TOGETHER):
        alone, _ = run_loop("dqn", [own], is_compiled=own[0] == "none", more=plain)
        for mine, its in zip(member_of(together, member), member_of(alone, 0), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)


class Uneven(DQN):
    """Draws twice from some step on."""

    def act(self, weights: Weights, observation: Tensor, step: int, rng: MemberRng) -> Action:
        if step >= 30:
            rng.uniform(3)
        return super().act(weights, observation, step, rng)


@pytest.mark.slow
@pytest.mark.parametrize("train_freq", [20, 5])
def test_steps_that_draw_more_than_others_are_another_program(train_freq: int, as_traced: list[Trace]) -> None:
    """With nothing to learn from between some steps, and with a gradient step after each."""
    options = "trainer=smoke", "trainer.num_envs=5", "algorithm.normalize_observation=false", "algorithm.epsilon.steps=400"
    more = f"experience.train_freq={train_freq}", "experience.learning_starts=10"
    learned = []
    for compiles in ("true", "false"):
        trainer, parts = build([compose(*options, *more, f"trainer.compile={compiles}")])
        uneven = as_kind(Uneven, parts.algorithm)
        population = dataclasses.replace(parts.populations[0], algorithm=uneven)
        *_, end = trainer.run(dataclasses.replace(parts, algorithm=uneven, populations=[population]))
        assert isinstance(end, Finished)
        learned.append(member_of(end.group, 0))
    assert {len(its.description.draws) for its in as_traced if "environment" in its._call.what} == {1, 2}
    for mine, its in zip(*learned, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-4)


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
