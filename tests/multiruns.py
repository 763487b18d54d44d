"""Multiruns from the command line, and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMOKE = ("-m", "trainer=smoke", "logger=disk", "sweep_name=mine", "lowrank.ranks=[2]", "lowrank.episodes=2")
LONG = ("trainer.total_steps=6000", "trainer.log_every=250", "trainer.eval_every=3000", "trainer.checkpoint_every=500")


def begin(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "sparserl.train", *SMOKE, *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
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


def wait_for(root: Path, jobs: int, rows: int) -> None:
    """Until so many jobs have so many rows."""
    deadline = time.monotonic() + 120
    while sum(path.read_bytes().count(b"\n") >= rows for path in root.glob("*/metrics.jsonl")) < jobs:
        assert time.monotonic() < deadline
        time.sleep(0.02)
