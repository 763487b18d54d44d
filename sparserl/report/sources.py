"""Where the runs of a report come from: folders of runs, and tables of rows that earlier reports wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparserl.report.rows import alike, read_rows
from sparserl.runs import reader
from sparserl.runs.reader import Run

ROWS = "rows.csv"


@dataclass(frozen=True)
class Found:
    """What the sources of a report have."""

    runs: list[Run]
    tables: list[Path]
    """The tables that runs were read from."""
    problems: list[str]
    """A sentence for each source that could not be read."""


def read(sources: Sequence[Path]) -> Found:
    """The runs of folders and of tables.

    A source is a folder with runs in it or below it, a table, or a folder with the table that a report wrote and no runs.
    """
    found: list[Run] = []
    problems: list[str] = []
    folders, tables = [], []
    for source in sources:
        table = source if source.is_file() else source / ROWS
        if source.is_dir() and (not table.exists() or reader.folders([source])):
            folders.append(source)
        elif table.is_file():
            try:
                found += read_rows(table)
                tables.append(table)
            except ValueError as error:
                problems.append(" ".join(str(error).split()))
        else:
            problems.append(f"{source} is neither a folder nor a table of runs")
    runs = [*reader.find(folders), *found]
    return Found(alike(runs) if found else runs, tables, problems)
