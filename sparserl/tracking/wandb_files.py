"""What W&B's runs keep in a run's folder: the id, what was sent, and the files of W&B's own processes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparserl.runs.files import read_json, write_json

ID_FILE = "wandb.json"
"""Keeps the id of the folder's run in W&B, and those of runs that it superseded."""

SENT_FILE = "wandb/sent.jsonl"
"""Keeps a line for each step that was sent: the step, and a digest of its values."""

SUPERSEDED = "superseded"
"""The tag of a run whose rows are of another attempt than those on the disk."""


def digest(values: Mapping[str, Any]) -> str:
    """Of values that JSON has; of tables, pictures and histograms, which follow from these, the names."""
    plain = {key: value if isinstance(value, str | int | float | list | None) else None for key, value in values.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def line_of(item: tuple[int, str]) -> str:
    """Of a step and its digest, in SENT_FILE."""
    return json.dumps(item) + "\n"


def sent(folder: Path) -> dict[int, str]:
    """The digests of what was sent, by increasing step; that of the last time where it was sent again."""
    digests: dict[int, str] = {}
    with suppress(OSError):
        for line in (home(folder) / SENT_FILE).read_bytes().splitlines():
            with suppress(ValueError, TypeError):  # what a power failure left
                step, digest = json.loads(line)
                digests[step] = digest
    return dict(sorted(digests.items()))


def of_agent() -> str | None:
    """The id of the run that ``wandb agent`` started this process for: within a sweep of its own, W&B takes no other."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def run_id_of(folder: Path, anew: bool = False) -> tuple[str, bool]:
    """The id of the folder's run, the same after every restart and in no other folder, and whether that run is new.

    ``anew`` gives it another one, but for an agent's: W&B takes no other, and a run that is begun as new writes over its rows.
    """
    path = folder / ID_FILE
    had = read_json(path) if path.exists() else {}
    asked = of_agent()
    if had and not anew and asked in (None, had["id"]):
        return str(had["id"]), False
    given = asked or secrets.token_hex(4)
    superseded = [*had.get("superseded", []), *([had["id"]] if had and had["id"] != given else [])]
    write_json(path, {"id": given} | ({"superseded": superseded} if superseded else {}))
    return given, True


def home(folder: Path) -> Path:
    """The folder in which W&B keeps the files of a run: the run's own, or one below WANDB_DIR that no other run has."""
    root = os.environ.get("WANDB_DIR")
    if not root or of_agent():  # an agent sets it to a folder of its own
        return folder
    home = Path(root).absolute() / f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]}"
    home.mkdir(parents=True, exist_ok=True)
    return home


def files_of(folder: Path) -> list[Path]:
    """What W&B keeps of the runs that a folder had, one file for each process; but for those that were superseded."""
    return [path for path in sorted(home(folder).glob("wandb/*run-*/run-*.wandb")) if not superseded(path).exists()]


def superseded(path: Path) -> Path:
    """What says, when it is there, that a file is of a run that another one took the place of."""
    return path.with_name(f"{path.name}.{SUPERSEDED}")


def synced(path: Path) -> Path:
    """What makes ``wandb sync`` pass a file over, when it is there."""
    return path.with_name(f"{path.name}.synced")


def read_records(path: Path) -> list[dict[str, Any]]:
    """What one process wrote for W&B, by W&B's own reader, which goes as far as a killed process came."""
    import wandb  # takes a second

    reader: list[str | Path] = [wandb.util.get_core_path(), "leet", "inspect", "--no-observability", "--json"]
    command = [*reader, "--run-file", path, path.parent]
    output = subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout
    return [json.loads(line) for line in output.splitlines()]


def last_step_of(folder: Path, run_id: str) -> int:
    """The last step in the files of earlier processes, -1 where there is none."""
    last = -1
    for path in files_of(folder):
        steps = [record["history"]["item"]["_step"] for record in read_records(path) if record["type"] == "history"]
        if not steps:
            synced(path).touch()  # of a process that came to nothing: `wandb sync` might stop at it
        if path.stem == f"run-{run_id}":
            last = max([last, *steps])
    return last
