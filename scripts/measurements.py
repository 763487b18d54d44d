"""What a bench measured, in a folder of results/: rows.csv and table.md, which later commands add to."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

from sparserl.runs import provenance

Row: TypeAlias = Mapping[str, Any]


def folder_of(name: str, is_smoke: bool = False) -> Path:
    """Where the rows of a bench are: what a smoke run measured must not stand among results."""
    return Path("outputs/smoke-results" if is_smoke else "results") / name


@dataclass(frozen=True)
class Measurements:
    """How the rows of a bench are told apart, ordered and shown."""

    shown: Mapping[str, str]
    """The columns of the table, by their names in the rows, with their headings."""
    key: tuple[str, ...]
    """The columns that name a row: one that is measured again takes the place of the one before."""
    readable: Callable[[Row], Mapping[str, str]]
    """Of a row: the texts of columns that are not shown as they are. Numbers of rows that were read from a file are texts."""
    order: Callable[[Row], Any] | None = None
    """What rows are sorted by; None leaves them as they were measured."""

    def add(self, folder: Path, rows: Sequence[Row]) -> str:
        """Write these rows with their date, command and commit beside the earlier ones; the table of all of them."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "rows.csv"
        origin = {"date": date.today(), "command": " ".join(["python", *sys.argv]), "commit": provenance.commit()}
        measured = {self._key(row): {**row, **origin} for row in rows}
        if path.exists():
            with path.open(newline="") as file:
                measured = {self._key(row): row for row in csv.DictReader(file)} | measured
        ordered = sorted(measured.values(), key=self.order) if self.order else [*measured.values()]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in ordered for name in row)))
            writer.writeheader()
            writer.writerows(ordered)
        cells = [[str({**row, **self.readable(row)}[name]) for name in self.shown] for row in ordered]
        lines = [list(self.shown.values()), ["---"] * len(self.shown), *cells]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        (folder / "table.md").write_text(table)
        return table

    def _key(self, row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self.key)
