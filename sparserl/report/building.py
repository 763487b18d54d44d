"""From folders of runs to the files of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparserl.report import details, sources, writer
from sparserl.report.groups import grouped
from sparserl.report.page import Content, page
from sparserl.report.rows import rows
from sparserl.runs import provenance, reader
from sparserl.runs.files import write_text
from sparserl.terminal import leave, print_line, print_table, say

PACKAGES = "matplotlib", "pandas", "scipy"
"""What else decides how a report looks and what its intervals are."""

PAGE = "report.html"


def build(folders: Sequence[Path], to: Path, only: str | None = None) -> Content:
    """Write the report of all runs below some folders to ``to``, or ``only`` one table, and return what it shows.

    Exits with one sentence where there is nothing to show. Raises DiskError.
    """
    found = sources.read(folders)
    for problem in found.problems:
        say(f"sparserl: {problem}")
    if not found.runs:
        leave(f"there is no run in {', '.join(map(str, folders))}")
    runs = found.runs
    kept, repeats = reader.without_repeats(runs)
    for sentence in (*(problem for run in runs for problem in run.problems), *repeats):
        say(f"sparserl: {sentence}")
    groups = grouped(kept)
    title = f"{_common(kept)}{len(runs)} run{'s' * (len(runs) > 1)}"
    origin = {
        "command": provenance.command(),
        "commit": provenance.commit(),
        "versions": provenance.versions(*PACKAGES),
    }
    tables, skipped = writer.make_tables(groups, kept, title, (only,) if only else writer.NAMES)
    if not tables:
        leave(skipped[0])
    for table in tables[:1]:
        print_table([*table.cells[0]], [[*row.values()] for row in table.cells], table.title)
        for line in (table.caption, *table.notes):
            print_line(line)

    to.mkdir(parents=True, exist_ok=True)
    written = [name for table in tables for name in writer.write_table(table, to, origin)]
    figures: list[str] = []
    if only is None:
        if not any(path.resolve() == (to / sources.ROWS).resolve() for path in found.tables):  # what it says of its runs stays
            made_by = {f"report_{key}": value for key, value in origin.items()}
            write_text(to / sources.ROWS, rows(runs, kept).assign(**made_by).to_csv(index=False))
            written = [sources.ROWS, *details.write(runs, to / sources.ROWS), *written]
        written += writer.write_exports(groups, to)
        figures, not_drawn = writer.write_figures(groups, to / writer.FIGURE_FOLDER, origin)
        skipped += not_drawn
        written += [f"{writer.FIGURE_FOLDER}/{name}{ending}" for name in figures for ending in writer.FORMATS]
    content = writer.content(title, tables, figures, to, origin, skipped)
    if only is not None:
        print_line(f"{', '.join(written)}: {to}")
        return content
    write_text(to / PAGE, page(content))
    not_made = f", and why others are not made: {len(skipped)}" if skipped else ""
    print_line(f"{len(written)} files in {to}; {to / PAGE} shows tables and figures{not_made}")
    return content


def folder_of(folders: Sequence[Path]) -> Path:
    """Where a report goes if nothing else is said: the first folder, or that of the first rows.csv."""
    return folders[0] if folders[0].is_dir() else folders[0].parent


def _common(kept: list[reader.Run]) -> str:
    """The names that all runs share."""
    names = [{str(run.settings[key]) for run in kept} for key in ("algorithm", "environment", "regularizer")]
    shared = ", ".join(next(iter(values)) for values in names if len(values) == 1)
    return f"{shared}: " if shared else ""
