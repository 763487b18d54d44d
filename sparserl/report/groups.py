"""Runs that differ in nothing but their seed, what they are called, and the dense ones that they are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sparserl.report.overview import listed
from sparserl.report.settings import short
from sparserl.report.statistics import Scores
from sparserl.runs import reader
from sparserl.runs.reader import NAMED, Row, Run

DENSE = "none"
"""The regulariser whose runs the others are compared with."""


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one setting, at least one."""

    columns: tuple[str, ...]
    """The settings that tell this group from the others of the report."""
    runs: list[Run]
    place: int
    """Of its form among those of the report, from 0: its colour and marker."""
    strength: int
    """Of this group among those of the same form and task, from 0: its line."""
    usual_network: str
    """That of most groups of the report, which its names leave out."""

    @property
    def settings(self) -> Row:
        return self.runs[0].settings

    @property
    def task(self) -> tuple[str, str]:
        """The environment and the algorithm."""
        return str(self.settings["environment"]), str(self.settings["algorithm"])

    @property
    def form(self) -> str:
        """What its policies were made small with: the regulariser, or the network where that is not the usual one, or both."""
        return ", ".join(str(self.settings[column]) for column in ("network", "regularizer") if self._is_told(column))

    @property
    def is_dense(self) -> bool:
        """Whether its policies were made small with nothing, or with a small network only."""
        return bool(self.settings["regularizer"] == DENSE)

    @property
    def label(self) -> str:
        """What tells it from the others of its task, in the fewest words."""
        rest = [column for column in self.columns if column not in ("environment", "algorithm") and self._is_told(column)]
        values = [self.settings.get(column) for column in rest]
        return name_of(rest, values, self.runs) if any(value is not None for value in values) else self.form

    def _is_told(self, column: str) -> bool:
        """Whether names say the value of this setting."""
        is_usual = str(self.settings["network"]) == self.usual_network
        return not is_usual if column == "network" else column != "regularizer" or is_usual or not self.is_dense

    @cached_property
    def done(self) -> list[Run]:
        return [run for run in self.runs if run.counts]

    @property
    def seeds(self) -> set[int]:
        return {run.seed for run in self.done if run.seed is not None}

    @property
    def how_many(self) -> str:
        """``5: 0-4 (1 failed, 2 unfinished)``: how many runs count, their seeds, and how many do not."""
        failed = sum(run.status == "failed" and not run.counts for run in self.runs)
        others = {"failed": failed, "unfinished": len(self.runs) - len(self.done) - failed}
        told = ", ".join(f"{count} {what}" for what, count in others.items() if count)
        seeds = f": {listed(sorted(self.seeds))}" if self.seeds else ""
        return f"{len(self.done)}{seeds}{f' ({told})' if told else ''}"

    def scores(self, field: str) -> Scores:
        """A field of the results, of the runs that have it."""
        known = [run.result[field] for run in self.done if run.result[field] is not None]
        return np.array(known, float)

    def mean(self, field: str) -> float | None:
        """Of the runs that have it; None where none has."""
        return float(scores.mean()) if len(scores := self.scores(field)) else None


def grouped(runs: Sequence[Run]) -> list[Group]:
    """All groups by environment and algorithm, the dense ones first."""
    columns = tuple(reader.distinguishing(runs))
    kinds = [*reader.groups(runs).values()]
    usual = Counter(str(members[0].settings["network"]) for members in kinds).most_common(1)[0][0]
    found = [Group(columns, members, 0, 0, usual) for members in kinds]
    found.sort(key=lambda group: (*group.task, not group.is_dense, group.form))  # by everything else they are sorted already
    forms = list(dict.fromkeys(group.form for group in sorted(found, key=lambda group: (not group.is_dense, group.form))))
    seen: Counter[tuple[str, ...]] = Counter()
    placed = []
    for group in found:
        same = (*group.task, group.form)
        placed.append(replace(group, place=forms.index(group.form), strength=seen[same]))
        seen[same] += 1
    return placed


def by_task(groups: Sequence[Group]) -> dict[tuple[str, str], list[Group]]:
    """The groups by environment and algorithm."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        found.setdefault(group.task, []).append(group)
    return found


def reference(group: Group, groups: Sequence[Group]) -> list[Run]:
    """The dense runs of the same algorithm and environment, which ``group`` is compared with; perhaps none.

    Of several kinds those with the most weights, since small dense networks are a control; of these, those that agree with the
    group in the most other settings.
    """
    dense = [other for other in groups if other.task == group.task and other.is_dense and other.done]
    most = max((other.mean("policy_weights") or 0.0 for other in dense), default=0.0)
    whole = [other for other in dense if (other.mean("policy_weights") or 0.0) == most]
    others = [column for column in group.columns if column not in NAMED]

    def agreement(other: Group) -> int:
        return sum(other.settings.get(column) == group.settings.get(column) for column in others)

    best = max(map(agreement, whole), default=0)
    return [run for other in whole if agreement(other) == best for run in other.done]


def is_reference(group: Group, groups: Sequence[Group]) -> bool:
    """Whether a group is what others of its task are compared with."""
    return group.is_dense and {id(run) for run in group.done} == {id(run) for run in reference(group, groups)}


def name_of(columns: Sequence[str], values: Sequence[Any], runs: Sequence[Run]) -> str:
    """What tells a group from the others, in the fewest words: the names of options speak for themselves."""
    words = [
        value if column in NAMED and isinstance(value, str) else f"{short(column)} {_short(value)}"
        for column, value in zip(columns, values, strict=True)
        if value is not None
    ]
    return ", ".join(words) or f"{runs[0].settings['algorithm']}, {runs[0].settings['regularizer']}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
