"""A report of W&B holds the tables and figures that ``sparserl.report`` writes; the server is a stand-in."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from folders import made_up
from wandb_server import Server

from sparserl import publish

pytest.importorskip("wandb_workspaces")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two regularisers with two seeds each; one name is hostile."""
    for regularizer, name in (("none", "dense"), ("l0", "<script>alert(1)</script>")):
        for seed in (0, 1):
            made_up(tmp_path / "runs" / f"{regularizer}{seed}", regularizer=regularizer, seed=seed, commit=name)
    return tmp_path / "runs"


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sparserl-publish", *map(str, arguments)])
    publish.main()


def headings(spec: dict[str, Any]) -> list[str]:
    return [block["children"][0]["text"] for block in spec["blocks"] if block["type"] == "heading"]


def figures(spec: dict[str, Any]) -> list[str]:
    """The keys that the panels show."""
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    return [key for panel in panels for key in panel["config"]["mediaKeys"]]


def test_a_dry_run_writes_all_of_the_report_and_asks_nobody(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("--dry-run asks nobody")

    for where, name in ((socket.socket, "connect"), (wandb, "Api"), (wandb, "login"), (wandb, "init")):
        monkeypatch.setattr(where, name, fail)
    run_main(monkeypatch, runs, "--project", "p", "--entity", "e", "--dry-run")
    made = json.loads((runs / publish.NOT_SENT).read_text())
    assert (made["project"]["name"], made["project"]["entityName"]) == ("p", "e")
    # each table as the file has it, and each figure that was drawn
    blocks = made["spec"]["blocks"]
    tables = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    files = sorted(path.read_text() for path in runs.glob("*.md"))
    assert len(tables) == len(files) > 2
    assert all(any(table in text for text in files) for table in tables)
    assert {f"{key}.png" for key in figures(made["spec"])} == {path.name for path in runs.glob("figures/*.png")}
    assert headings(made["spec"])[0] == "Summary"
    assert headings(made["spec"])[-1] == "How this was made"
    assert (runs / "report.html").exists()


@pytest.mark.usefixtures("logged_out")
def test_the_figures_are_a_run_that_the_report_shows(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        run_main(monkeypatch, runs, "--project", "p")
        (saved,) = server.workspaces
        assert f"report of W&B: {server.url}/me/p/reports/" in capsys.readouterr().out
    assert (saved["entityName"], saved["projectName"], saved["type"]) == ("me", "p", "runs")
    (run,) = server.history
    (row,) = server.history[run]
    assert {*figures(saved["spec"])} == {key for key, value in row.items() if isinstance(value, dict) and "path" in value}
    grids = [block["metadata"] for block in saved["spec"]["blocks"] if block["type"] == "panel-grid"]
    assert {its["search"]["query"] for grid in grids for its in grid["runSets"]} == {run}


@pytest.mark.usefixtures("logged_out")
def test_without_a_key_nothing_is_made(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {*runs.iterdir()}
    with pytest.raises(SystemExit, match="W&B has no key"):
        run_main(monkeypatch, runs, "--project", "p")
    assert {*runs.iterdir()} == before


@pytest.mark.usefixtures("logged_out")
def test_a_server_that_is_gone_is_one_sentence_and_the_files_are_there(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(wandb, "init", gone)
    with pytest.raises(SystemExit, match=r"there is no report of W&B: W&B cannot be used: no route") as ended:
        run_main(monkeypatch, runs, "--project", "p")
    assert len(str(ended.value.code).splitlines()) == 1
    assert (runs / "table.md").exists()
