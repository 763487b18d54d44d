"""Where rows go besides the disk: the contract, and ``disk``, which adds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparserl.runs.schema import Result, StatusName


class Log:
    """Receives one run's records, in this order. The base class discards them.

    No method raises or waits: the disk has all records, and training goes on.
    """

    def row(self, row: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl.

        A process that goes on begins with the lines that are there. They and what follows may end before the records that an
        earlier process gave to the log, or differ from them: the disk is right, and a log never keeps half of each.
        """

    def sweep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The lines of lowrank.csv."""

    def finish(self, result: Result, distributions: Mapping[str, Tensor]) -> None:
        """The result of a whole run, whose policy is on the disk, and the values in its layers by name."""

    def end(self, status: StatusName) -> None:
        """How the run ended, whole or not; after the first time nothing happens."""

    def film(self, path: Path) -> None:
        """A film of the policy of a run that ended before, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Logger:
    """Opens a log for each member of a loop."""

    @property
    def recipient(self) -> str | None:
        """Whose account rows are sent to, where the config names one and it need not be the user's; None where none is."""
        return None

    def foreign_settings(self, folder: Path) -> Path | None:
        """A file in a run's folder that would say where rows, and the user's key with them, are sent; None where none would."""
        return None

    def open(self, folders: Sequence[Path], configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Sequence[Log]:
        """A log for each run, from its folder, its config and its name for a reader."""
        return [Log() for _ in folders]

    def close(self, logs: Sequence[Log]) -> None:
        """End what has not ended, wait until all is written, and say where it is."""


@dataclass(frozen=True, kw_only=True)
class Disk(Logger):
    """The files in the run's folder are all there is."""
