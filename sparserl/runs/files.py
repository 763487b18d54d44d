"""Files that are either whole or not there, and what a run leaves in its own."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar

from safetensors import SafetensorError, safe_open

from sparserl.runs.schema import as_json, from_json

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Tensor: TypeAlias = "torch.Tensor"  # by its name: who only reads rows does not wait seconds for torch

POLICY = "policy.safetensors"
POLICY_METADATA = "sparserl"
"""The key under which policy.safetensors describes itself and its run, as JSON."""

LOG_FILE = "run.log"
"""What happened when; what Python's logging says in a run is there too."""

FIGURE = "figure.png"
"""The picture in a run's folder."""

LAYER_RANKS = "layer_ranks.csv"
"""What ``sparserl-select`` leaves in a run's folder."""

LEFTOVER_SECONDS = 600.0
"""A temporary file that has not changed for so long is of a process that was killed."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskError(Exception):
    """A file of a run that cannot be written, or that has lost what the run goes on from: one sentence, with the remedy."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """The one place where what the system says of a file that cannot be written becomes a DiskError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch says it in words of its own
        if not isinstance(cause, OSError):
            raise
        remedy = "make room" if cause.errno in _NO_ROOM else "put that right"
        raise DiskError(f"{path} cannot be written: {cause.strerror or cause}; {remedy} and start it again") from error


def read_policy(folder: str | Path) -> tuple[Path, Any, dict[str, Tensor]]:
    """A policy's file, what it says of itself (``config``, ``spec``, ``versions``), and its tensors; it runs no code.

    Raises FileNotFoundError where there is none and ValueError where it is damaged.
    """
    path = Path(folder) / POLICY
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: the run has not finished, or this is not a run's folder")
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[POLICY_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole policy: {error}") from error
    return path, description, tensors


def components(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The layers of each component among the tensors of a policy's file."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        component, _, name = key.partition("/")
        found.setdefault(component, {})[name] = tensor
    return found


def read_masks(path: Path) -> dict[str, Tensor]:
    """Masks by ``component/name`` of the weights that they are for, as ``write_masks`` left them; it runs no code.

    Raises ValueError where the file is not there or damaged, or a number in it is neither 0 nor 1.
    """
    try:
        with safe_open(path, framework="pt") as file:
            masks: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise ValueError("it does not exist") from error
    except (SafetensorError, OSError) as error:
        raise ValueError(f"it is not a whole safetensors file: {error}") from error
    for name, mask in masks.items():
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"its {name} holds numbers that are neither 0 nor 1")
    return masks


def write_masks(path: Path, masks: Mapping[str, Tensor]) -> None:
    """Replace a file of masks: of each weight by ``component/name`` a tensor of its shape, 1 where it is kept, in bytes."""
    import torch  # as above: who only reads rows does not wait for it
    from safetensors.torch import save

    content = save({name: mask.to(torch.uint8).contiguous() for name, mask in masks.items()})
    replace(path, lambda file: file.write(content))


def joined(weights: Mapping[str, Mapping[str, Tensor]], components: Sequence[str]) -> dict[str, Tensor]:
    """The inverse: the layers of several components as those of one network, by ``component/name``."""
    return {f"{component}/{name}": tensor for component in components for name, tensor in weights[component].items()}


def misfit(given: Mapping[str, Mapping[str, Tensor]], needed: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """The first tensor in whose name, shape or type two policies differ, as a clause; None where one can be the other."""
    given_tensors, needed_tensors = (joined(weights, tuple(weights)) for weights in (given, needed))
    types = {True: "numbers", False: "whole numbers"}  # training keeps statistics in float64, which a policy has in float32
    for what, of in (("shape", lambda its: list(its.shape)), ("type", lambda its: types[its.is_floating_point()])):
        there, here = ({name: of(its) for name, its in tensors.items()} for tensors in (given_tensors, needed_tensors))
        for name in here | there:
            if here.get(name) != there.get(name):
                differ = f"its {what} there is {there.get(name, 'missing')}, and {here.get(name, 'none')} is needed"
                return f"{name} does not fit: {differ}"
    return None


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError, with the path, where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not whole: {error}") from error


def read_record(cls: type[T], path: Path) -> T:
    """A dataclass of ``schema`` from its JSON file. Raises FileNotFoundError, and ValueError where the file is not one."""
    try:
        return from_json(cls, read_json(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path} is not whole: {error}") from error


def write_json(path: Path, row: Any, only_new: bool = False) -> bool:
    """Replace a JSON file as a whole, or with ``only_new`` leave one that is there as it is; whether it was written."""
    text = json.dumps(as_json(row), indent=2, allow_nan=False) + "\n"
    return replace(path, lambda file: file.write(text.encode()), only_new)


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole, in UTF-8. Lone surrogates, as in names of files that are not, become their escapes."""
    replace(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_table(path: Path, rows: Sequence[Any]) -> None:
    """Replace a CSV file, a line for each row, a dataclass; there must be one row.

    Numbers read back exactly, null is an empty cell.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_json(row) for row in rows)
    write_text(path, text.getvalue())


def replace(path: Path, write: Callable[[BinaryIO], Any], only_new: bool = False) -> bool:
    """Write a file beside ``path`` and put it in its place only when it is whole and on the disk; whether that was done.

    Of several processes that do so at once, each has a file of its own, and the last one wins. With ``only_new`` the first one
    does: what is there stays. Raises DiskError where it cannot be done.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with writing(path):
        try:
            with beside.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if only_new and not _link(beside, path):
                beside.unlink()
                return False
            beside.replace(path)
            if only_new:
                beside.unlink(missing_ok=True)  # both are one file after ``_link``, and then ``replace`` does nothing
        except BaseException:  # a signal too
            with suppress(OSError):
                beside.unlink()  # half a file is of no use, and takes room
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return True


def _link(beside: Path, path: Path) -> bool:
    """Give a file a second name, unless there is one of that name: a test and a write that no process comes between."""
    try:
        path.hardlink_to(beside)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: there a test has to do, and a process may come between
        return not path.exists()
    return True


def now(folder: Path) -> float:
    """The time by the clock that dates the folder's files, a file server's say, from an empty file that is gone at once.

    Where none can be made there, it is this machine's time.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed; checkpoints are large."""
    for path in folder.glob("*.part"):
        with suppress(OSError):
            if now(folder) - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()
