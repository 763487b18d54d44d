"""What the workspace names is what a run logs: compared with the records that W&B itself keeps of one."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_runs import history, of, records
from wandb_server import Server

from sparserl import dashboard
from sparserl.config.validation import compose
from sparserl.environments import mario
from sparserl.environments.gymnasium import GOAL_MEASURES
from sparserl.runs.schema import Result
from sparserl.sweeps import loop
from sparserl.sweeps.loop import run

SMOKE = ("trainer=smoke", "network.hidden=[8]", "lowrank.ranks=[1]", "logger.mode=offline")
GOAL = ("environment=gymnasium", "environment.id=goals:EndingLine-v0")
RUNS = {"gates and ranks": ("algorithm=dqn", "regularizer=l0"), "goals": ("algorithm=ppo", "regularizer=none", *GOAL)}


@dataclass(frozen=True)
class Logged:
    """The names of what W&B was told of the runs."""

    rows: set[str]
    summary: set[str]
    config: dict[str, Any]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """Of runs that have, between them, everything that there is to see. The goals stand in for the levels of a game, too."""
    found = Logged(set(), set(), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw", lambda _: None)  # seconds, for a picture that nobody looks at
        for name in mario.MEASURES:
            patch.setitem(GOAL_MEASURES, name, GOAL_MEASURES["success_rate"])
        for chosen in RUNS.values():
            folder = tmp_path_factory.mktemp("run")
            run([compose(*SMOKE, *chosen)], [folder])
            (process,) = records(folder)
            found.rows.update(key for row in history(process) for key in row)
            found.summary.update(key for record in of("summary", process) for key in record["update"])
            found.config.update(of("run", process)[0]["config"]["update"])
    return found


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sparserl-dashboard", *map(str, arguments)])
    dashboard.main()


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What --dry-run writes, on a machine without a network."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("--dry-run asks nobody")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", fail)
        patch.setattr(wandb, "Api", fail)
        patch.setattr(wandb, "login", fail)
        patch.setattr(wandb, "setup", fail)
        run_main(patch, "--project", "p", "--entity", "e", "--name", "mine", "--dry-run", tmp_path / "made.json")
    written: dict[str, Any] = json.loads((tmp_path / "made.json").read_text())
    return written


def panels(written: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for part in written["spec"]["section"]["panelBankConfig"]["sections"] for panel in part["panels"]]


def unknown(written: dict[str, Any], logged: Logged) -> set[str]:
    """Whatever the workspace names and the run does not have."""
    lacking = set()
    for panel in panels(written):
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            group, key = config["groupBy"].split(".value.")
            lacking |= {config["xAxis"], *config["metrics"]} - logged.rows
            lacking |= {config["groupBy"]} if key not in logged.config.get(group, {}) else set()
        elif panel["viewType"] == "Scatter Plot":
            lacking |= {config[axis].removeprefix("summary:") for axis in ("xAxis", "yAxis")} - logged.summary
    columns = written["spec"]["section"]["runSets"][0]["runFeed"]["columnPinned"]
    return lacking | {column.removeprefix("summary:") for column in columns if column != "run:displayName"} - logged.summary


# ---------------------------------------------------------------- what it shows


def test_all_that_is_named_is_logged(spec: dict[str, Any], logged: Logged) -> None:
    assert not unknown(spec, logged)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"eval/return_mean"', '"eval/return"', "eval/return"),
        ('"policy/clip_fraction"', '"clip_fraction"', "clip_fraction"),
        ('"eval/flag_rate"', '"eval/flag"', "eval/flag"),
        ('"lowrank/rank"', '"rank"', "rank"),
        ('"summary:sparsity"', '"summary:sparse"', "sparse"),
        ('"names.value.regularizer"', '"names.value.penalty"', "names.value.penalty"),
    ],
)
def test_a_name_that_nothing_has_is_found(old: str, new: str, told: str, spec: dict[str, Any], logged: Logged) -> None:
    """The control of the test above: each kind of name, misspelt."""
    wrong = json.loads(json.dumps(spec).replace(old, new))
    assert wrong != spec
    assert unknown(wrong, logged) == {told}


def test_every_question_has_its_panels(spec: dict[str, Any]) -> None:
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    titles = {part["name"]: [panel["config"].get("chartTitle") for panel in part["panels"]] for part in sections}
    assert titles == {
        "Learning curves": ["train/return by env_step", "eval/return_mean by env_step"],
        "Goals and levels": [f"eval/{name} by env_step" for name in ("success_rate", "x_pos", "flag_rate")],
        "Sparsity": [f"sparsity/{kind} by env_step" for kind in ("exact", "expected", "thresholded")],
        "Return and what it costs": [
            "return_mean by sparsity",
            "return_lowrank by compression",
            "shrunken_return_mean by shrunken_compression",
            "return_mean by alive_units",
        ],
        "Return by rank": [
            f"lowrank/{column} by lowrank/rank"
            for column in ("return_mean", "retention", "compression", "shrunken_return_mean", "shrunken_compression")
        ],
        "Gates": [f"gates/{state} by env_step" for state in ("open", "closed", "undecided")],
        "PPO": ["policy/approx_kl by env_step", "policy/clip_fraction by env_step"],
        "Runs": [None],
    }
    assert panels(spec)[-1]["viewType"] == "Run Comparer"
    assert (spec["project"], spec["entity"], spec["displayName"]) == ("p", "e", "mine")
    assert set(dashboard.COLUMNS) <= set(Result.__dataclass_fields__)


def test_the_file_is_named_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_main(monkeypatch, "--project", "p", "--dry-run")
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out.endswith(f": {path.name}\n")


# ---------------------------------------------------------------- one sentence


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=re.escape("pip install 'sparserl[dashboard]'")):
        run_main(monkeypatch, "--project", "p", "--dry-run", "anywhere.json")


@pytest.mark.usefixtures("logged_out")
def test_without_a_key_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"no key: run `wandb login`, set WANDB_API_KEY, or .* --dry-run"):
        run_main(monkeypatch, "--project", "p")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--name", "\N{ROCKET}", "--dry-run", "a.json"], "ValidationError: .*Emojis are not allowed"),
        (["--dry-run", "nowhere/a.json"], "nowhere/a.json cannot be written: No such file or directory; put that right"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=told) as ended:
        run_main(monkeypatch, "--project", "p", *arguments)
    assert len(str(ended.value.code).splitlines()) == 1
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- with a server


@pytest.mark.usefixtures("logged_out")
def test_it_is_saved_with_the_runs_in_the_colours_of_their_regularisers(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is a stand-in: it keeps what it is sent, and cannot say whether the real one would draw it."""
    with Server() as server:
        server.job_types = {"a": "l0", "b": "none", "c": "l0", "d": None}  # the last is a run that is not sparserl's
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        run_main(monkeypatch, "--project", "p", "--name", "mine")
        (saved,) = server.workspaces
        assert capsys.readouterr().out.startswith(f"workspace: {server.url}/me/p?nw=")
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == ("me", "p", "mine")
    colours = saved["spec"]["section"]["customRunColors"]
    assert colours["a"] == colours["c"] != colours["b"]
    assert "d" not in colours
    assert [panel["config"] for panel in panels(saved)] == [panel["config"] for panel in panels(spec)]
