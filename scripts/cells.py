"""Experiments that are trained cell by cell, and whose rows are kept as soon as a cell is finished."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """The jobs of one multirun: ``regularizers`` with commas between them, seeds from ``first_seed`` on."""

    algorithm: str
    environment: str
    regularizers: str
    seeds: int
    overrides: tuple[str, ...] = ()
    first_seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.algorithm}-{self.environment}-{self.regularizers}"

    def command(self, sweep: str) -> list[str]:
        """What a user would type after ``python``."""
        chosen = f"algorithm={self.algorithm}", f"environment={self.environment}", f"regularizer={self.regularizers}"
        seeds = f"seed=range({self.first_seed},{self.first_seed + self.seeds})"
        return ["-m", "sparserl.train", "-m", *chosen, seeds, f"sweep_name={sweep}", "logger=disk", *self.overrides]


def reproduce(sweep: str, cells: Sequence[Cell], description: str) -> None:
    """Train the cells that the command line chooses in outputs/<sweep>; tables and a figure go to results/<sweep>.

    Started again, it goes on where it was.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", metavar="TEXT", help="the cells whose name contains it")
    parser.add_argument("--list", action="store_true", help="print the names of all cells")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="more overrides, such as trainer=smoke")
    arguments = parser.parse_args()
    for cell in (cell for cell in cells if arguments.only in cell.name):
        command = [*cell.command(sweep), *arguments.overrides]
        if arguments.list:
            sys.stdout.write(f"{cell.name}: python {' '.join(command)}\n")
            continue
        # a member that fails is a row of the table; the other cells are trained all the same
        subprocess.run([sys.executable, *command], check=False)
        report = "-m", "sparserl.report", str(Path("outputs") / sweep), "--to", str(Path("results") / sweep)
        subprocess.run([sys.executable, *report], check=True)
