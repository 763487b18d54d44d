"""Multiruns from the command line, and what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMOKE = ("-m", "trainer=smoke", "logger=disk", "sweep_name=mine", "lowrank.ranks=[2]", "lowrank.episodes=2")
LONG = ("trainer.total_steps=6000", "trainer.log_every=250", "trainer.eval_every=3000", "trainer.checkpoint_every=500")


def environment() -> dict[str, str]:
    """Of a process that is to use this checkout."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def begin(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "sparserl.train", *SMOKE, *overrides],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sweep(folder: Path, *overrides: str) -> Path:
    """A sweep that is to end well; its folder."""
    process = begin(folder, *overrides)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder / "outputs/mine"


def outcome(root: Path) -> dict[str, tuple[bytes, bytes]]:
    """The rows of every job, byte for byte, and its policy."""
    return {
        path.parent.name: (path.read_bytes(), (path.parent / "policy.safetensors").read_bytes())
        for path in root.glob("*/metrics.jsonl")
    }


KILLED = """
import os, signal, sys
from sparserl.runs.folder import RunFolder
from sparserl.train import main

left, write = int(sys.argv.pop(1)), RunFolder.metrics

def write_or_die(folder, row):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, row)

RunFolder.metrics = write_or_die
main()
"""


def killed(folder: Path, rows: int, *overrides: str) -> None:
    """A sweep that ends by SIGKILL when it has written so many rows of all its jobs, however fast the machine is."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(rows), *SMOKE, *overrides], cwd=folder, env=environment(), check=False, timeout=300
    )
    assert done.returncode == -signal.SIGKILL


def wait_for(root: Path, jobs: int, rows: int) -> None:
    """Until so many jobs have so many rows."""
    deadline = time.monotonic() + 120
    while sum(path.read_bytes().count(b"\n") >= rows for path in root.glob("*/metrics.jsonl")) < jobs:
        assert time.monotonic() < deadline
        time.sleep(0.02)
