"""What W&B kept in a run's folder, read back by W&B's own reader, for tests of what it was told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb


def records(folder: Path) -> list[list[dict[str, Any]]]:
    """All records of each process that wrote for W&B in a folder, as W&B's own reader reads them; the oldest first."""
    read = []
    for path in sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.stat().st_ctime):
        command = [
            wandb.util.get_core_path(),
            "leet",
            "inspect",
            "--no-observability",
            "--json",
            "--run-file",
            path,
            path.parent,
        ]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        read.append([json.loads(line) for line in lines])
    return read


def of(kind: str, process: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record[kind] for record in process if record["type"] == kind]


def history(process: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, without what W&B adds to them."""
    items = [record["item"] for record in of("history", process)]
    return [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]
