"""A run's folder. Rows are on the disk before they are anywhere else, and a file is either whole or not there."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import lock_descriptor

from sparserl.runs.files import (
    LAYER_RANKS,
    LOG_FILE,
    POLICY,
    POLICY_METADATA,
    DiskError,
    Tensor,
    read_json,
    remove_leftovers,
    replace,
    write_json,
    write_table,
    writing,
)
from sparserl.runs.schema import RankRow, Result, SingularValue, Status, StatusName, as_json
from sparserl.terminal import say_once


class RunFolder:
    """Writes the files of one member (docs/outputs.md), and keeps other processes from doing so. ``path`` must exist.

    Whatever cannot be written raises DiskError, and leaves what was whole before as it was.
    """

    def __init__(self, path: Path, total_steps: int) -> None:
        self.path = path
        self._total_steps = total_steps
        with ExitStack() as opened:
            self._metrics = opened.enter_context(_open_log(path / "metrics.jsonl"))
            _lock(self._metrics, path)
            self._timing = opened.enter_context(_open_log(path / "timing.jsonl"))
            self._told = opened.enter_context(_open_log(path / LOG_FILE))
            remove_leftovers(path)
            self._opened = opened.pop_all()

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
        line = f"[{datetime.now():%Y-%m-%d %H:%M:%S}] {text.strip()}\n"
        _append(self._told, line.encode("utf-8", "backslashreplace"))

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
        write_status(self.path, name, env_step, self._total_steps, error)

    def result(self, row: Result) -> None:
        """Write result.json."""
        write_json(self.path / "result.json", row)

    def table(self, name: str, rows: Sequence[RankRow] | Sequence[SingularValue]) -> None:
        """Write ``name``.csv, as ``write_table`` does."""
        write_table(self.path / f"{name}.csv", rows)

    def policy(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Write policy.safetensors: the tensors, and in its metadata whatever is needed to rebuild the network."""
        from safetensors.torch import save  # brings torch

        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # one entry: safetensors writes several in an order that changes, and equal policies are to be equal files
        metadata = {POLICY_METADATA: json.dumps(description)}
        path, content = self.path / POLICY, save(whole, metadata)
        if not (path.exists() and path.read_bytes() == content):
            with writing(self.path / LAYER_RANKS):
                (self.path / LAYER_RANKS).unlink(missing_ok=True)  # of another policy
        replace(path, lambda file: file.write(content))

    def close(self) -> None:
        self._opened.close()


def write_status(
    folder: Path, name: StatusName, env_step: int, total_steps: int, error: str | None = None, of: str | None = None
) -> None:
    """Replace a folder's status.json by one that names this process. Raises DiskError where it cannot be written."""
    process = psutil.Process()
    row = Status(name, env_step, total_steps, process.pid, socket.gethostname(), error, of, process.create_time())
    write_json(folder / "status.json", row)


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

    On a file system without locks nothing is held, which is said once.
    """
    try:
        is_free = lock_descriptor(log.fileno(), blocking=False)
    except OSError as error:
        say_once(
            f"warning: files cannot be locked here ({error.strerror}), so nothing keeps a second process from writing "
            "the same runs: start each sweep once"
        )
        return
    if not is_free:
        raise DiskError(f"{folder} is being written by {_writer(folder)}; wait for it to end, or stop it")


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
