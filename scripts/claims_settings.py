"""Settings of the tables in results/, each known as one in however many tables it stands, and when a claim holds for one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sparserl.report import sources
from sparserl.report.groups import Group, grouped, reference
from sparserl.report.statistics import Estimate, Scores, estimate, pooled_mean
from sparserl.runs import reader
from sparserl.runs.reader import Run

RESULTS = Path("results")
FIRST = "table_main", "sparsity", "surgical", "table_ranks", "table_continuous", "table_algorithms", "table_controls"
"""The tables that come before the others, which go by name: those of most seeds."""

HELD, DID_NOT_HOLD, NOT_DECIDED = VERDICTS = "held", "did not hold", "not decided"

ROUNDING = 1e-9
"""Means of equal numbers differ by less."""

# ---------------------------------------------------------------- settings


@dataclass(frozen=True)
class Setting:
    """A group of runs in one table."""

    folder: Path
    """Of the table."""
    group: Group
    groups: Sequence[Group]
    """All of the table."""
    number: int
    """The same in every table that has the setting."""

    @property
    def form(self) -> str:
        return str(self.group.settings["regularizer"])

    @property
    def has_gates(self) -> bool:
        return self.form.startswith("l0")

    @cached_property
    def dense(self) -> list[Run]:
        """The dense runs of the same table that a sparse setting is compared with; none of a dense setting."""
        return [] if self.group.is_dense else reference(self.group, self.groups)

    def named(self) -> dict[str, str]:
        """The cells that its rows begin with."""
        environment, algorithm = self.group.task
        form = self.group.label if self.group.label != algorithm else self.group.form
        cells = {"table": self.folder.name, "environment": environment, "algorithm": algorithm, "form": form}
        return cells | {"seeds": self.group.how_many}


def tables_of_today() -> list[Path]:
    """The folders of results/ that have a table of rows, those of ``FIRST`` before the others.

    Tables of benches are among them: they have no runs, and so no settings. Those in results/earlier/ and results/searches/
    are not.
    """
    folders = [path.parent for path in RESULTS.glob(f"*/{sources.ROWS}")]
    return sorted(folders, key=lambda folder: (FIRST.index(folder.name) if folder.name in FIRST else len(FIRST), folder.name))


def read(folders: Iterable[Path]) -> list[Setting]:
    """The settings of each table; a setting stands once for each table that has it.

    A table is read by itself, since its dense policies are those of its own settings. Settings that share a run are the same:
    the name of a run's folder has a digest of its whole config, with its seed.
    """
    found: list[Setting] = []
    numbers: dict[str, int] = {}
    for folder in folders:
        groups = groups_in(folder)
        for group in groups:
            names = [run.folder.name for run in group.done if run.folder.name]
            number = min((numbers[name] for name in names if name in numbers), default=len(found))
            numbers |= dict.fromkeys(names, number)
            found.append(Setting(folder, group, groups, number))
    return found


def groups_in(folder: Path) -> list[Group]:
    """The groups of the table in a folder that have a result."""
    kept, _ = reader.without_repeats(sources.read([folder / sources.ROWS]).runs)
    return [group for group in grouped(kept) if group.done] if kept else []


def once(settings: Iterable[Setting]) -> list[Setting]:
    """Each setting in the first table that has it."""
    found: dict[int, Setting] = {}
    for setting in settings:
        found.setdefault(setting.number, setting)
    return list(found.values())


# ---------------------------------------------------------------- verdicts


def verdict(found: Estimate | None, line: float, *, strict: bool = False) -> str:
    """Whether an interval is at a line or above it, below it, or on both sides; if ``strict``, at the line is not enough."""
    if found is None:
        return f"{NOT_DECIDED}: nothing to compare"
    if found.low is None or found.high is None:
        return f"{NOT_DECIDED}: too few runs"
    line += ROUNDING if strict else -ROUNDING
    return HELD if found.low >= line else DID_NOT_HOLD if found.high < line else NOT_DECIDED


def difference(first: Scores, second: Scores) -> Estimate | None:
    """How much higher the mean of the first is; None where one is empty."""
    return estimate([first, second], lambda tasks: pooled_mean(tasks[:1]) - pooled_mean(tasks[1:]))
