"""W&B has each row of the disk once, whatever happens to the process, to the network or to W&B itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from wandb_records import history, of, records
from wandb_server import Server

from sparserl.build import ConfigError, build_logger, compose, identity
from sparserl.records import console
from sparserl.records import wandb as ours
from sparserl.records.disk import read_json
from sparserl.records.logger import Log
from sparserl.records.wandb import Wandb, WandbLog
from sparserl.train import run

ROOT = Path(__file__).parents[1]
KEY = "a" * 40  # W&B takes no shorter one
SETTINGS = ("trainer=smoke", "network.hidden=[8]", "logger.mode=offline")
CONFIG = {"names": {"regularizer": "l0"}, "seed": 3, "nested": {"_target_": "some.thing", "values": [1, 2]}}
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


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key of whoever runs the tests, and no answer of an earlier test."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    console.say_once.cache_clear()
    yield
    wandb.teardown()
    assert not list((home / ".local").rglob("*")), "what W&B keeps belongs into the run's folder"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(ours, "INIT_SECONDS", 1.0)
        monkeypatch.setattr(ours, "FINISH_SECONDS", 1.0)
        yield server


def training(process: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in history(process) if "sparsity/exact" in row]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def logger(mode: Any) -> Wandb:
    return Wandb(mode=mode, project="p", entity=None, group=None, tags=[])


def opened(mode: str, *folders: Path) -> tuple[Wandb, Sequence[Log]]:
    for folder in folders:
        folder.mkdir(exist_ok=True)
    chosen = logger(mode)
    return chosen, chosen.open(folders, [CONFIG] * len(folders), [folder.name for folder in folders])


def children() -> list[str]:
    """The processes that this one has started and that are still alive."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    names = [Path(f"/proc/{child}/comm").read_text().strip() for path in found for child in path.read_text().split()]
    return [name for name in names if "wandb" in name]


# ---------------------------------------------------------------- what W&B is told


def test_an_offline_run_holds_what_the_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose(*SETTINGS, "logger.group=mine", "logger.tags=[one,two]", "seed=5")
    (result,) = run([config], [tmp_path])
    (process,) = records(tmp_path)
    (begun,) = of("run", process)[:1]
    given = begun["config"]["update"]
    assert {key: value for key, value in given.items() if key != "_wandb"} == config
    assert (begun["run_id"], begun["project"], begun["run_group"]) == (
        read_json(tmp_path / "wandb.json")["id"],
        "sparserl",
        "mine",
    )
    assert (begun["job_type"], begun["tags"]) == ("l0", ["one", "two"])
    assert begun["display_name"] == f"dqn-cartpole-l0-lambda{config['regularizer']['lambda_c']:g}-beta0.6667-seed5"
    assert training(process) == rows(tmp_path)
    # the smoke run is too short to learn anything, and says so
    said = [warning for row in rows(tmp_path) for warning in row.get("warnings", [])]
    assert said
    assert [alert["title"] for alert in of("alert", process)] == said
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


def test_the_logger_is_no_part_of_what_a_run_is() -> None:
    with_wandb, without = (compose("trainer=smoke", f"logger={name}") for name in ("wandb", "disk"))
    assert with_wandb != without
    assert identity(with_wandb) == identity(without)


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
    with pytest.raises(ConfigError, match=r"logger\.mode is 'online'.*wandb login.*WANDB_API_KEY") as caught:
        build_logger(config)
    assert len(str(caught.value).splitlines()) == 1
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    build_logger(config)


# ---------------------------------------------------------------- W&B fails


