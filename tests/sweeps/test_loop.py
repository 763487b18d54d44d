"""From a loop's events to what is left of it: policies and results when training ends, ranks after that, and nothing open."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import stopping_at_checkpoints

from sparserl import load_policy, status
from sparserl.config.schema import Config
from sparserl.config.validation import compose
from sparserl.environments.cartpole import VectorCartPole
from sparserl.lowrank.sweep import RankSweep
from sparserl.runs import checkpoint, reader
from sparserl.runs.files import DiskError, read_json
from sparserl.sweeps import loop
from sparserl.sweeps.grouping import group_jobs
from sparserl.sweeps.jobs import Job
from sparserl.sweeps.loop import run
from sparserl.training import compiled
from sparserl.training.evaluation import Evaluator
from sparserl.training.learner import Learner
from sparserl.training.statistics import TRAINING_PHASES
from sparserl.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("undrawn")

SETTINGS = ("trainer=smoke", "network.hidden=[8]", "regularizer=l2", "logger=disk")
SHRUNKEN = "shrunken_rank", "shrunken_compression", "shrunken_return_mean", "shrunken_retention"
OF_THE_SWEEP = ("rank", "rank_reason", "compression", "return_lowrank", "retention", *SHRUNKEN)
"""What a result gets when its rank sweep has ended."""


def configs() -> list[Config]:
    return [compose(*SETTINGS, f"seed={seed}") for seed in range(2)]


def signalled() -> None:
    """The process is asked to end; the loop sees it at the next step of an evaluation."""
    os.kill(os.getpid(), signal.SIGTERM)


# ---------------------------------------------------------------- the rank sweep completes what is there already


class Killed(BaseException):
    """As if the process had died: nothing catches it, so the last status stays."""


def raises(error: BaseException) -> Callable[..., Any]:
    def end(*_: object) -> None:
        raise error

    return end


def is_signalled(sweep: Callable[..., Any]) -> Callable[..., Any]:
    def end(*arguments: Any) -> Any:
        signalled()
        return sweep(*arguments)

    return end


ENDS: dict[str, tuple[Callable[[Callable[..., Any]], Callable[..., Any]], type[BaseException], str, str]] = {
    # what takes the place of the sweep, what run raises, status.json, and what sparserl-status makes of it
    "killed": (lambda _: raises(Killed()), Killed, "running", "running"),
    "Ctrl-C": (lambda _: raises(KeyboardInterrupt()), KeyboardInterrupt, "interrupted", "interrupted"),
    "a signal": (is_signalled, KeyboardInterrupt, "interrupted", "interrupted"),
    "a full disk": (lambda _: raises(DiskError("no room")), DiskError, "interrupted", "interrupted"),
    "an error": (lambda _: raises(RuntimeError("the ranks broke")), RuntimeError, "failed", "failed"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that nothing happened to."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
        run(configs(), [root / "0", root / "1"], live=False)
    return root


@pytest.mark.parametrize("how", ENDS)
def test_a_run_that_ends_in_its_rank_sweep_has_its_policy_and_result_and_is_completed(
    how: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lost the policy and the result of a whole training before."""
    instead, raised, written, looked = ENDS[how]
    folders = [tmp_path / "0", tmp_path / "1"]
    with monkeypatch.context() as patch:
        patch.setattr(RankSweep, "__call__", instead(RankSweep.__call__))
        with pytest.raises(raised):
            run(configs(), folders, live=False)
    unswept = []
    for folder in folders:
        assert (folder / "policy.safetensors").read_bytes() == (whole / folder.name / "policy.safetensors").read_bytes()
        assert load_policy(folder, rank=1)(torch.zeros(3, 4)).shape == (3, 2)
        found = reader.read(folder)
        assert found.problems == []
        assert (found.status_file["status"], found.status, found.counts) == (written, looked, True)
        assert [found.result[key] for key in OF_THE_SWEEP] == [None, "not_swept", *[None] * 7]
        assert (found.result["status"], found.learned) == ("done", None)
        assert not (folder / "lowrank.csv").exists()
        unswept.append(found.result)
    assert {(job.status, job.env_step, job.total_steps) for job in status.look(tmp_path)} == {(looked, 400, 400)}

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", raises(AssertionError("it trains again")))
        results = run(configs(), folders, live=False)
    for folder, before, result in zip(folders, unswept, results, strict=True):
        for name in ("lowrank.csv", "spectrum.csv", "metrics.jsonl", "policy.safetensors"):
            assert (folder / name).read_bytes() == (whole / folder.name / name).read_bytes()
        # what was trained is not measured again: not even the seconds differ
        changed = *OF_THE_SWEEP, "warnings"
        trained = {key: value for key, value in vars(result).items() if key not in changed}
        assert trained == {key: value for key, value in before.items() if key not in changed}
        assert result.warnings[: len(before["warnings"])] == before["warnings"]
        untouched = read_json(whole / folder.name / "result.json")
        assert [getattr(result, key) for key in OF_THE_SWEEP] == [untouched[key] for key in OF_THE_SWEEP]
        assert read_json(folder / "result.json") == vars(result)
        assert read_json(folder / "status.json")["status"] == "done"


