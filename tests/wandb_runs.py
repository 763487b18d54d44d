"""Runs of W&B for tests, and what it keeps of them in a folder, read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from sparserl.tracking.base import Log
from sparserl.tracking.wandb import Wandb
from sparserl.tracking.wandb_files import read_records

KEY = "a" * 40  # W&B takes no shorter one
SETTINGS = ("trainer=smoke", "network.hidden=[8]", "logger.mode=offline")
CONFIG = {"names": {"regularizer": "l0"}, "seed": 3, "nested": {"_target_": "some.thing", "values": [1, 2]}}


def records(folder: Path) -> list[list[dict[str, Any]]]:
    """All records of each process that wrote for W&B in a folder, the oldest first."""
    paths = folder.glob("wandb/*run-*/run-*.wandb")
    return [read_records(path) for path in sorted(paths, key=lambda path: path.stat().st_ctime)]


def of(kind: str, process: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record[kind] for record in process if record["type"] == kind]


def history(process: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, without what W&B adds to them."""
    items = [record["item"] for record in of("history", process)]
    return [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]


def training(process: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in history(process) if "sparsity/exact" in row]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Those that are whole: a line may be being written."""
    whole, _, _ = (folder / "metrics.jsonl").read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def logger(mode: Any) -> Wandb:
    return Wandb(mode=mode, project="p", entity=None, group=None, tags=[])


def opened(mode: str, *folders: Path) -> tuple[Wandb, Sequence[Log]]:
    for folder in folders:
        folder.mkdir(exist_ok=True)
    chosen = logger(mode)
    return chosen, chosen.open(folders, [CONFIG] * len(folders), [folder.name for folder in folders])


def children() -> list[str]:
    """The processes that this one has started and that are still alive."""
    return [child.name() for child in psutil.Process().children() if "wandb" in child.name()]
