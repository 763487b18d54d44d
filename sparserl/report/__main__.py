"""``python -m sparserl.report FOLDER...``: one table of all runs below some folders, and a figure that compares them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparserl.report import figures, tables
from sparserl.runs import provenance, reader
from sparserl.runs.files import DiskError, write_text
from sparserl.terminal import optional, print_line, print_table, say


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser("sparserl-report", description="One table of all runs below some folders, and a figure.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run's folder, or one with runs below it")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where the files go; by default the first folder")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        if not folder.is_dir():
            say(f"sparserl: {folder} is not a folder")
    found = reader.find(arguments.folders)
    if not found:
        sys.exit(f"sparserl: there is no run in {', '.join(map(str, arguments.folders))}")
    try:
        _report(found, arguments.folders, arguments.to or arguments.folders[0])
    except DiskError as error:
        sys.exit(f"sparserl: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"sparserl: {error.filename} cannot be used: {error.strerror}")


def _report(found: list[reader.Run], folders: list[Path], to: Path) -> None:
    kept, repeats = reader.without_repeats(found)
    for sentence in (*(problem for run in found for problem in run.problems), *repeats):
        say(f"sparserl: {sentence}")
    uncounted = [f"{run.folder}: {_end(run)}" for run in kept if not run.counts]
    summary = tables.table(kept)
    shown = tables.cells(summary)
    title = f"{_common(kept)}{len(found)} run{'s' * (len(found) > 1)}"
    origin = {
        "command": provenance.command(),
        "commit": provenance.commit(),
        "versions": provenance.versions(*figures.PACKAGES),
    }

    print_table([*shown[0]], [[*row.values()] for row in shown], title)
    for line in (tables.CAPTION, *uncounted):
        print_line(line)

    to.mkdir(parents=True, exist_ok=True)
    made_by = {f"report_{key}": value for key, value in origin.items()}
    write_text(to / "rows.csv", tables.rows(found, kept).assign(**made_by).to_csv(index=False))
    write_text(to / "table.csv", summary.assign(**made_by).to_csv(index=False))
    lines = [f"# {tables.escaped(title)}", "", tables.markdown(shown), tables.CAPTION, ""]
    lines += ["Not counted:", "", *(f"* {tables.escaped(line)}" for line in uncounted), ""] * bool(uncounted)
    lines += [f"* {key}: {tables.code(value)}" for key, value in origin.items() if value]
    write_text(to / "table.md", "\n".join(lines) + "\n")
    written = ["rows.csv", "table.csv", "table.md"]
    if any(run.counts for run in kept):
        with optional("comparison.png"):
            written.append(figures.compare(folders, to / "comparison.png").name)
    print_line(f"{', '.join(written)}: {to}")


def _common(kept: list[reader.Run]) -> str:
    """The names that all runs share."""
    names = [{str(run.settings[key]) for run in kept} for key in ("algorithm", "environment", "regularizer")]
    shared = ", ".join(next(iter(values)) for values in names if len(values) == 1)
    return f"{shared}: " if shared else ""


def _end(run: reader.Run) -> str:
    """How a run ended that does not count."""
    step, total = run.status_file.get("env_step"), run.status_file.get("total_steps")
    how_far = "" if step is None else f" at step {step} of {total}"
    return f"{run.status}{how_far}{f', {run.error}' if run.error else ''}"


if __name__ == "__main__":
    main()
