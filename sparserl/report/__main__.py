"""``python -m sparserl.report FOLDER...``: one table of all runs below some folders, and a figure that compares them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.table import Table

from sparserl.report import figures, tables
from sparserl.runs import provenance, reader
from sparserl.runs.files import DiskError, replace
from sparserl.terminal import print_table


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser("sparserl-report", description="One table of all runs below some folders, and a figure.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run's folder, or one with runs below it")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where the files go; by default the first folder")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        if not folder.is_dir():
            _say(f"{folder} is not a folder")
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
        _say(sentence)
    uncounted = [f"{run.folder}: {_end(run)}" for run in kept if not run.counts]
    summary = tables.table(kept)
    shown = tables.cells(summary)
    title = f"{_common(kept)}{len(found)} run{'s' * (len(found) > 1)}"
    origin = {
        "command": provenance.command(),
        "commit": provenance.commit(),
        "versions": provenance.versions(*figures.PACKAGES),
    }

    table = Table(*shown[0], title=title)
    for row in shown:
        table.add_row(*row.values())
    print_table(table)
    print("\n".join([tables.CAPTION, *uncounted]))

    to.mkdir(parents=True, exist_ok=True)
    made_by = {f"report_{key}": value for key, value in origin.items()}
    _write(to / "rows.csv", tables.rows(found, kept).assign(**made_by).to_csv(index=False))
    _write(to / "table.csv", summary.assign(**made_by).to_csv(index=False))
    lines = [f"# {title}", "", tables.markdown(shown), tables.CAPTION, ""]
    lines += ["Not counted:", "", *(f"* {line}" for line in uncounted), ""] * bool(uncounted)
    lines += [f"* {key}: `{value}`" for key, value in origin.items()]
    _write(to / "table.md", "\n".join(lines) + "\n")
    written = ["rows.csv", "table.csv", "table.md"]
    if any(run.counts for run in kept):
        written.append(figures.compare(folders, to / "comparison.png").name)
    print(f"{', '.join(written)}: {to}")


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


def _write(path: Path, text: str) -> None:
    replace(path, lambda file: file.write(text.encode()))


def _say(sentence: str) -> None:
    print(f"sparserl: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