def test_a_server_that_goes_away_takes_nothing_along(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first row and in the middle of a run; each time the rows are on the disk and where W&B can sync them from."""
    chosen, (log,) = opened("online", tmp_path / "middle")
    for step in (10, 20):
        log.row({"env_step": step})
    server.away_after = 0
    log.row({"env_step": 30, "warnings": ["it is away"]})  # an alert holds W&B's own process up for ever
    started = time.monotonic()
    chosen.close([log])
    # FINISH_SECONDS is 1 here; without it W&B tries for minutes
    assert time.monotonic() - started < 5
    assert [row["env_step"] for row in history(records(tmp_path / "middle")[0])] == [10, 20, 30]
    assert not children()
    assert f"wandb sync --include-online {tmp_path}/middle/wandb/*run-*" in capsys.readouterr().err

    chosen, logs = opened("online", tmp_path / "first", tmp_path / "second")
    for log in logs:
        log.row({"env_step": 10})
    chosen.close(logs)
    for name in ("first", "second"):
        assert [{"env_step": 10}] in map(history, records(tmp_path / name))
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "cannot be used online" in line]) == 1
    assert lines[-1] == f"W&B: wandb sync {tmp_path}/*/wandb/offline-run-*"
    assert not children()


def test_a_key_that_is_none_is_said_and_the_rows_are_kept(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    chosen, (log,) = opened("online", tmp_path)
    log.row({"env_step": 10})
    chosen.close([log])
    assert history(records(tmp_path)[-1]) == [{"env_step": 10}]
    assert "WANDB_API_KEY" in capsys.readouterr().err


def test_settings_that_are_wrong_are_said_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    chosen, (log,) = opened("auto", tmp_path)
    log.row({"env_step": 10})
    log.end("done")
    chosen.close([log])
    assert "rows are on the disk only" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.delenv("WANDB_MODE")  # or the end of this test meets it


@pytest.mark.parametrize("broken", ["begin", "send"])
def test_whatever_wandb_raises_training_goes_on(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("made to fail\nin two lines")

    monkeypatch.setattr(*((Wandb, "_begin") if broken == "begin" else (WandbLog, "_send")), fail)
    run([compose(*SETTINGS)], [tmp_path / "broken"])
    assert len([line for line in capsys.readouterr().err.splitlines() if "made to fail" in line]) == 1
    run([compose("logger=disk", *SETTINGS[:-1])], [tmp_path / "disk"])
    assert (tmp_path / "broken" / "metrics.jsonl").read_bytes() == (tmp_path / "disk" / "metrics.jsonl").read_bytes()


# ---------------------------------------------------------------- going on


def test_a_run_that_goes_on_sends_what_wandb_lacks(server: Server, tmp_path: Path) -> None:
    """Offline, then online, then online again from an earlier row: the server has each row once, under one id."""

    def told(mode: str, steps: range) -> None:
        chosen, (log,) = opened(mode, tmp_path)
        for step in steps:
            log.row({"env_step": step})
        chosen.close([log])

    told("offline", range(1, 4))
    told("online", range(1, 6))
    told("online", range(4, 9))
    (had,) = server.history.values()
    assert [row["env_step"] for row in had] == [*range(1, 9)]
    # and nothing is left that would bring a row a second time
    assert all(path.with_name(f"{path.name}.synced").exists() for path in tmp_path.glob("wandb/*run-*/*.wandb"))


def test_offline_the_files_of_earlier_processes_count(tmp_path: Path) -> None:
    empty = tmp_path / "wandb" / "offline-run-20260101_000000-x" / "run-x.wandb"
    empty.parent.mkdir(parents=True)
    empty.touch()  # a process that was killed before it wrote anything
    for steps in (range(1, 4), range(2, 7)):
        chosen, (log,) = opened("offline", tmp_path)
        for step in steps:
            log.row({"env_step": step, "warnings": [f"at {step}"] if step == 3 else []})
        chosen.close([log])
    found = records(tmp_path)
    assert [row["env_step"] for process in found for row in history(process)] == [*range(1, 7)]
    assert len([alert for process in found for alert in of("alert", process)]) == 1
    assert len({of("run", process)[0]["run_id"] for process in found if process}) == 1
    assert empty.with_name("run-x.wandb.synced").exists(), "`wandb sync` would stop at it"


def command(folder: Path, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_after_a_kill_the_run_has_the_same_id_and_each_row_once(tmp_path: Path) -> None:
    # rows are written for W&B in blocks of 32 KiB: of 40 some are there when the process dies, and some are not
    rare = "trainer.total_steps=1000", "trainer.log_every=20", "trainer.eval_every=1000", "trainer.checkpoint_every=300"
    config, folder = compose(*SETTINGS, *rare), tmp_path / "run"
    process = get_context("fork").Process(target=run, args=([config], [folder]))
    process.start()
    while not (folder / "metrics.jsonl").exists() or len(rows(folder)) < 40:
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    (killed,) = records(folder)
    assert 0 < len(training(killed)) < len(rows(folder))
    run([config], [folder])
    found = records(folder)
    assert len(found) == 2
    assert len({of("run", part)[0]["run_id"] for part in found}) == 1
    assert [row for part in found for row in training(part)] == rows(folder)


FAILING = """
from sparserl import train
from sparserl.trainer import Row, Trainer
events = Trainer.events
def failing(self, parts, *rest):
    for event in events(self, parts, *rest):
        yield event
        if isinstance(event, Row) and parts.members.seeds == (0,):
            raise RuntimeError("made to fail")
Trainer.events = failing
train.main()
"""


def test_two_jobs_of_a_multirun_are_two_runs_also_when_the_first_fails(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    process = command(tmp_path, "failing.py", "--multirun", *SETTINGS, "seed=0,1", "sweep=mine")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "made to fail" in errors
    first, second = (records(next((tmp_path / "outputs/mine").glob(f"*-seed{seed}-*"))) for seed in (0, 1))
    assert len(first) == len(second) == 1
    begun = [of("run", process)[0] for process in (*first, *second)]
    assert begun[0]["run_id"] != begun[1]["run_id"]
    assert [run["config"]["update"]["seed"] for run in begun] == [0, 1]
    assert [run["run_group"] for run in begun] == ["mine", "mine"]
    assert [len(training(process)) for process in (*first, *second)] == [1, 4]
    assert [of("exit", process)[0].get("exit_code", 0) for process in (*first, *second)] == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["server", "signal"])
def test_the_whole_command_survives(ending: str, tmp_path: Path) -> None:
    """With the delays at the end as they are: a server that goes away after an upload, or a signal."""
    with Server() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
        steps = "trainer.total_steps=20000", "trainer.log_every=100", "trainer.eval_every=20000", "logger.mode=online"
        process = command(tmp_path, "-m", "sparserl.train", *SETTINGS, *steps, "hydra.run.dir=run", **online)
        folder = tmp_path / "run"
        while not server.uploads:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        if ending == "server":
            server.away_after = 0
        else:
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        ended = time.time()
        assert "Traceback" not in errors
        assert training(records(folder)[0]) == rows(folder)
        assert len({of("run", part)[0]["run_id"] for part in records(folder)}) == 1
        if ending == "server":
            assert process.returncode == 0
            assert read_json(folder / "status.json")["status"] == "done"
            assert ended - (folder / "result.json").stat().st_mtime < 15
            # when the server is back, what the last line says brings the rest, and what had arrived not again
            (had,) = server.history.values()
            assert 0 < len(had) < len(rows(folder))
            sync = re.search(r"wandb sync .*$", errors, re.MULTILINE)
            assert sync
            server.away_after = None
            variables = os.environ | online | {"WANDB_DATA_DIR": str(tmp_path)}
            subprocess.run(f"{sys.executable} -m {sync[0]}", shell=True, cwd=tmp_path, env=variables, check=True)
            (had,) = server.history.values()
            assert [row["env_step"] for row in had if "sparsity/exact" in row] == [row["env_step"] for row in rows(folder)]
        else:
            assert process.returncode == 128 + signal.SIGTERM
            (had,) = server.history.values()
            assert [row["env_step"] for row in had] == [row["env_step"] for row in rows(folder)]
            assert of("exit", records(folder)[0])[0]["exit_code"] == 255


def test_histograms_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    """A member that diverged has a result too."""
    (result,) = run([compose("logger=disk", *SETTINGS[:-1])], [tmp_path])
    chosen, (log,) = opened("offline", tmp_path)
    log.finish(result, {"weights/policy.0.weight": torch.tensor([1.0, float("nan"), 2.0])})
    chosen.close([log])
    (row,) = history(records(tmp_path)[0])
    assert sum(row["histograms/weights/policy.0.weight.values"]) == 2
