"""Files that are either whole or not there, and what a run leaves in its own."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from safetensors import SafetensorError, safe_open

from sparserl.runs.schema import as_json

if TYPE_CHECKING:
    import torch

Tensor: TypeAlias = "torch.Tensor"  # by its name: who only reads rows does not wait seconds for torch

POLICY_METADATA = "sparserl"
"""The key under which policy.safetensors describes itself and its run, as JSON."""

LOG_FILE = "run.log"
"""What happened when; what Python's logging says in a run is there too."""

FIGURE = "figure.png"
"""The picture in a run's folder."""

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
    path = Path(folder) / "policy.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: the run has not finished, or this is not a run's folder")
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[POLICY_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is not a whole policy: {error}") from error
    return path, description, tensors


def components(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The layers of each component among the tensors of a policy's file."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        component, _, name = key.partition("/")
        found.setdefault(component, {})[name] = tensor
    return found


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError, with the path, where it is not JSON."""
    try:
        return json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not whole: {error}") from error


def write_json(path: Path, row: Any) -> None:
    """Replace a JSON file as a whole."""
    text = json.dumps(as_json(row), indent=2, allow_nan=False) + "\n"
    replace(path, lambda file: file.write(text.encode()))


def replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file beside ``path`` and put it in its place only when it is whole and on the disk.

    Raises DiskError where that cannot be done.
    """
    beside = path.with_name(path.name + ".part")
    with writing(path):
        try:
            with beside.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except Exception:
            with suppress(OSError):
                beside.unlink()  # half a file is of no use, and takes room
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
