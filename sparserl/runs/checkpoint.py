"""Checkpoints of the members of a loop, kept in its members' folders.

Each member has its own file, named by its step, so that a run can go on beside any other members. The members' manifests are
replaced only after every member's file is on the disk, and the older of two generations is removed only after that; so
whenever a process dies, there is a step that all members have whole: the newest that stands in all their manifests.

The rows of a Log, of which a state has one at most, are in files of their own, the segments: each generation adds those with
the rows that are new since the one before, and names all that it needs. So no row is written twice.
"""

from __future__ import annotations

import re
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from sparserl.population.state import Log, State, StateError
from sparserl.runs.files import DiskError, read_json, replace, write_json
from sparserl.terminal import say
from sparserl.types import Weights

GENERATIONS = 2
MANIFEST = "checkpoint.json"

Segment = tuple[str, int, int]
"""The name of a file, and the rows in it: from a number to before another."""


class Generation(NamedTuple):
    """What a manifest says of one step."""

    segments: list[Segment]
    run_by: Any


LOG = "segments of a log"
"""The key of what stands for a Log in a file."""

SEGMENT_BYTES = 2**25
"""About how much is in a segment at most: so much of a Log is copied to be written."""


def save(folders: Sequence[Path], step: int, states: Sequence[State], run_by: Sequence[Any] = ()) -> None:
    """Write one generation: the state of each member, in its folder.

    ``run_by`` says of each member, as JSON, in which loops it can go on: in those of members of which it is the same.
    """
    manifests = []
    for folder, state, its in zip(folders, states, run_by or [None] * len(folders), strict=True):
        earlier = {older: found for older, found in _generations(folder).items() if older < step}
        segments = [*_write_log(folder, step, state, [*earlier.values()][-1].segments if earlier else [])]
        plain = tree_map_only(Log, partial(_named, segments), state)
        replace(_file(folder, step), lambda file, plain=plain: torch.save(plain, file))  # type: ignore[misc]
        manifests.append(dict([*earlier.items(), (step, Generation(segments, its))][-GENERATIONS:]))
    for folder, generations in zip(folders, manifests, strict=True):
        columns = {name: [getattr(its, name) for its in generations.values()] for name in Generation._fields}
        write_json(folder / MANIFEST, {"steps": [*generations], **columns})
    for folder in folders:
        for old in {*_files(folder)} - {*steps(folder)}:
            _file(folder, old).unlink()
        needed = {name for its in _generations(folder).values() for name, _, _ in its.segments}
        for path in folder.glob("segment-*.pt"):
            if path.name not in needed:
                path.unlink()


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


@contextmanager
def naming(folders: Sequence[Path]) -> Iterator[None]:
    """Within, members go on from what ``load`` gave. A StateError becomes a DiskError that names their files."""
    try:
        yield
    except StateError as error:
        step = min(map(newest, folders))
        files = ", ".join(str(_file(folder, step)) for folder in folders)
        raise DiskError(f"{'one of ' * (len(folders) > 1)}{files} {error}") from error


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
        known = _generations(folder).get(step)
        if all(map(_is_whole, [_file(folder, step), *_paths(folder, known.segments if known else [])])):
            return step
    _refuse_damaged([folder])
    return 0


def run_by(folder: Path, step: int) -> Any:
    """What ``save`` was given under this name; None where nothing is known of that."""
    known = _generations(folder).get(step)
    return known.run_by if known else None


def raw_weights(folder: Path) -> Weights | None:
    """Every component at the last checkpoint as it is trained: with its gates apart. None without a checkpoint.

    Raises ValueError where there were checkpoints and none of them can be read.
    """
    states = load([folder])
    try:
        weights: Weights | None = states[0]["trainer"]["learner"]["weights"] if states else None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} has a checkpoint that is none of a run's: it lacks {error}") from error
    return weights


def steps(folder: Path) -> list[int]:
    """The steps that a folder's manifest names, oldest first; none where there is no whole manifest."""
    return [*_generations(folder)]


def _generations(folder: Path) -> dict[int, Generation]:
    """The steps that a folder's manifest names, oldest first, with what it says of each; none where it is not whole."""
    try:
        manifest = read_json(folder / MANIFEST)
        found = [step + 0 for step in manifest["steps"]]
        each = zip(found, map(_segments, manifest["segments"]), manifest["run_by"], strict=True)
        return {step: Generation(named, its) for step, named, its in sorted(each, key=lambda one: one[0])}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _files(folder: Path) -> list[int]:
    """The steps that a folder has files of. Each file is whole, since it was put in its place when it was."""
    names = (re.fullmatch(r"checkpoint-([0-9]{12})\.pt", path.name) for path in folder.glob("checkpoint-*.pt"))
    return sorted(int(name[1]) for name in names if name)


def _read(path: Path) -> State | None:
    """A state, or None where the file is missing or damaged. Only tensors and plain containers are ever loaded."""
    if not _is_whole(path):
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return tree_map(lambda part: _read_log(path.parent, part) if _is_named(part) else part, state, is_leaf=_is_named)
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


# ---------------------------------------------------------------- logs


def _write_log(folder: Path, step: int, state: State, known: Sequence[Segment]) -> list[Segment]:
    """Write the rows of the state's Log that no ``known`` segment has, of the generation before; all segments that it needs."""
    segments: list[Segment] = []
    for log in (part for part in tree_leaves(state) if isinstance(part, Log)):
        segments = [segment for segment in known if segment[2] > log.first]
        is_whole = all(path.exists() for path in _paths(folder, segments))
        if not (segments and segments[0][1] <= log.first and segments[-1][2] <= log.end and is_whole):
            segments = []
        start = segments[-1][2] if segments else log.first
        at_once = max(1, SEGMENT_BYTES // max(1, log.read(log.first, log.first + 1).nbytes)) if start < log.end else 1
        for first in range(start, log.end, at_once):
            end, name = min(first + at_once, log.end), f"segment-{step:012d}-{secrets.token_hex(4)}.pt"
            rows = log.read(first, end).cpu()
            replace(folder / name, partial(torch.save, rows))
            segments.append((name, first, end))
    return segments


def _named(segments: Sequence[Segment], log: Log) -> State:
    """What stands for a Log in a file."""
    return {LOG: [[*segment] for segment in segments], "first": log.first, "end": log.end}


def _is_named(part: Any) -> bool:
    return isinstance(part, dict) and LOG in part


def _read_log(folder: Path, named: dict[str, Any]) -> Log:
    """The Log for which that stands. Raises ValueError where a segment is missing or damaged."""
    segments = _segments(named[LOG])
    if not all(map(_is_whole, _paths(folder, segments))):
        raise ValueError("a segment is damaged")

    def read(first: int, end: int) -> Tensor:
        parts = []
        for (_, its_first, its_end), path in zip(segments, _paths(folder, segments), strict=True):
            if its_first < end and its_end > first:
                rows = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                parts.append(rows[max(0, first - its_first) : end - its_first])
        return torch.cat(parts)

    return Log(named["first"], named["end"], read)


def _segments(named: Sequence[Sequence[Any]]) -> list[Segment]:
    """Out of JSON. Raises ValueError and TypeError where that is not what it is."""
    return [(str(name), first + 0, end + 0) for name, first, end in named]


def _paths(folder: Path, segments: Sequence[Segment]) -> list[Path]:
    """Of names only that a segment can have: a file may be a stranger's."""
    return [folder / Path(name).name for name, _, _ in segments]
