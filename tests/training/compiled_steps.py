"""Gradient steps that are compiled for real: half a minute of a core for each program.

``test_compile.py`` runs these tests in a process of their own, as it does ``traced_steps.py``.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from compiling import (
    CASES,
    EACH_STEP,
    ROUNDING,
    STEPS,
    TOGETHER,
    difference,
    learner_with,
    member_of,
    run_loop,
    tensors_of,
    train,
)
from parts import random_batches
from torch import Tensor

from sparserl.training.interrupts import prepare
from sparserl.training.learner import Learner

prepare()

EIGHT = list(range(8))


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(mine, its) for mine, its in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "more"), [("dqn", ()), ("dqn", EACH_STEP), ("ppo", ())])
def test_a_member_of_a_loop_equals_its_solo_run_and_goes_on_from_a_checkpoint(
    algorithm: str, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: it acts, with noise and without, and minibatches are put together, in programs too.

    The loop has two populations. Of DQN it has programs of one gradient step, and of many with the steps between them.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    together, snapshots = run_loop(algorithm, TOGETHER, is_compiled=True, more=more)
    assert {learner.backend for learner in together.learners} == {"compiled"}
    again, _ = run_loop(algorithm, TOGETHER, is_compiled=True, states=snapshots[0].states, more=more)
    seen = torch.randn(len(TOGETHER), 60, 4, generator=torch.Generator().manual_seed(0))
    actions = together.deterministic_action(seen, slice(0, len(TOGETHER)))
    assert together.policies._compiled, "what could not be compiled would run eagerly"
    for member, own in enumerate(TOGETHER):
        alone, _ = run_loop(algorithm, [own], is_compiled=True, more=more)
        assert same(member_of(together, member), member_of(alone, 0)), member
        assert same(member_of(together, member), member_of(again, member)), member
        assert torch.equal(alone.deterministic_action(seen[member : member + 1], slice(0, 1))[0], actions[member]), member
    assert not same(member_of(together, 0), member_of(together, 1)), (
        "members with other seeds differ, or this test sees nothing"
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_compiled_step_is_the_eager_one_and_a_member_equals_its_solo_run(
    case: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first within rounding; the second bit for bit: alone, at another place among three, and from the middle on.

    One test of both, since what takes the time is to compile.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    algorithm, regularizer, *more = case
    batches = random_batches(STEPS, 8, 32, algorithm)

    def fresh(seeds: list[int], is_compiled: bool = True) -> Learner:
        return learner_with(seeds, regularizer, algorithm, is_compiled, *more)

    def trained(seeds: list[int], is_compiled: bool = True, first: Learner | None = None) -> Learner:
        learner = first or fresh(seeds, is_compiled)
        start = learner._updates
        train(learner, [{name: rows[seeds] for name, rows in batch.items()} for batch in batches[start:]], start)
        assert learner.backend == ("compiled" if is_compiled else "eager")
        return learner

    eight, eager = trained(EIGHT), trained(EIGHT, is_compiled=False)
    assert difference(eight, eager) < ROUNDING
    assert difference(fresh(EIGHT, is_compiled=False), eager) > 100 * ROUNDING
    for member in (0, 3, 7):
        assert same(tensors_of(eight, member), tensors_of(trained([member]), 0)), member
    assert same(tensors_of(eight, 3), tensors_of(trained([5, 3, 6]), 1))
    half = fresh(EIGHT)
    train(half, batches[:17])
    again = fresh(EIGHT)
    again.load_state_dict(copy.deepcopy(half.state_dict()))
    assert same(tensors_of(trained(EIGHT, first=again), 5), tensors_of(eight, 5))
    assert not same(tensors_of(eight, 0), tensors_of(eight, 1)), "members differ, or this test sees nothing"