def test_while_ranks_are_evaluated_the_status_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is there already; that does not make the run done."""
    seen = []
    sweep = RankSweep.__call__

    def look(*arguments: Any) -> Any:
        seen.extend(status.look(tmp_path))
        return sweep(*arguments)

    monkeypatch.setattr(RankSweep, "__call__", look)
    (result,) = run(configs()[:1], [tmp_path / "0"], live=False)
    assert [(job.status, job.env_step, job.note, job.return_mean) for job in seen] == [
        ("running", 400, "the ranks are evaluated", result.return_mean)
    ]
    assert [(job.status, job.note) for job in status.look(tmp_path)] == [("done", None)]


# ---------------------------------------------------------------- in which loop a run goes on


def test_what_began_in_unlike_loops_goes_on_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``trainer.compile=auto`` was to compile the first run, and neither of the others; all have a checkpoint of one step."""
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    jobs = [
        Job(compose(*SETTINGS, "trainer.compile=auto", f"seed={seed}"), tmp_path / "stopped" / str(seed)) for seed in range(3)
    ]

    def trained(some: list[Job]) -> list[str]:
        return [result.status for result in run([job.config for job in some], [job.folder for job in some], live=False)]

    for compiles, some in ((True, jobs[:1]), (False, jobs[1:])):
        with monkeypatch.context() as patch, stopping_at_checkpoints(patch) as steps:
            patch.setattr(Trainer, "compiles", lambda trainer, parts, compiles=compiles: compiles)
            with pytest.raises(KeyboardInterrupt):
                trained(some)
        assert steps == [200]
    shutil.copytree(tmp_path / "stopped", tmp_path / "together")
    with pytest.raises(DiskError, match="members of one population disagree"):
        trained([Job(job.config, tmp_path / "together" / job.folder.name) for job in jobs])
    groups = group_jobs(jobs, 64, 1)
    assert groups == [jobs[:1], jobs[1:]]
    assert [trained(group) for group in groups] == [["done"], ["done"] * 2]


