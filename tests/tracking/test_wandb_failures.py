"""W&B has each row of the disk once, whatever happens to the process, to the network or to W&B itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from wandb_runs import KEY, SETTINGS, children, history, of, opened, records, rows, training
from wandb_server import Server

from sparserl.config.validation import compose
from sparserl.runs.files import read_json
from sparserl.runs.folder import RunFolder
from sparserl.sweeps.loop import run
from sparserl.tracking.wandb import Wandb, WandbLog

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("logged_out")


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
    # FINISH_SECONDS is 1 here; without it W&B tries for minutes. A busy machine may need some seconds for the rest
    assert time.monotonic() - started < 60
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
    """Offline, then online twice; each begins with the rows of the disk. The server has each once, under one id."""

    def told(mode: str, last: int) -> None:
        chosen, (log,) = opened(mode, tmp_path)
        for step in range(1, last + 1):
            log.row({"env_step": step})
        chosen.close([log])

    told("offline", 3)
    told("online", 5)
    told("online", 8)
    (had,) = server.history.values()
    assert [row["env_step"] for row in had] == [*range(1, 9)]
    # and nothing is left that would bring a row a second time
    assert all(path.with_name(f"{path.name}.synced").exists() for path in tmp_path.glob("wandb/*run-*/*.wandb"))


def test_offline_the_files_of_earlier_processes_count(tmp_path: Path) -> None:
    empty = tmp_path / "wandb" / "offline-run-20260101_000000-x" / "run-x.wandb"
    empty.parent.mkdir(parents=True)
    empty.touch()  # a process that was killed before it wrote anything
    for last in (3, 6):
        chosen, (log,) = opened("offline", tmp_path)
        for step in range(1, last + 1):
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


def test_after_a_kill_the_run_has_the_same_id_and_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # rows are written for W&B in blocks of 32 KiB: of 40 some are there when the process dies, and not all unless it was slow
    rare = "trainer.total_steps=1000", "trainer.log_every=20", "trainer.eval_every=1000", "trainer.checkpoint_every=300"
    config, folder = compose(*SETTINGS, *rare), tmp_path / "run"
    write, left = RunFolder.metrics, 40

    def write_or_die(self: RunFolder, row: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "metrics", write_or_die)
        process = get_context("fork").Process(target=run, args=([config], [folder]))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    (killed,) = records(folder)
    assert 0 < len(training(killed)) <= len(rows(folder))
    run([config], [folder])
    found = records(folder)
    assert len(found) == 2
    assert len({of("run", part)[0]["run_id"] for part in found}) == 1
    assert [row for part in found for row in training(part)] == rows(folder)


FAILING = """
from sparserl import train
from sparserl.training.events import Row
from sparserl.training.trainer import Trainer
events = Trainer.run
def failing(self, parts, *rest):
    for event in events(self, parts, *rest):
        yield event
        if isinstance(event, Row) and parts.members.seeds == (0,):
            raise RuntimeError("made to fail")
Trainer.run = failing
train.main()
"""


def test_two_jobs_of_a_multirun_are_two_runs_also_when_the_first_fails(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    process = command(
        tmp_path, "failing.py", "--multirun", *SETTINGS, "seed=0,1", "sweep_name=mine", "hydra.launcher.max_members=1"
    )
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
            # FINISH_SECONDS is 8; without it W&B tries for minutes, and a busy machine may need some seconds for the rest
            assert ended - (folder / "result.json").stat().st_mtime < 60
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
