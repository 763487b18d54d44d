"""Checkpoints of the members of a loop, kept in its members' folders.

Each member has its own file, named by its step, so that a run can go on beside any other members. The members' manifests are
replaced only after every member's file is on the disk, and the older of two generations is removed only after that; so
whenever a process dies, there is a step that all members have whole: the newest that stands in all their manifests.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from sparserl.population.state import State
from sparserl.runs.files import read_json, replace, write_json
from sparserl.terminal import say
from sparserl.types import Weights

GENERATIONS = 2
MANIFEST = "checkpoint.json"


def save(folders: Sequence[Path], step: int, states: Sequence[State]) -> None:
    """Write one generation: the state of each member, in its folder."""
    for folder, state in zip(folders, states, strict=True):
        replace(_file(folder, step), lambda file, state=state: torch.save(state, file))  # type: ignore[misc]
    for folder in folders:
        write_json(folder / MANIFEST, {"steps": [*(s for s in steps(folder) if s < step), step][-GENERATIONS:]})
    for folder in folders:
        for old in {*_files(folder)} - {*steps(folder)}:
            _file(folder, old).unlink()


def load(folders: Sequence[Path]) -> list[State] | None:
    """The states of all members at the newest step that all of them have whole; None where no checkpoint was made yet.

    What is damaged, so that an older step or no manifest has to do, is said in a line. Raises ValueError where there were
    checkpoints and none of them can be read.
    """
    named = [steps(folder) or _files(folder) for folder in folders]
    damaged = [folder / MANIFEST for folder in folders if (folder / MANIFEST).exists() and not steps(folder)]
    for step in sorted(set.intersection(*map(set, named)), reverse=True):
        paths = [_file(folder, step) for folder in folders]
        states = [_read(path) for path in paths]
        damaged += [path for path, state in zip(paths, states, strict=True) if state is None]
        if all(state is not None for state in states):
            if damaged:
                say(f"warning: {', '.join(map(str, damaged))} cannot be read; the checkpoint of step {step} can")
            return states
    _refuse_damaged(folders)
    return None


def _refuse_damaged(folders: Sequence[Path]) -> None:
    """Raises ValueError where a checkpoint was once made: files without any manifest are of a generation never finished."""
    if any((folder / MANIFEST).exists() for folder in folders):
        raise ValueError(
            f"no checkpoint that all of {', '.join(map(str, folders))} name can be read: "
            "take the damaged folders away to train them from the start"
        )


def newest(folder: Path) -> int:
    """The newest step that a folder has a whole checkpoint of; 0 where none was made yet.

    Raises ValueError where there were checkpoints and none of them is whole.
    """
    for step in reversed(steps(folder) or _files(folder)):
        if _is_whole(_file(folder, step)):
            return step
    _refuse_damaged([folder])
    return 0


def raw_weights(folder: Path) -> Weights | None:
    """Every component at the last checkpoint as it is trained: with its gates apart. None without a checkpoint.

    Raises ValueError where there were checkpoints and none of them can be read.
    """
    states = load([folder])
    weights: Weights | None = states[0]["trainer"]["learner"]["weights"] if states else None
    return weights


def steps(folder: Path) -> list[int]:
    """The steps that a folder's manifest names, oldest first; none where there is no whole manifest."""
    try:
        return sorted(step + 0 for step in read_json(folder / MANIFEST)["steps"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def _files(folder: Path) -> list[int]:
    """The steps that a folder has files of. Each file is whole, since it was put in its place when it was."""
    names = (re.fullmatch(r"checkpoint-([0-9]{12})\.pt", path.name) for path in folder.glob("checkpoint-*.pt"))
    return sorted(int(name[1]) for name in names if name)


def _read(path: Path) -> State | None:
    """A state, or None where the file is missing or damaged. Only tensors and plain containers are ever loaded."""
    if not _is_whole(path):
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 (a damaged file makes torch's unpickler raise whatever its bytes lead it to)
        return None


def _is_whole(path: Path) -> bool:
    """Whether a file is there and keeps its checksums: torch reads past a flipped bit."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # noqa: BLE001 (as of torch, of damaged bytes)
        return False


def _file(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:012d}.pt"
