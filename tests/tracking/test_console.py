"""A bar where somebody watches, plain lines where a file does."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparserl.terminal import print_table
from sparserl.tracking.console import Display

PROGRAM = """
from sparserl.tracking.console import Display
with Display(["dqn-cartpole-none", "dqn-cartpole-l0", "dqn-cartpole-l0"], total_steps=100, live=True) as display:
    display.progress(10)
    dense, *sparse = [{"eval/return_mean": 10.0 * step, "sparsity/exact": 0.25 * step} for step in range(3)]
    display.row(50, [dense, *sparse])
    display.progress(50)
    display.say("warning: something")
"""


def shown(stderr: int) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=stderr, env=environment, check=True)


def read_all(descriptor: int) -> str:
    content = b""
    while True:
        try:
            piece = os.read(descriptor, 1 << 16)
        except OSError:  # the other end of a pseudo-terminal is closed
            piece = b""
        if not piece:
            return content.decode()
        content += piece


def test_a_terminal_gets_a_bar_for_each_cell_with_means_over_its_members() -> None:
    ours, theirs = pty.openpty()
    shown(theirs)
    os.close(theirs)
    text = read_all(ours)
    for regularizer, values in (("none", "return 0 · sparsity 0"), ("l0", "return 15 · sparsity 0.375")):
        lines = [line for line in text.splitlines() if f"dqn-cartpole-{regularizer} " in line and "50/100" in line]
        assert values in lines[-1]
        assert "steps/s" in lines[-1]
    assert "warning: something" in text


def test_a_log_gets_plain_lines(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        shown(log.fileno())
    text = (tmp_path / "log").read_text()
    assert "\x1b" not in text
    for regularizer, values in (("none", "evaluated return 0, sparsity 0"), ("l0", "evaluated return 15, sparsity 0.375")):
        (line,) = (line for line in text.splitlines() if line.startswith(f"dqn-cartpole-{regularizer}: 50 of 100 steps"))
        assert line.endswith(values)
    assert "warning: something" in text


def test_a_table_is_whole_where_no_terminal_says_how_wide_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Seven columns of 15 characters fit in 140, but not in the 80 that are assumed otherwise."""
    headers = [f"a long header {index}" for index in range(7)]
    print_table(headers, [])
    printed = capsys.readouterr().out
    assert all(header in printed for header in headers)


def test_speed_is_that_of_one_member_as_in_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three members took 200 steps each in 4 s: 50 steps/s of each, not 150 of all."""
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        with Display(["dqn-cartpole-l0"] * 3, 1000, live=False) as display:
            display.progress(100)
            display.row(300, [{"eval/return_mean": 1.0}] * 3)
    assert "300 of 1000 steps, 50 steps/s" in (tmp_path / "log").read_text()
