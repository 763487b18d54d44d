"""A run's folder. Rows are on the disk before they are anywhere else, and a file is either whole or not there."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from safetensors import SafetensorError, safe_open

from sparserl.records.schema import RankRow, Result, SingularValue, Status, StatusName, as_json

if TYPE_CHECKING:
    import torch

Tensor: TypeAlias = "torch.Tensor"  # by its name: who only reads rows does not wait seconds for torch

POLICY_METADATA = "sparserl"
"""The key under which policy.safetensors describes its network and its run, as JSON."""

FIGURE = "figure.png"
"""The picture in a run's folder."""


class RunFolder:
    """Writes the files of one member, described in the README. ``path`` must exist."""

    def __init__(self, path: Path, total_steps: int) -> None:
        self.path = path
        self._total_steps = total_steps
        self._metrics = _open_log(path / "metrics.jsonl")
        self._timing = _open_log(path / "timing.jsonl")

    def metrics(self, row: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl; nothing in it may depend on the clock."""
        _append(self._metrics, row)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_bytes().splitlines()]

    def timing(self, row: Mapping[str, Any]) -> None:
        """One line of timing.jsonl."""
        _append(self._timing, row)

    def offsets(self) -> dict[str, int]:
        """How long the logs are now, for ``cut``; so far they are safe from a power failure too."""
        for log in (self._metrics, self._timing):
            os.fsync(log.fileno())
        return {"metrics": self._metrics.tell(), "timing": self._timing.tell()}

    def cut(self, offsets: Mapping[str, int]) -> None:
        """Drop whatever the logs hold after ``offsets``."""
        for log, offset in ((self._metrics, offsets["metrics"]), (self._timing, offsets["timing"])):
            log.truncate(min(offset, log.seek(0, os.SEEK_END)))
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
    """Write a file beside ``path`` and put it in its place only when it is whole and on the disk."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _open_log(path: Path) -> BinaryIO:
    log = path.open("r+b" if path.exists() else "w+b")
    log.seek(0, os.SEEK_END)
    return log


def _append(log: BinaryIO, row: Mapping[str, Any]) -> None:
    log.write(json.dumps(as_json(dict(row)), allow_nan=False).encode() + b"\n")
    log.flush()
