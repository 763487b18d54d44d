"""Where the runs of a report come from: folders of runs, and tables of rows that earlier reports wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparserl.report.rows import alike, read_rows
from sparserl.runs import reader
from sparserl.runs.reader import Run

ROWS = "rows.csv"


@dataclass
class Found:
    """What the sources of a report have."""

    runs: list[Run] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    """The tables that all runs of a source were read from."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each source that could not be read."""


def read(sources: Sequence[Path]) -> Found:
    """The runs of folders and of tables.

    A source is a folder with runs in it or below it, a table, or a folder with the table that a report wrote and no runs. Of
    a folder that names its runs those that are not on this disk are taken from its table and from those beside it.
    """
    found = Found()
    folders = []
    rows: list[Run] = []
    for source in sources:
        table = source if source.is_file() else source / ROWS
        named = reader.named(source) if source.is_dir() else []
        if source.is_dir() and (named or not table.exists() or reader.folders([source])):
            folders.append(source)
            rows += _elsewhere(source, named, found)
        elif table.is_file():
            rows += _rows(table, found.problems)
            found.tables.append(table)
        else:
            found.problems.append(f"{source} is neither a folder nor a table of runs")
    runs = [*reader.find(folders), *rows]
    found.runs = alike(runs) if rows else runs
    return found


def _elsewhere(source: Path, named: Iterable[Path], found: Found) -> list[Run]:
    """The rows of those runs that a folder names and that are not on this disk: a machine has not what another trained."""
    here = {*reader.folders([source])}
    absent = [folder for folder in named if folder not in here]
    own = {run.folder: run for run in _rows(source / ROWS, found.problems)}
    if own.keys() >= {*absent}:
        known = own
        found.tables += [source / ROWS] * (not here)
    else:
        known = kept(source.parent) | own
    return [known[folder] for folder in absent if folder in known]


def kept(results: Path) -> dict[Path, Run]:
    """The runs that the tables below ``results`` list, by their folders: of a run in several, the row of the last by name.

    Of folders whose names begin with a date so only what no other has counts. Tables that are none of runs are passed over.
    """
    return {run.folder: run for table in sorted(results.glob(f"*/{ROWS}")) for run in _rows(table, [])}


def _rows(table: Path, problems: list[str]) -> list[Run]:
    """The runs of a table, none where it is not there; ``problems`` gets a sentence where it cannot be read."""
    try:
        return read_rows(table) if table.exists() else []
    except ValueError as error:
        problems.append(" ".join(str(error).split()))
        return []
