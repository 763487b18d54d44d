"""A run's folder. Rows are on the disk before they are anywhere else, and a file is either whole or not there."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from safetensors import SafetensorError, safe_open

from sparserl.records.schema import RankRow, Result, SingularValue, Status, StatusName, as_json

if TYPE_CHECKING:
    import torch

Tensor: TypeAlias = "torch.Tensor"  # by its name: who only reads rows does not wait seconds for torch

POLICY_METADATA = "sparserl"
"""The key under which policy.safetensors describes its network and its run, as JSON."""

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


class RunFolder:
    """Writes the files of one member, described in the README, and keeps other processes from doing so. ``path`` must exist.

    Whatever cannot be written raises DiskError, and leaves what was whole before as it was.
    """

    def __init__(self, path: Path, total_steps: int) -> None:
        self.path = path
        self._total_steps = total_steps
        self._metrics = _open_log(path / "metrics.jsonl")
        try:
            _lock(self._metrics, path)
            self._timing = _open_log(path / "timing.jsonl")
            self._told = _open_log(path / LOG_FILE)
        except DiskError:
            self._metrics.close()
            raise

    def metrics(self, row: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl; nothing in it may depend on the clock."""
        _append(self._metrics, _json_line(row))

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        try:
            return [json.loads(line) for line in path.read_bytes().splitlines()]
        except ValueError as error:
            raise DiskError(f"{path} is damaged ({error}); take the folder away to train from the start") from error

    def timing(self, row: Mapping[str, Any]) -> None:
        """One line of timing.jsonl."""
        _append(self._timing, _json_line(row))

    def tell(self, text: str) -> None:
        """What happens, and when, for a reader of run.log; nothing is ever cut off there."""
        _append(self._told, f"[{datetime.now():%Y-%m-%d %H:%M:%S}] {text.strip()}\n".encode())

    def offsets(self) -> dict[str, int]:
        """How long the logs are now, for ``cut``; so far they are safe from a power failure too."""
        for log in (self._metrics, self._timing):
            with writing(Path(log.name)):
                os.fsync(log.fileno())
        return {"metrics": self._metrics.tell(), "timing": self._timing.tell()}

    def cut(self, offsets: Mapping[str, int]) -> None:
        """Drop whatever the logs hold after ``offsets``. Raises DiskError where rows before that are gone."""
        if self._metrics.tell() < offsets["metrics"]:
            raise DiskError(
                f"{self.path / 'metrics.jsonl'} has lost rows that were there at the last checkpoint; "
                "put them back, or take the folder away to train from the start"
            )
        for log, offset in ((self._metrics, offsets["metrics"]), (self._timing, offsets["timing"])):
            with writing(Path(log.name)):
                log.truncate(min(offset, log.tell()))
                log.seek(0, os.SEEK_END)

    def status(self, name: StatusName, env_step: int, error: str | None = None) -> None:
        """Replace status.json."""
        row = Status(name, env_step, self._total_steps, os.getpid(), socket.gethostname(), error)
        write_json(self.path / "status.json", row)

    def result(self, row: Result) -> None:
        """Write result.json."""
        write_json(self.path / "result.json", row)

    def table(self, name: str, rows: Sequence[RankRow] | Sequence[SingularValue]) -> None:
        """Write ``name``.csv, a line for each row; there must be one. Numbers read back exactly, null is an empty cell."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows(as_json(row) for row in rows)
        replace(self.path / f"{name}.csv", lambda file: file.write(text.getvalue().encode()))

    def policy(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Write policy.safetensors: the tensors, and in its metadata whatever is needed to rebuild the network."""
        from safetensors.torch import save  # brings torch

        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # one entry: safetensors writes several in an order that changes, and equal policies are to be equal files
        metadata = {POLICY_METADATA: json.dumps(description)}
        replace(self.path / "policy.safetensors", lambda file: file.write(save(whole, metadata)))

    def close(self) -> None:
        self._metrics.close()
        self._timing.close()
        self._told.close()


def read_policy(folder: str | Path) -> tuple[Path, Any, dict[str, Tensor]]:
    """A policy's file, what it says of itself (``config``, ``network``, ``versions``), and its tensors; it runs no code.

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


def component(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The layers of one component among the tensors of a policy's file."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}


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


def _open_log(path: Path) -> io.FileIO:
    """At its end, and without a buffer: what could not be written would wait in there, and be tried again at the close."""
    with writing(path):
        log = path.open("ab+", buffering=0)
        log.seek(0, os.SEEK_END)
        return log


def _json_line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(as_json(dict(row)), allow_nan=False).encode() + b"\n"


def _append(log: io.FileIO, line: bytes) -> None:
    """Write a line, or nothing."""
    before = log.tell()
    with writing(Path(log.name)):
        try:
            while line:
                line = line[_write(log, line) :]
        except OSError:
            log.truncate(before)
            log.seek(before)
            raise


def _write(log: io.FileIO, line: bytes) -> int:
    """How much of the line was written: on a disk that has just become full, a part."""
    return log.write(line)


def _lock(log: io.FileIO, folder: Path) -> None:
    """Hold ``folder`` until ``log`` is closed, or the process ends. Raises DiskError where another process does.

    File systems that know no locks hold nothing, and neither does Windows.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DiskError(f"{folder} is being written by {_writer(folder)}; wait for it to end, or stop it") from error
    except OSError:
        return


def check_free(folder: Path) -> None:
    """Raises DiskError where another process writes to a run's folder at this moment."""
    path = folder / "metrics.jsonl"
    if path.exists():
        with _open_log(path) as log:
            _lock(log, folder)


def _writer(folder: Path) -> str:
    """Who writes to a folder, as far as its status says."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        status = read_json(folder / "status.json")
        if status["status"] == "running":  # or else it is from before
            return f"process {status['process']} on {status['host']}"
    return "another process"
