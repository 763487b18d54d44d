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
    a folder that names its runs those that are not on this disk, or not finished there, are taken from its table and from
    those beside it.
    """
    found = Found()
    folders = []
    rows: list[Run] = []
    replaced: set[Path] = set()
    for source in sources:
        table = source if source.is_file() else source / ROWS
        named = reader.named(source) if source.is_dir() else []
        if source.is_dir() and (named or not table.exists() or reader.folders([source])):
            folders.append(source)
            elsewhere = _elsewhere(source, named, found)
            rows += elsewhere
            replaced.update(run.folder for run in elsewhere)
        elif table.is_file():
            rows += _rows(table, found.problems)
            found.tables.append(table)
        else:
            found.problems.append(f"{source} is neither a folder nor a table of runs")
    runs = [*(run for run in reader.find(folders) if run.folder not in replaced), *rows]
    found.runs = alike(runs) if rows else runs
    return found


def _elsewhere(source: Path, named: Iterable[Path], found: Found) -> list[Run]:
    """The rows of those runs that a folder names and that are not on this disk, or not finished there.

    A machine has not what another trained, and what was finished elsewhere may have begun again here.
    """
    here = {folder: _ended(reader.read(folder, rows=False)) for folder in reader.folders([source])}
    missing = [folder for folder in named if here.get(folder) != ALL]
    own = {run.folder: run for run in _rows(source / ROWS, found.problems)}
    if own.keys() == {*missing} and not here:
        found.tables.append(source / ROWS)
    known = own if own.keys() >= {*missing} else _fullest([*kept(source.parent).values(), *own.values()])
    return [
        known[folder] for folder in missing if folder in known and (folder not in here or _ended(known[folder]) > here[folder])
    ]


def kept(results: Path) -> dict[Path, Run]:
    """The runs that the tables below ``results`` list, by their folders.

    Of a run in several, a row with its result counts before one without, and of these one with its ranks; then that of the
    last table by name. Tables that are none of runs are passed over.
    """
    return _fullest([run for table in sorted(results.glob(f"*/{ROWS}")) for run in _rows(table, [])])


ALL = (True, True)


def _ended(run: Run) -> tuple[bool, bool]:
    """How far a run came: whether it has a result that counts, and whether its ranks were evaluated."""
    return run.counts, run.is_swept


def _fullest(runs: Iterable[Run]) -> dict[Path, Run]:
    """By folder, of several rows of a run the one that came farthest, and of such the last."""
    return {run.folder: run for run in sorted(runs, key=_ended)}


def _rows(table: Path, problems: list[str]) -> list[Run]:
    """The runs of a table, none where it is not there; ``problems`` gets a sentence where it cannot be read."""
    try:
        return read_rows(table) if table.exists() else []
    except ValueError as error:
        problems.append(" ".join(str(error).split()))
        return []
