"""Loops of programs are eager ones but for rounding: acting, minibatches, statistics, and several steps in one call.

``test_compile.py`` runs these tests in a process of their own, as it does ``traced_steps.py``, which see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from compiling import EACH_STEP, ROUNDING, TOGETHER, member_of, run_loop
from parts import as_kind
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.dqn import DQN
from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.networks.base import Network
from sparserl.population.members import Population
from sparserl.population.random import MemberRng, _Block
from sparserl.schedules import Schedule
from sparserl.training import collecting, repeated
from sparserl.training.collecting_call import CollectingCall
from sparserl.training.compiled import Trace
from sparserl.training.dependencies import CompileError
from sparserl.training.events import Finished
from sparserl.training.interrupts import prepare
from sparserl.training.iteration_call import IterationCall
from sparserl.training.learner_group import LearnerGroup
from sparserl.training.updates_call import UpdatesCall
from sparserl.types import Action, Batch, Time, Weights

prepare()


def times_of(kind: type, method: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that takes the number of times of each call of a kind, when its ``method`` takes what it gave."""
    found: list[int] = []
    take = getattr(kind, method)

    def record(call: Any, given: Any) -> Any:
        found.append(len(call.times))
        return take(call, given)

    monkeypatch.setattr(kind, method, record)
    return found


def assert_close(one: LearnerGroup, other: LearnerGroup, tolerance: float = 1e-3) -> None:
    """All that learning has made of every member, within more than rounding makes of it, and less than another action."""
    for member in range(len(one.stopped())):
        for mine, its in zip(member_of(one, member), member_of(other, member), strict=True):
            torch.testing.assert_close(mine, its, atol=tolerance, rtol=tolerance)


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
    taken = times_of(CollectingCall, "result", monkeypatch)
    asked, eager = (
        run_loop(algorithm, TOGETHER, is_compiled, freeze_at_step=250, more=more)[0] for is_compiled in (True, False)
    )
    assert set(taken) == collected
    of_each_learner = 400 // 5 if collected else 0
    assert sum(taken) == 2 * of_each_learner
    assert {learner.backend for learner in asked.learners} == {"compiled"}
    assert_close(asked, eager)
    first = member_of(eager, 0), member_of(eager, 1)
    assert max(float((mine - its).abs().max()) for mine, its in zip(*first, strict=True)) > 0.1


