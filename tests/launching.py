"""Multiruns in the process of the tests, and what their jobs leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sparserl.runs.files import read_json

# an episode of Acrobot lasts 500 steps, and an evaluation as long as its longest episode
SMOKE = (
    "-m", "trainer=smoke", "logger=disk", "sweep_name=mine", "lowrank.ranks=[2]", "lowrank.episodes=2",
    "environment.max_episode_steps=40",
)  # fmt: skip
MOVING = ("regularizer.delay_steps=0", "regularizer.ramp_steps=0")

Sweep = Callable[..., Path]


def jobs(root: Path) -> list[Path]:
    """The folders of the jobs that were run."""
    return sorted(path for path in root.iterdir() if path.is_dir() and "-again-" not in path.name)


OUTCOME = ("metrics.jsonl", "policy.safetensors", "lowrank.csv")


def outcome(root: Path) -> dict[str, tuple[bytes, ...]]:
    """What every job left that does not depend on the clock, byte for byte."""
    return {folder.name: tuple((folder / name).read_bytes() for name in OUTCOME) for folder in jobs(root)}


def statuses(root: Path) -> list[str]:
    return [read_json(folder / "status.json")["status"] for folder in jobs(root)]
