"""A compiled gradient step is the eager one but for rounding, and everything that may change between two steps reaches it.

``test_compile.py`` runs these tests in a process of their own: what checks annotations in others cannot be traced.
Compiling takes half a minute of a core, so here the program is the graph that was traced, run by torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import MEMBERS, difference, learner_of, learner_with, train
from hypothesis import given
from hypothesis import strategies as st
from parts import as_kind, modules, random_batches
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.dqn import DQN
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import DelayedRamp, crossed
from sparserl.training import compiled, programs
from sparserl.training.compiled import Trace
from sparserl.training.guards import TracedNumber, evaluate, hold
from sparserl.training.interrupts import prepare
from sparserl.training.learner import Learner
from sparserl.types import Batch, Time, Weights

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
        graph = made[int(library.read_text())].graph
        return lambda tensors: list(graph(*tensors))

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
    assert hold(guards, {"step": second + 10, "previous_step": second}) == (crossed(second, second + 10, interval) == decided)


def test_a_number_that_is_computed_from_a_step_follows_it() -> None:
    """In the middle of a ramp: one program from its beginning to its end."""
    step, guards = traced(value=150)
    share = DelayedRamp(100, 100)(step)  # type: ignore[arg-type]
    assert torch.ones(2).mul(share).tolist() == [0.5, 0.5]
    assert evaluate(share.expression, {"step": 175}) == 0.75
    assert hold(guards, {"step": 175})
    assert not hold(guards, {"step": 99})
    assert not hold(guards, {"step": 201})


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


@pytest.mark.parametrize("regularizer", ["none", "l0", pytest.param("l0_group_lasso", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "algorithm",
    [
        algorithm if algorithm == "dqn" else pytest.param(algorithm, marks=pytest.mark.slow)
        for algorithm in modules("algorithms")
    ],
)
def test_a_traced_step_is_the_eager_one(algorithm: str, regularizer: str, as_traced: list[Trace]) -> None:
    """Within 2e-5 after 30 steps, in which weights and gates moved by a hundred times as much."""
    both = [learner_of(algorithm, regularizer, MEMBERS, is_compiled) for is_compiled in (True, False)]
    start = learner_of(algorithm, regularizer, MEMBERS, is_compiled=False)
    for learner in both:
        train(learner, random_batches(30, MEMBERS, 64, algorithm))
    asked, eager = both
    assert asked.backend == "compiled"
    assert difference(asked, eager) < 2e-5
    assert difference(start, eager) > 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["none", "l0", "l0_group_lasso"])
def test_a_member_equals_its_solo_run_bit_for_bit(regularizer: str, cache: Path) -> None:
    """Compiled for real: alone, among eight, and at another place among three; and from a state in the middle on."""
    batches = random_batches(40, 8, 32)

    def trained(seeds: list[int], first: Learner | None = None) -> Learner:
        learner = first or learner_with(seeds, regularizer)
        start = learner._updates
        train(learner, [{name: rows[seeds] for name, rows in batch.items()} for batch in batches[start:]], start)
        assert learner.backend == "compiled"
        return learner

    def tensors(learner: Learner, place: int) -> list[Tensor]:
        groups = (*learner.weights.values(), *learner.gates.values())
        return [its[place] for layers in groups for its in layers.values()]

    def same(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(torch.equal(mine, its) for mine, its in zip(one, other, strict=True))

    eight = trained(list(range(8)))
    for member in (0, 3, 7):
        assert same(tensors(eight, member), tensors(trained([member]), 0))
    assert same(tensors(eight, 3), tensors(trained([5, 3, 6]), 1))
    half = learner_with(list(range(8)), regularizer)
    train(half, batches[:17])
    again = learner_with(list(range(8)), regularizer)
    again.load_state_dict(copy.deepcopy(half.state_dict()))
    assert same(tensors(trained(list(range(8)), again), 5), tensors(eight, 5))
    assert not same(tensors(eight, 0), tensors(eight, 1)), "members with other seeds must differ, or this test sees nothing"
