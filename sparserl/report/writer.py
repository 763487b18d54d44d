"""Writes a report: tables, figures, exports, and a page of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparserl.report import exports, markup, overview, strengths, tables
from sparserl.report.figures import style
from sparserl.report.figures.catalogue import FIGURES
from sparserl.report.groups import Group
from sparserl.report.page import Content, Drawing
from sparserl.report.rows import MADE_BY
from sparserl.report.table import NothingToShowError, Table
from sparserl.runs.files import write_text
from sparserl.runs.reader import Run
from sparserl.terminal import optional

OVERVIEW = "table"
TABLES: dict[str, tables.Builder] = {
    "main": tables.main,
    "ranks": tables.ranks,
    "rank_sweep": tables.rank_sweep,
    "rank_selection": tables.rank_selection,
    "stored": tables.stored,
    "strengths": strengths.strengths,
    "surgical": tables.surgical,
    "mario": tables.mario,
}
NAMES = (OVERVIEW, *TABLES)
FIGURE_FOLDER = "figures"
FORMATS = (".png", ".svg")
SELECTIONS = "rank_selection_rows.csv"


def make_tables(
    groups: Sequence[Group], runs: Sequence[Run], title: str, names: Sequence[str] = NAMES
) -> tuple[list[Table], list[str]]:
    """The tables of these names that the runs have something for, and a sentence on each other one."""
    made, skipped = [], []
    for name in names:
        try:
            made.append(_overview(runs, title) if name == OVERVIEW else TABLES[name](groups))
        except NothingToShowError as reason:
            skipped.append(f"table {name} is not made: {reason}")
    return made, skipped


def _overview(runs: Sequence[Run], title: str) -> Table:
    summary = overview.table(runs)
    return Table(OVERVIEW, title, overview.cells(summary), summary, overview.CAPTION, runs, _uncounted(runs))


def _uncounted(runs: Sequence[Run]) -> list[str]:
    return [f"not counted: {run.folder}: {_end(run)}" for run in runs if not run.counts]


def _end(run: Run) -> str:
    """How a run ended that does not count."""
    step, total = run.status_file.get("env_step"), run.status_file.get("total_steps")
    how_far = "" if step is None else f" at step {step} of {total}"
    return f"{run.status}{how_far}{f', {run.error}' if run.error else ''}"


def write_table(table: Table, to: Path, origin: Mapping[str, str | None]) -> list[str]:
    """A table as Markdown, LaTeX and CSV; returns the files' names."""
    made_with = made_by(table.runs)
    lines = [f"# {markup.escaped(table.title)}", "", markup.markdown(table.cells), markup.escaped(table.caption), ""]
    lines += ["Missing:", "", *(f"* {markup.escaped(note)}" for note in table.notes), ""] * bool(table.notes)
    lines += ["Runs:", "", *(f"* {count}: {', '.join(map(markup.code, what))}" for what, count in made_with.items()), ""]
    lines += ["This table:", "", *(f"* {key}: {markup.code(value)}" for key, value in origin.items() if value)]
    write_text(to / f"{table.name}.md", "\n".join(lines) + "\n")
    comments = [*table.notes, *(f"{count}: {', '.join(what)}" for what, count in made_with.items())]
    comments += [f"{key}: {value}" for key, value in origin.items() if value]
    write_text(to / f"{table.name}.tex", markup.latex(table.cells, table.caption, table.name, comments))
    columns = {f"{MADE_BY}{key}": value for key, value in origin.items()}
    write_text(to / f"{table.name}.csv", table.frame.assign(**columns).to_csv(index=False))
    return [f"{table.name}{ending}" for ending in (".md", ".tex", ".csv")]


def made_by(runs: Sequence[Run]) -> dict[tuple[str, ...], str]:
    """The command, commit and versions of the runs that count, and how many runs each made."""
    counts: dict[tuple[str, ...], int] = {}
    for run in (run for run in runs if run.counts):
        what = tuple(str(run.result[key]) for key in ("command", "commit", "versions") if run.result[key])
        counts[what] = counts.get(what, 0) + 1
    return {what: f"{count} run{'s' * (count > 1)}" for what, count in counts.items()}


def write_figures(groups: Sequence[Group], to: Path, origin: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
    """The figures that the runs have something for, as PNG and SVG; returns their names, and a sentence on each other one."""
    made, skipped = [], []
    to.mkdir(parents=True, exist_ok=True)
    for name, entry in FIGURES.items():
        with optional(f"figure {name}"):
            try:
                drawn = entry.draw(groups)
            except NothingToShowError as reason:
                skipped.append(f"figure {name} is not made: {reason}")
                continue
            for ending in FORMATS:
                style.save(drawn, to / f"{name}{ending}", style.origin(origin))
            made.append(name)
    return made, skipped


def content(
    title: str,
    tables: Sequence[Table],
    figures: Sequence[str],
    to: Path,
    origin: Mapping[str, str | None],
    skipped: Sequence[str],
) -> Content:
    """All of a report. ``figures`` are names of those that were written below ``to``."""
    drawn = [
        Drawing(name, FIGURES[name].title, FIGURES[name].caption, (to / FIGURE_FOLDER / f"{name}.svg").read_text("utf-8"))
        for name in figures
    ]
    made_with = [f"{key}: {value}" for key, value in origin.items() if value]
    runs = {id(run): run for table in tables for run in table.runs}
    made_with += [f"{count}: {', '.join(what)}" for what, count in made_by([*runs.values()]).items()]
    return Content(title, tables, drawn, made_with, skipped)


def write_exports(groups: Sequence[Group], to: Path) -> list[str]:
    """The files for other programs; returns their names."""
    write_text(to / "long.csv", exports.long(groups).to_csv(index=False))
    write_text(to / "marl_eval.json", json.dumps(exports.marl_eval(groups), indent=1, allow_nan=False) + "\n")
    return ["long.csv", "marl_eval.json", *write_selections(groups, to)]


def write_selections(groups: Sequence[Group], to: Path) -> list[str]:
    """The rows of layer_ranks.csv of all runs as one file, where there are any; returns its name."""
    rows = exports.rank_selection(groups)
    if rows.empty:
        return []
    write_text(to / SELECTIONS, rows.to_csv(index=False))
    return [SELECTIONS]
