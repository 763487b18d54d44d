"""W&B is told what the disk is told, online, offline or not at all."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from wandb_runs import CONFIG, KEY, SETTINGS, children, history, of, opened, records, rows, training
from wandb_server import Server

from sparserl.config.build import build_logger
from sparserl.config.identity import identity
from sparserl.config.schema import ConfigError
from sparserl.config.validation import compose
from sparserl.runs.files import read_json
from sparserl.sweeps.jobs import label
from sparserl.sweeps.loop import run
from sparserl.tracking.wandb import Wandb

pytestmark = pytest.mark.usefixtures("logged_out")

RANKS: list[dict[str, Any]] = [
    {"rank": 1, "return_mean": 20.0, "retention": 0.1, "energy": 0.5},
    {"rank": 2, "return_mean": 90.0, "retention": None, "energy": 0.75},
    {"rank": "full", "return_mean": 100.0, "retention": 1.0, "energy": 1.0},
]

PIXEL = (
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)
"""A picture of one pixel, as the bytes of a PNG file."""


# ---------------------------------------------------------------- what W&B is told


def test_an_offline_run_holds_what_the_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose(*SETTINGS, "logger.group=mine", "logger.tags=[one,two]", "seed=5", "regularizer.gate_learning_rate=0")
    (result,) = run([config], [tmp_path])
    (process,) = records(tmp_path)
    (begun,) = of("run", process)[:1]
    given = begun["config"]["update"]
    assert {key: value for key, value in given.items() if key != "_wandb"} == {
        key: value for key, value in config.items() if key != "working_directory"
    }
    assert (begun["run_id"], begun["project"], begun["run_group"]) == (
        read_json(tmp_path / "wandb.json")["id"],
        "sparserl",
        "mine",
    )
    assert (begun["job_type"], begun["tags"]) == ("l0", ["one", "two"])
    assert begun["display_name"] == label(config)
    assert training(process) == rows(tmp_path)
    # gates that do not move are a warning of a row, and that none is closed is one of the end
    said = [warning for row in rows(tmp_path) for warning in row.get("warnings", [])]
    assert said
    assert set(result.warnings) > set(said)
    assert sorted(alert["title"] for alert in of("alert", process)) == sorted(result.warnings)
    summary = {key: value for record in of("summary", process) for key, value in record["update"].items()}
    assert summary.items() >= {"return_mean": result.return_mean, "sparsity": result.sparsity, "status": "done"}.items()
    (artifact,) = (artifact for artifact in of("artifact", process) if artifact["type"] == "model")  # the others are tables
    (content,) = artifact["manifest"]["contents"]
    assert content["local_path"] == str(tmp_path / "policy.safetensors")
    assert content["size"] == str((tmp_path / "policy.safetensors").stat().st_size)
    (drawn,) = [row for row in history(process) if "histograms/weights/policy.0.weight._type" in row]
    counts = {name: drawn[f"histograms/{name}/policy.0.weight.values"] for name in ("weights", "gates")}
    assert {name: sum(values) for name, values in counts.items()} == {"weights": 4 * 8, "gates": 4 * 8}
    assert of("exit", process)[0].get("exit_code", 0) == 0
    errors = capsys.readouterr().err
    assert errors.count("wandb sync") == 1
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in errors
    assert "wandb: " not in errors, "W&B's own lines would tear the progress bar"
    assert not [
        thread.name for thread in threading.enumerate() if "wandb" in thread.name.lower() or "otel" in thread.name.lower()
    ]
    assert not children()


def test_a_film_is_one_more_step_of_a_run_that_has_ended(tmp_path: Path) -> None:
    """In the same run, which ends as done again."""
    folder, film = tmp_path / "run", tmp_path / "film.gif"
    chosen, (log,) = opened("offline", folder)
    log.row({"env_step": 100, "loss/policy": 0.1})
    log.end("done")
    chosen.close([log])
    film.write_bytes(base64.b64decode("R0lGODlhAQABAAAAACwAAAAAAQABAAAC"))
    chosen, (log,) = opened("offline", folder)
    log.film(film)
    chosen.close([log])
    first, second = records(folder)
    assert of("run", first)[0]["run_id"] == of("run", second)[0]["run_id"]
    (sent,) = history(second)
    assert sent["film._type"] == "video-file"
    assert sent["film.size"] == film.stat().st_size
    assert of("exit", second)[0].get("exit_code", 0) == 0


def test_the_rank_sweep_is_rows_a_table_and_a_plot(tmp_path: Path) -> None:
    chosen, (log,) = opened("offline", tmp_path)
    log.row({"env_step": 100, "loss/policy": 0.1})
    log.sweep(RANKS)
    (tmp_path / "figure.png").write_bytes(bytes.fromhex(PIXEL))
    log.end("done")
    chosen.close([log])
    (process,) = records(tmp_path)
    swept = [row for row in history(process) if "lowrank/rank" in row]
    assert swept == [{f"lowrank/{key}": value for key, value in row.items()} for row in RANKS]
    steps = {metric.get("name") or metric["glob_name"]: metric.get("step_metric") for metric in of("metric", process)}
    own = {f"lowrank/{key}": "lowrank/rank" for key in RANKS[0] if key != "rank"}
    assert steps == {"env_step": None, "*": "env_step", "lowrank/rank": None} | own
    (table,) = tmp_path.glob("wandb/*/files/media/table/tables/lowrank_*.table.json")
    assert json.loads(table.read_text()) == {"columns": list(RANKS[0]), "data": [list(row.values()) for row in RANKS]}
    (plot,) = tmp_path.glob("wandb/*/files/media/table/plots/return_by_rank_table_*.table.json")
    lines = [tuple(point) for point in json.loads(plot.read_text())["data"]]
    assert sorted(lines) == sorted(
        [(1, "truncated", 20.0), (2, "truncated", 90.0), (1, "full rank", 100.0), (2, "full rank", 100.0)]
    )
    assert list(tmp_path.glob("wandb/*/files/media/images/figure_*.png"))


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("failed", 1), ("interrupted", 255)])
def test_a_run_ends_as_it_ended(status: Any, code: int, tmp_path: Path) -> None:
    chosen, (log,) = opened("offline", tmp_path)
    log.end(status)
    log.end("done")  # counts for nothing
    chosen.close([log])
    assert of("exit", records(tmp_path)[0])[0].get("exit_code", 0) == code


def test_many_members_are_open_at_once_and_told_of_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / str(member) for member in range(3)]
    chosen, logs = opened("offline", *folders)
    for step in (10, 20):
        for member, log in enumerate(logs):
            log.row({"env_step": step, "value": member})
    chosen.close(logs)
    for member, folder in enumerate(folders):
        assert history(records(folder)[0]) == [{"env_step": step, "value": member} for step in (10, 20)]
    assert capsys.readouterr().err.splitlines() == [f"W&B: wandb sync {tmp_path}/*/wandb/offline-run-*"]


def test_variables_of_wandb_count_where_the_config_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"PROJECT": "theirs", "TAGS": "one,two", "NAME": "nightly", "DIR": str(tmp_path / "scratch")}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    for given, steps in (([], (10,)), (["logger.project=mine", "logger.tags=[three]"], (10, 20))):
        chosen = build_logger(compose("trainer=smoke", "logger.mode=offline", *given))
        logs = chosen.open(folders, [CONFIG] * 2, ["first", "second"])
        for log in logs:
            for step in steps:
                log.row({"env_step": step})
            log.end("done")
        chosen.close(logs)
    homes = sorted((tmp_path / "scratch").iterdir())
    assert [home.name[:2] for home in homes] == ["a-", "b-"]
    assert not [*tmp_path.glob("?/wandb")], "what W&B keeps is on the other disk"
    for home, name in zip(homes, ("first", "second"), strict=True):
        silent, told = (of("run", process)[0] for process in records(home))
        assert (silent["project"], silent["tags"], silent["display_name"]) == ("theirs", ["one", "two"], f"nightly-{name}")
        assert (told["project"], told["tags"], told["run_id"]) == ("mine", ["three"], silent["run_id"])
        assert [row["env_step"] for process in records(home) for row in history(process)] == [10, 20], "each step once"
    assert f"wandb sync {tmp_path}/scratch/*/wandb/offline-run-*" in capsys.readouterr().err


def test_a_run_by_itself_has_the_name_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_NAME", "nightly")
    chosen, (log,) = opened("offline", tmp_path)
    log.end("done")
    chosen.close([log])
    assert of("run", records(tmp_path)[0])[0]["display_name"] == "nightly"


@pytest.mark.parametrize(
    ("mode", "entity", "variables", "recipient"),
    [
        ("auto", "somebody", {"API_KEY": KEY}, "somebody"),
        ("online", "somebody", {"API_KEY": KEY}, "somebody"),
        ("auto", None, {"API_KEY": KEY}, None),
        ("auto", "somebody", {"API_KEY": KEY, "ENTITY": "somebody"}, None),
        ("auto", "somebody", {"API_KEY": KEY, "MODE": "offline"}, None),
        ("offline", "somebody", {"API_KEY": KEY}, None),
        ("auto", "somebody", {}, None),
    ],
    ids=["auto", "online", "the key's own", "the user's own", "offline by the variable", "offline", "no key"],
)
def test_who_else_gets_the_rows_is_known_before_they_are_sent(
    mode: Any, entity: str | None, variables: dict[str, str], recipient: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert Wandb(mode=mode, project="p", entity=entity, group=None, tags=[]).recipient == recipient


def test_the_logger_is_no_part_of_what_a_run_is() -> None:
    with_wandb, without = (compose("trainer=smoke", f"logger={name}") for name in ("wandb", "disk"))
    assert with_wandb != without
    assert identity(with_wandb) == identity(without)


def test_histograms_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    """A member that diverged has a result too."""
    (result,) = run([compose("logger=disk", *SETTINGS[:-1])], [tmp_path])
    chosen, (log,) = opened("offline", tmp_path)
    log.finish(result, {"weights/policy.0.weight": torch.tensor([1.0, float("nan"), 2.0])})
    chosen.close([log])
    (row,) = history(records(tmp_path)[0])
    assert sum(row["histograms/weights/policy.0.weight.values"]) == 2


# ---------------------------------------------------------------- modes


def test_auto_is_offline_without_a_key_and_online_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mode() -> list[str]:
        chosen, logs = opened("auto", tmp_path)
        chosen.close(logs)
        return [path.name.split("run-")[0] for path in sorted(tmp_path.glob("wandb/*run-*"))]

    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert mode() == ["offline-"]
        mode()
        assert capsys.readouterr().err.count("no key") == 1  # once a process
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert mode() == ["offline-", "offline-", ""]
        assert f"{server.url}/me/p/runs/" in capsys.readouterr().err
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert mode() == ["offline-", "offline-", "offline-", ""]


@pytest.mark.parametrize("how", ["mode", "variable"])
def test_disabled_opens_nothing(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled" if how == "variable" else "online")
    chosen, (log,) = opened("disabled" if how == "mode" else "auto", tmp_path)
    log.row({"env_step": 1})
    chosen.close([log])
    assert not list(tmp_path.iterdir())


def test_online_without_a_key_is_one_sentence_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("trainer=smoke", "logger.mode=online")
    with pytest.raises(ConfigError, match=r"^logger\.mode is 'online'.*wandb login.*WANDB_API_KEY") as caught:
        build_logger(config)
    assert len(str(caught.value).splitlines()) == 1
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    build_logger(config)