@pytest.mark.parametrize("began", [True, False], ids=["compiled", "eagerly"])
def test_a_run_that_is_to_be_run_in_another_way_goes_on_as_it_began(
    began: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    ways = {way: compose(*SETTINGS, f"trainer.compile={str(way).lower()}", "seed=0") for way in (True, False)}
    with monkeypatch.context() as patch, stopping_at_checkpoints(patch), pytest.raises(KeyboardInterrupt):
        run([ways[began]], [tmp_path], live=False)
    capsys.readouterr()
    (result,) = run([ways[not began]], [tmp_path], live=False)
    assert result.status == "done"
    how = "compiled" if began else "eagerly"
    assert f"trainer.compile is {str(not began).lower()}, but a run goes on as it began: {how}\n" in capsys.readouterr().err


# ---------------------------------------------------------------- where the time goes


@pytest.mark.parametrize("stopped", [False, True], ids=["untouched", "stopped and gone on"])
def test_train_seconds_are_those_of_the_phases_of_training(
    stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the rows that count: what was trained after the last checkpoint of a stopped run is trained, and timed, again."""
    if stopped:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", at(2, raises(KeyboardInterrupt()), checkpoint.save))
            with pytest.raises(KeyboardInterrupt):
                run(configs()[:1], [tmp_path], live=False)
    (result,) = run(configs()[:1], [tmp_path], live=False)
    rows = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    training = sum(row.get(phase, 0.0) for row in rows for phase in TRAINING_PHASES)
    assert set(TRAINING_PHASES) <= {key for row in rows for key in row}
    assert result.train_seconds == pytest.approx(training, rel=1e-12)
    everything = sum(value for row in rows for key, value in row.items() if key not in ("env_step", "lowrank"))
    assert result.wall_seconds == pytest.approx(everything, rel=1e-12)
    assert 0 < result.train_seconds < result.wall_seconds
    assert [row["env_step"] for row in rows] == [100, 200, 300, 400, 400]
    assert rows[-1].keys() == {"env_step", "lowrank"}


# ---------------------------------------------------------------- nothing stays open


@dataclass
class Opened:
    """The vector environments and evaluators of the loops of a test: those that were opened, and those that were closed."""

    opened: list[object]
    closed: list[object]


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> Opened:
    opened = Opened([], [])
    for cls in (VectorCartPole, Evaluator):
        monkeypatch.setattr(cls, "__init__", noted(opened.opened, cls.__init__))
        monkeypatch.setattr(cls, "close", noted(opened.closed, cls.close))
    return opened


def noted(into: list[object], method: Callable[..., None]) -> Callable[..., None]:
    """The same method, which notes whose it is."""

    def called(self: object, *arguments: object, **named: object) -> None:
        into.append(self)
        method(self, *arguments, **named)

    return called


def at(number: int, do: Callable[[], object], function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which at the call of that ``number`` first does something."""
    calls = count(1)

    def called(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            do()
        return function(*arguments, **named)

    return called


@pytest.mark.parametrize(
    ("owner", "name", "number", "do", "raised"),
    [
        (Learner, "update", 0, signalled, None),
        (Learner, "update", 5, raises(RuntimeError()), RuntimeError),
        (Learner, "update", 5, signalled, KeyboardInterrupt),
        (VectorCartPole, "reset", 1, raises(RuntimeError()), RuntimeError),
        (VectorCartPole, "reset", 2, raises(RuntimeError()), RuntimeError),  # of the first evaluation
        (VectorCartPole, "step", 7, raises(RuntimeError()), RuntimeError),
        (VectorCartPole, "step", 7, raises(Killed()), Killed),
        (Evaluator, "_play_wave", 1, signalled, KeyboardInterrupt),
        (Evaluator, "_play_wave", 2, raises(RuntimeError()), RuntimeError),  # of the last evaluation
        (checkpoint, "save", 1, raises(DiskError()), DiskError),
        (loop, "random_returns", 1, raises(RuntimeError()), RuntimeError),
        (RankSweep, "__call__", 1, signalled, KeyboardInterrupt),
        (Evaluator, "_play_wave", 4, raises(RuntimeError()), RuntimeError),  # of the ranks
    ],
)
def test_whatever_ends_a_loop_environments_and_evaluators_are_closed(
    owner: Any,
    name: str,
    number: int,
    do: Callable[[], object],
    raised: type[BaseException] | None,
    everything: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Success, errors in every part, and signals: an environment that has processes would leave them behind."""
    monkeypatch.setattr(owner, name, at(number, do, getattr(owner, name)))
    with pytest.raises(raised) if raised else nullcontext():
        run(configs(), [tmp_path / "0", tmp_path / "1"], live=False)
    vectors = [thing for thing in everything.opened if isinstance(thing, VectorCartPole)]
    assert vectors
    assert [everything.closed.count(vector) for vector in vectors] == [1] * len(vectors)
    assert {id(thing) for thing in everything.opened} == {id(thing) for thing in everything.closed}
    if raised is None:
        # one in which training acts, and one of each evaluator
        assert len(vectors) == len(everything.opened) - len(vectors) + 1
