"""``python -m sparserl.report FOLDER...``: tables, figures and exports of all runs below some folders.

A ``rows.csv`` of an earlier report may take a folder's place: what needs results only is then made without the runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sparserl.report import writer
from sparserl.report.building import build, folder_of
from sparserl.runs.files import DiskError
from sparserl.terminal import one_sentence


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
        build(arguments.folders, arguments.to or folder_of(arguments.folders), arguments.table)


if __name__ == "__main__":
    main()
