"""A job of a multirun that fails, and those that share a loop with it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import stopping_at_checkpoints
from launching import OUTCOME, Sweep, jobs, outcome, statuses

from sparserl.config.schema import Config
from sparserl.experience.selection import Selection
from sparserl.lowrank.sweep import RankSweep
from sparserl.regularizers.l1 import L1
from sparserl.runs.files import read_json
from sparserl.sweeps import launcher
from sparserl.training.learner import Learner


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """L1 cannot be trained; called, it can again."""
    update = Learner.update

    def fail(learner: Learner, *arguments: Any) -> Any:
        if isinstance(learner.regularizer, L1):
            raise RuntimeError("made to fail")
        return update(learner, *arguments)

    monkeypatch.setattr(Learner, "update", fail)
    return lambda: monkeypatch.setattr(Learner, "update", update)


@pytest.fixture
def broken_late(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Learner]]:
    """L1 cannot be trained beyond its 30th gradient step, which is after a checkpoint. Those that tried."""
    update = Learner.update
    tried: list[weakref.ref[Learner]] = []

    def fail(learner: Learner, *arguments: Any) -> Any:
        if isinstance(learner.regularizer, L1) and learner.state.weights["policy"].moments["step"] == 30:
            tried.append(weakref.ref(learner))
            gc.collect()
            raise RuntimeError("made to fail")
        return update(learner, *arguments)

    monkeypatch.setattr(Learner, "update", fail)
    return tried


BOTH = ("regularizer=l1,none", "seed=0,1", "trainer.total_steps=600", "trainer.checkpoint_every=100")


def test_who_shares_a_loop_with_a_failure_goes_on_as_if_nothing_had_been(
    sweep: Sweep, broken_late: list[weakref.ref[Learner]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = outcome(sweep("regularizer=none", *BOTH[1:], folder="whole"))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="made to fail"):
        sweep(*BOTH)
    said = capsys.readouterr().err
    assert said.count("warning: RuntimeError: made to fail; each population goes on by itself") == 1
    assert said.count("going on from step") == 2
    root = tmp_path / "here/outputs/mine"
    assert statuses(root) == ["failed", "failed", "done", "done"]
    for folder in jobs(root)[2:]:
        assert tuple((folder / name).read_bytes() for name in OUTCOME) == whole[folder.name]
    for folder in jobs(root)[:2]:
        assert "During handling" not in read_json(folder / "status.json")["error"]
    first, _ = broken_late
    assert first() is None, "what was trained in one loop must not stay beside what is trained after it"


def test_ctrl_c_while_one_population_fails_again_leaves_the_others_to_be_trained(
    sweep: Sweep, broken_late: list[weakref.ref[Learner]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = launcher.run

    def interrupted(configs: list[Config], *arguments: Any) -> Any:
        if len(configs) == 2:
            raise KeyboardInterrupt
        return real(configs, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(launcher, "run", interrupted)
        with pytest.raises(SystemExit):
            sweep(*BOTH)
    root = tmp_path / "here/outputs/mine"
    assert statuses(root) == ["waiting"] * 4
    with pytest.raises(SystemExit, match="made to fail"):
        sweep(*BOTH)
    assert statuses(root) == ["failed", "failed", "done", "done"]


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [(KeyboardInterrupt(), "interrupted", ()), (RuntimeError("the ranks broke"), "failed", ("retry_failed=true",))],
    ids=["Ctrl-C", "an error"],
)
def test_what_ends_while_ranks_are_evaluated_is_completed_without_training(
    error: BaseException, status: str, again: tuple[str, ...], sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every job has its policy and its result by then; neither makes it done."""
    jobs_of_it = "regularizer=l1", "seed=0,1"
    whole = outcome(sweep(*jobs_of_it, folder="whole"))

    def end(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(RankSweep, "__call__", end)
        with pytest.raises(SystemExit):
            sweep(*jobs_of_it)
    root = tmp_path / "here/outputs/mine"
    assert statuses(root) == [status] * 2
    assert [read_json(folder / "result.json")["rank_reason"] for folder in jobs(root)] == ["not_swept"] * 2
    monkeypatch.setattr(Learner, "update", None)
    assert outcome(sweep(*jobs_of_it, *again)) == whole
    assert statuses(root) == ["done"] * 2
    assert "not_swept" not in [read_json(folder / "result.json")["rank_reason"] for folder in jobs(root)]


def test_one_damaged_folder_stops_its_own_population_only(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with stopping_at_checkpoints(monkeypatch), pytest.raises(SystemExit):
        sweep(*BOTH)
    root = tmp_path / "here/outputs/mine"
    (jobs(root)[0] / "metrics.jsonl").write_text("")
    with pytest.raises(SystemExit, match="has lost rows"):
        sweep(*BOTH)
    assert statuses(root) == ["interrupted", "interrupted", "done", "done"]


def test_a_failure_stays_where_it_happened(
    sweep: Sweep, broken: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = "regularizer=l1,none", "seed=0,1"
    with pytest.raises(SystemExit) as ended:
        sweep(*both)
    assert "made to fail" in str(ended.value)
    assert "\n" not in str(ended.value)
    *failed, first, second = jobs(tmp_path / "here/outputs/mine")
    printed = capsys.readouterr().out
    for folder in failed:
        assert folder.name in printed
        assert "made to fail" in read_json(folder / "status.json")["error"]
        assert "Traceback" in (folder / "run.log").read_text()
    assert [read_json(folder / "status.json")["status"] for folder in (first, second)] == ["done", "done"]

    broken()
    with pytest.raises(SystemExit, match="retry_failed=true"):
        sweep(*both)
    sweep(*both, "retry_failed=true")
    assert all(read_json(folder / "status.json")["status"] == "done" for folder in failed)


def test_a_diverged_member_is_a_failed_job_and_is_not_tried_again(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are deterministic: retry_failed=true used to train it for as long again, and it diverged at the same step."""
    update = Learner.update

    def poison(learner: Learner, selection: Selection, env_step: int) -> Any:
        batch = selection.batch()
        batch["reward"] = batch["reward"].clone()
        batch["reward"][1] = float("nan")
        return update(learner, batch, env_step)

    monkeypatch.setattr(Learner, "update", poison)
    with pytest.raises(SystemExit, match="not finite"):
        sweep("regularizer=none", "seed=0,1,2")
    root = tmp_path / "here/outputs/mine"
    assert statuses(root) == ["done", "failed", "done"]
    before = outcome(root)
    with pytest.raises(SystemExit, match="a second attempt gives the same"):
        sweep("regularizer=none", "seed=0,1,2", "retry_failed=true")
    assert statuses(root) == ["done", "failed", "done"]
    assert outcome(root) == before


def test_a_job_that_cannot_be_is_one_sentence_and_the_others_go_on(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"regularizer\.beta is 0"):
        sweep("regularizer.beta=0,0.5", "seed=0")
    assert "2 jobs: 1 to train, 1 refused" in capsys.readouterr().err, "it was said to have ended before"
    (whole,) = (folder for folder in jobs(tmp_path / "here/outputs/mine") if not folder.name.startswith("invalid"))
    assert read_json(whole / "status.json")["status"] == "done"


def test_a_sweep_is_not_resumed_but_started_again(sweep: Sweep) -> None:
    with pytest.raises(SystemExit, match="the same sweep started again goes on by itself"):
        sweep("seed=0,1", "resume=somewhere")


def test_a_file_in_the_place_of_a_folder_stops_that_job_only(sweep: Sweep, tmp_path: Path) -> None:
    root = sweep("regularizer=none", "seed=0,1")
    taken, kept = jobs(root)
    for path in sorted(taken.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    taken.rmdir()
    taken.write_text("mine")
    with pytest.raises(SystemExit, match="cannot be used"):
        sweep("regularizer=none", "seed=0,1,2")
    assert taken.read_text() == "mine"
    assert kept in jobs(root)
    assert [read_json(folder / "status.json")["status"] for folder in jobs(root)] == ["done", "done"]
