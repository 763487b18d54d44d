"""Where rows go besides the disk: the contract, and ``disk``, which adds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparserl.runs.schema import Result, StatusName


class Log:
    """What one run is told to, in this order. As it is here, nobody listens.

    Nothing in here may raise or wait: the disk has it all, and training goes on.
    """

    def row(self, row: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl; a run that goes on begins with those that are there."""

    def sweep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The lines of lowrank.csv."""

    def finish(self, result: Result, distributions: Mapping[str, Tensor]) -> None:
        """The result of a whole run, whose policy is on the disk, and the values in its layers by name."""

    def end(self, status: StatusName) -> None:
        """How the run ended, whole or not; after the first time nothing happens."""


@dataclass(frozen=True, kw_only=True)
class Logger:
    """Opens a log for each member of a loop."""

    def open(self, folders: Sequence[Path], configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Sequence[Log]:
        """A log for each run, from its folder, its config and its name for a reader."""
        return [Log() for _ in folders]

    def close(self, logs: Sequence[Log]) -> None:
        """End what has not ended, wait until all is written, and say where it is."""


@dataclass(frozen=True, kw_only=True)
class Disk(Logger):
    """The files in the run's folder are all there is."""
