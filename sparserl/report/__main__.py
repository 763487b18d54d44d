"""``python -m sparserl.report FOLDER...``: tables, figures and exports of all runs below some folders.

A ``rows.csv`` of an earlier report may take a folder's place: what needs results only is then made without the runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparserl.report import sources, writer
from sparserl.report.groups import grouped
from sparserl.report.rows import rows
from sparserl.runs import provenance, reader
from sparserl.runs.files import DiskError, write_text
from sparserl.terminal import one_sentence, print_line, print_table, say

PACKAGES = "matplotlib", "pandas", "scipy"
"""What else decides how a report looks and what its intervals are."""


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser("sparserl-report", description="Tables and figures of all runs below some folders.")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="a run's folder, one with runs below it, or a rows.csv"
    )
    parser.add_argument("--table", choices=writer.NAMES, metavar="NAME", help=f"one table only: {', '.join(writer.NAMES)}")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where the files go; by default the first folder")
    arguments = parser.parse_args()
    with one_sentence(DiskError):
        found = sources.read(arguments.folders)
        for problem in found.problems:
            say(f"sparserl: {problem}")
        if not found.runs:
            sys.exit(f"sparserl: there is no run in {', '.join(map(str, arguments.folders))}")
        first = arguments.folders[0]
        _report(found, arguments.to or (first if first.is_dir() else first.parent), arguments.table)


def _report(found: sources.Found, to: Path, only: str | None) -> None:
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
        sys.exit(f"sparserl: {skipped[0]}")
    for table in tables[:1]:
        print_table([*table.cells[0]], [[*row.values()] for row in table.cells], table.title)
        for line in (table.caption, *table.notes):
            print_line(line)
    for line in skipped:
        print_line(line)

    to.mkdir(parents=True, exist_ok=True)
    written = [name for table in tables for name in writer.write_table(table, to, origin)]
    if only is None:
        if not any(path.resolve() == (to / sources.ROWS).resolve() for path in found.tables):  # what it says of its runs stays
            made_by = {f"report_{key}": value for key, value in origin.items()}
            write_text(to / sources.ROWS, rows(runs, kept).assign(**made_by).to_csv(index=False))
            written.insert(0, sources.ROWS)
        written += writer.write_exports(groups, to)
        figures, not_drawn = writer.write_figures(groups, to / writer.FIGURE_FOLDER, origin)
        for line in not_drawn:
            print_line(line)
        written += [f"{writer.FIGURE_FOLDER}/{name}{ending}" for name in figures for ending in writer.FORMATS]
        written.append(writer.write_page(title, tables, figures, to, origin, [*skipped, *not_drawn]))
    print_line(f"{', '.join(written)}: {to}")


def _common(kept: list[reader.Run]) -> str:
    """The names that all runs share."""
    names = [{str(run.settings[key]) for run in kept} for key in ("algorithm", "environment", "regularizer")]
    shared = ", ".join(next(iter(values)) for values in names if len(values) == 1)
    return f"{shared}: " if shared else ""


if __name__ == "__main__":
    main()
