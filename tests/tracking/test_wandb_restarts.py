"""W&B has the rows of the attempt that the disk has, and never some of one and some of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_runs import SETTINGS, history, of, opened, records, rows, training
from wandb_server import Server

from sparserl.config.validation import compose
from sparserl.runs.files import read_json
from sparserl.sweeps.loop import run
from sparserl.tracking.wandb_files import read_records
from sparserl.training.events import Row
from sparserl.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("logged_out")

Rows = dict[int, float]
"""The values of training rows, by step."""


def tell(mode: str, folder: Path, values: Rows, ranks: Sequence[float] = ()) -> None:
    """One process: it says what is on the disk, and what it adds."""
    chosen, (log,) = opened(mode, folder)
    for step, value in values.items():
        log.row({"env_step": step, "value": value})
    if ranks:
        names = [*range(1, len(ranks)), "full"]
        log.sweep([{"rank": rank, "return_mean": value} for rank, value in zip(names, ranks, strict=True)])
    log.end("interrupted")
    chosen.close([log])


def uploaded(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What `wandb sync` would bring to W&B, by the id of the run: rows and ranks as they come."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.stat().st_ctime):
        if not path.with_name(f"{path.name}.synced").exists():
            found.setdefault(path.stem.removeprefix("run-"), []).extend(history(read_records(path)))
    return found


def values(lines: Sequence[dict[str, Any]]) -> Rows:
    return {line["env_step"]: line["value"] for line in lines if "value" in line}


FIRST: Rows = {10: 1.0, 20: 2.0, 30: 3.0}


# ---------------------------------------------------------------- offline


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({10: 9.0, 20: 8.0}, id="from the start"),
        pytest.param({10: 1.0, 20: 2.0, 30: 9.0, 40: 4.0}, id="from a checkpoint"),
        pytest.param({10: 1.0, 20: 2.0, 40: 4.0}, id="at other steps"),
        pytest.param({15: 1.0}, id="at a step that was not there"),
    ],
)
def test_another_attempt_is_another_run_with_everything(
    second: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B kept the rows that it had: the curve was the one attempt up to there and the other one after it."""
    tell("offline", tmp_path, FIRST)
    old = read_json(tmp_path / "wandb.json")["id"]
    tell("offline", tmp_path, second)
    kept = read_json(tmp_path / "wandb.json")
    assert kept["superseded"] == [old]
    assert {name: values(lines) for name, lines in uploaded(tmp_path).items()} == {kept["id"]: second}
    assert capsys.readouterr().err.count("rows of an earlier attempt") == 1


def test_the_same_rows_again_are_the_same_run(tmp_path: Path) -> None:
    """Whatever is cut off after a checkpoint comes again, the same to the bit on the same hardware."""
    tell("offline", tmp_path, FIRST, ranks=[5.0, 6.0])
    tell("offline", tmp_path, {10: 1.0})  # stopped again before it reached what W&B has
    tell("offline", tmp_path, FIRST | {40: 4.0})
    kept = read_json(tmp_path / "wandb.json")
    # step 40 is where W&B has the ranks that the first process evaluated too early: another attempt
    assert len(kept["superseded"]) == 1
    tell("offline", tmp_path, FIRST | {40: 4.0, 50: 5.0})
    assert read_json(tmp_path / "wandb.json") == kept
    assert {name: values(lines) for name, lines in uploaded(tmp_path).items()} == {kept["id"]: FIRST | {40: 4.0, 50: 5.0}}


def test_ranks_that_are_evaluated_again_otherwise_are_another_run(tmp_path: Path) -> None:
    tell("offline", tmp_path, FIRST, ranks=[5.0, 6.0, 7.0])
    tell("offline", tmp_path, FIRST, ranks=[5.0, 7.0])
    ((name, lines),) = uploaded(tmp_path).items()
    assert name == read_json(tmp_path / "wandb.json")["id"]
    assert values(lines) == FIRST
    assert [line["lowrank/return_mean"] for line in lines if "lowrank/rank" in line] == [5.0, 7.0]
    assert len([line for line in lines if any(key.startswith("tables/lowrank") for key in line)]) == 1
    steps = {metric.get("name"): metric.get("step_metric") for metric in of("metric", records(tmp_path)[-1])}
    assert steps["lowrank/return_mean"] == "lowrank/rank", "the new run has panels by rank too"


def test_attempts_follow_each_other(tmp_path: Path) -> None:
    attempts = [{10: float(attempt)} for attempt in range(4)]
    for attempt in attempts:
        tell("offline", tmp_path, attempt)
    kept = read_json(tmp_path / "wandb.json")
    assert len({kept["id"], *kept["superseded"]}) == 4
    assert {name: values(lines) for name, lines in uploaded(tmp_path).items()} == {kept["id"]: attempts[-1]}


@pytest.mark.parametrize("lost", ["wandb.json", "wandb/sent.jsonl"])
def test_where_it_cannot_be_known_what_was_sent_a_new_run_is_told_everything(lost: str, tmp_path: Path) -> None:
    tell("offline", tmp_path, FIRST)
    (tmp_path / lost).unlink()
    tell("offline", tmp_path, FIRST)
    assert {name: values(lines) for name, lines in uploaded(tmp_path).items()} == {
        read_json(tmp_path / "wandb.json")["id"]: FIRST
    }