def test_gradient_steps_on_a_rollout_that_are_one_program_are_eager_ones(
    as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two epochs of 100 transitions in minibatches of 40, with gates that move: the last of an epoch is smaller."""
    done, updates, take = times_of(UpdatesCall, "results", monkeypatch), list[int](), UpdatesCall.results

    def record(call: UpdatesCall, found: Any) -> Any:
        updates.extend(counters["update"] for counters in call.times)
        return take(call, found)

    monkeypatch.setattr(UpdatesCall, "results", record)
    more = "experience.batch_size=40", "experience.n_epochs=2"
    runs = (False, ("trainer.total_steps=100",)), (True, ()), (False, ())
    start, asked, eager = (run_loop("ppo", [("l0", 2)], its, more=(*more, *short))[0] for its, short in runs)
    assert set(done) == {2}
    assert {trace._call.what for trace in as_traced} > {"gradient steps", "the gradient step"}
    (learner,) = asked.learners
    assert learner.backend == "compiled"
    assert learner._updates == 4 * 2 * 3
    assert updates == [number for number in range(learner._updates) if number % 3 < 2], "the third is of a smaller minibatch"
    assert_close(asked, eager, ROUNDING)  # a wrong count of steps makes a step of Adam almost twice as large at the start
    pairs = zip(member_of(start, 0), member_of(eager, 0), strict=True)
    assert max(float((mine - its).abs().max()) for mine, its in pairs) > 0.01, "something is learned, or this test sees nothing"


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
    done = times_of(IterationCall, "results", monkeypatch)
    options = *EACH_STEP, *more
    asked, eager = (run_loop("dqn", TOGETHER, its, freeze_at_step=250, more=options)[0] for its in (True, False))
    steps = (400 - 100) // 5
    assert sum(done) == 2 * steps - 2, "the steps at which gates become active, and are frozen, are taken by themselves"
    assert max(done) > 1
    for learner in asked.learners:
        assert learner.backend == "compiled"
        assert learner._updates == steps
    assert_close(asked, eager)
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
    assert_close(asked, eager)


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
    assert_close(asked, eager)


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


# ---------------------------------------------------------------- algorithms of one's own


class Uneven(DQN):
    """Draws twice from some step on."""

    def act(self, weights: Weights, observation: Tensor, step: int, rng: MemberRng) -> Action:
        if step >= 30:
            rng.uniform(3)
        return super().act(weights, observation, step, rng)


class OfTwoKinds(DQN):
    """Draws numbers of two kinds to act."""

    def act(self, weights: Weights, observation: Tensor, step: int, rng: MemberRng) -> Action:
        noise = rng.normal(*observation.shape[1:])
        return super().act(weights, observation + noise, step, rng)


class Delayed(DQN):
    """A second network learns at every second gradient step only, as the actor of TD3 does."""

    @property
    def networks(self) -> dict[str, Network]:
        return {**super().networks, "other": super().networks["policy"]}

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return super().learning_rates | {"other": self.learning_rate}

    def init(self, members: Population) -> Weights:
        found = super().init(members)
        return found | {"other": {name: tensor.clone() for name, tensor in found["policy"].items()}}

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        found = super().losses(weights, noise_free, batch, time, rng)
        if time.update % 2 == 0:
            values = self.network(weights["other"], self.network_input(weights, batch["observation"]))
            found["other"] = Objective((values - 1).square().mean(dim=(1, 2)), ("other",), {})
        return found


def run_own(kind: type[DQN], is_compiled: bool, regularizers: Sequence[str], more: Sequence[str]) -> LearnerGroup:
    """A loop of 400 steps of an algorithm of this kind, one member under each regulariser."""
    options = "trainer=smoke", "trainer.num_envs=5", "algorithm.epsilon.steps=400", "network.hidden=[13,7]"
    masks = "regularizer.start_step=50", "regularizer.end_step=350", "regularizer.update_interval=35"
    of_each = [(f"regularizer={its}", *(masks if its == "magnitude" else ())) for its in regularizers]
    compiles = f"trainer.compile={str(is_compiled).lower()}"
    trainer, parts = build([compose(*options, *more, *own, compiles) for own in of_each])
    populations = [dataclasses.replace(its, algorithm=as_kind(kind, its.algorithm)) for its in parts.populations]
    algorithm = as_kind(kind, parts.algorithm)
    *_, end = trainer.run(dataclasses.replace(parts, algorithm=algorithm, populations=populations))
    assert isinstance(end, Finished)
    return end.group


OWN = "experience.learning_starts=10", "algorithm.normalize_observation=false"


@pytest.mark.slow
@pytest.mark.parametrize("train_freq", [20, 5])
def test_steps_that_draw_more_than_others_are_another_program(train_freq: int, as_traced: list[Trace]) -> None:
    """With nothing to learn from between some steps, and with a gradient step after each."""
    more = (*OWN, f"experience.train_freq={train_freq}")
    asked, eager = (run_own(Uneven, its, ["none"], more) for its in (True, False))
    assert {len(its.description.draws) for its in as_traced if "environment" in its._call.what} == {1, 2}
    assert_close(asked, eager)


@pytest.mark.slow
@pytest.mark.parametrize("train_freq", [20, 5])
def test_numbers_of_two_kinds_are_those_of_an_eager_run_in_calls_that_are_cut_in_unlike_ways(
    train_freq: int, as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both learners are handed their own of each kind, though masks cut the calls of one; blocks of numbers end often."""
    monkeypatch.setattr(_Block, "size", 64)
    more = (*OWN, f"experience.train_freq={train_freq}")
    asked, eager = (run_own(OfTwoKinds, its, ["none", "magnitude"], more) for its in (True, False))
    assert_close(asked, eager)


@pytest.mark.slow
def test_the_optimiser_counts_the_steps_of_a_network_that_learns_at_some_only(as_traced: list[Trace]) -> None:
    more = (*OWN, "experience.train_freq=5", "algorithm.target_update_interval=5")
    asked, eager = (run_own(Delayed, its, ["none"], more) for its in (True, False))
    assert asked.learners[0].backend == "compiled"
    for mine, its in zip(asked.learners[0].weights["other"].values(), eager.learners[0].weights["other"].values(), strict=True):
        # wrong counts make 8e-4 of it, rounding 1e-7
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- where calls are cut


@pytest.mark.parametrize(("algorithm", "more"), [("dqn", EACH_STEP), pytest.param("ppo", (), marks=pytest.mark.slow)])
def test_where_a_call_is_cut_changes_nothing(
    algorithm: str, more: tuple[str, ...], as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit."""
    whole, _ = run_loop(algorithm, [("none", 0)], is_compiled=True, more=more)
    monkeypatch.setattr(repeated, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(collecting, "MOST_STEPS", 7)
    cut, _ = run_loop(algorithm, [("none", 0)], is_compiled=True, more=more)
    for mine, its in zip(member_of(whole, 0), member_of(cut, 0), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.slow
def test_a_regulariser_that_made_no_gates_cuts_nothing(as_traced: list[Trace], monkeypatch: pytest.MonkeyPatch) -> None:
    done = times_of(IterationCall, "results", monkeypatch)
    run_loop("dqn", [("l0_rank", 0)], is_compiled=True, more=(*EACH_STEP, "regularizer.smallest_side=100"))
    assert sum(done) == (400 - 100) // 5
    assert min(done) > 1