def test_numbers_that_are_none_are_the_same_now_and_from_the_disk(tmp_path: Path) -> None:
    """A process says nan of what the next one reads as null."""
    for value in (float("nan"), None):
        chosen, (log,) = opened("offline", tmp_path)
        log.row({"env_step": 10, "value": value})
        chosen.close([log])
    assert "superseded" not in read_json(tmp_path / "wandb.json")


# ---------------------------------------------------------------- online


def test_online_too_the_old_run_is_left_and_marked(server: Server, tmp_path: Path) -> None:
    tell("online", tmp_path, FIRST)
    tell("online", tmp_path, {10: 1.0, 20: 9.0, 30: 8.0, 40: 7.0})
    kept = read_json(tmp_path / "wandb.json")
    (old,) = kept["superseded"]
    assert {name: values(lines) for name, lines in server.history.items()} == {
        old: FIRST,
        kept["id"]: {10: 1.0, 20: 9.0, 30: 8.0, 40: 7.0},
    }
    assert (server.tags[old], server.tags[kept["id"]]) == (["superseded"], [])
    assert not uploaded(tmp_path), "nothing is left for `wandb sync`"


def test_online_after_offline_the_server_gets_the_last_attempt_only(server: Server, tmp_path: Path) -> None:
    tell("offline", tmp_path, FIRST)
    tell("offline", tmp_path, {10: 9.0})
    tell("online", tmp_path, {10: 9.0, 20: 8.0})
    assert [values(lines) for lines in server.history.values()] == [{10: 9.0, 20: 8.0}]
    assert not uploaded(tmp_path)


def test_a_server_that_is_gone_when_a_run_begins_anew_leaves_it_on_the_disk(server: Server, tmp_path: Path) -> None:
    tell("online", tmp_path, FIRST)
    chosen, (log,) = opened("online", tmp_path)
    server.away_after = 0
    for step in (10, 20):
        log.row({"env_step": step, "value": 9.0})
    log.end("done")
    chosen.close([log])
    assert {name: values(lines) for name, lines in uploaded(tmp_path).items()} == {
        read_json(tmp_path / "wandb.json")["id"]: {10: 9.0, 20: 9.0}
    }


# ---------------------------------------------------------------- under an agent


def test_under_an_agent_the_run_is_begun_as_new_under_its_id(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B takes no other id in its sweep; a run that is begun as new with an id writes over what that had."""
    for name, value in {"SWEEP_ID": "sweep123", "RUN_ID": "agentrun", "PROJECT": "p", "ENTITY": "me"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # it may know the variables as they were
    tell("online", tmp_path, FIRST)
    tell("online", tmp_path, {10: 9.0, 20: 8.0})
    tell("online", tmp_path, {10: 9.0, 20: 8.0, 30: 7.0})
    assert {name: values(lines) for name, lines in server.history.items()} == {"agentrun": {10: 9.0, 20: 8.0, 30: 7.0}}
    assert read_json(tmp_path / "wandb.json") == {"id": "agentrun"}


def test_in_the_folder_of_another_run_an_agent_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell("offline", tmp_path, FIRST)
    old = read_json(tmp_path / "wandb.json")["id"]
    for name, value in {"SWEEP_ID": "sweep123", "RUN_ID": "agentrun"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    tell("offline", tmp_path, FIRST)
    assert read_json(tmp_path / "wandb.json") == {"id": "agentrun", "superseded": [old]}
    assert {name: values(lines) for name, lines in uploaded(tmp_path).items()} == {"agentrun": FIRST}


# ---------------------------------------------------------------- a whole run


def test_after_a_crash_that_was_mended_wandb_has_what_the_disk_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    """A loss three times too large until the run failed at step 300; started again without a checkpoint, it begins anew."""
    config = compose(*SETTINGS, "regularizer=none", "lowrank.ranks=[1]", "trainer.checkpoint_every=1000")
    events = Trainer.run

    def failing(self: Trainer, *arguments: Any) -> Any:
        for event in events(self, *arguments):
            if isinstance(event, Row):
                for metrics in event.metrics:
                    metrics["loss/policy"] *= 3
            yield event
            if isinstance(event, Row) and event.env_step == 300:
                raise RuntimeError("made to fail")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", failing)
        with pytest.raises(RuntimeError, match="made to fail"):
            run([config], [tmp_path], live=False)
    first, second = rows(tmp_path), run([config], [tmp_path], live=False)
    assert first != rows(tmp_path)[: len(first)]
    ((name, lines),) = uploaded(tmp_path).items()
    assert [line for line in lines if "sparsity/exact" in line] == rows(tmp_path)
    last = records(tmp_path)[-1]
    assert training(last) == rows(tmp_path)
    (artifact,) = [artifact for artifact in of("artifact", last) if artifact["type"] == "model"]
    assert artifact["name"] == f"policy-{name}"
    summary = {key: value for record in of("summary", last) for key, value in record["update"].items()}
    assert summary["sparsity"] == second[0].sparsity
