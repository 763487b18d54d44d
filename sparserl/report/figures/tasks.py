"""What the figures of a report have in common: a row of panels for each task, and the looks of the groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparserl.report.figures.style import COLOURS, MARKERS, PANEL, literal
from sparserl.report.groups import Group, by_task

LINES = ("-", "--", ":", "-.")
FILLS = ("full", "left", "none", "top")

Panel: TypeAlias = Callable[[Axes, Sequence[Group], Mapping[Group, dict[str, Any]]], None]
"""Draws the groups of one task, each in its look: what ``axes.plot`` takes."""


def per_task(groups: Sequence[Group], *panels: Panel, share_y: bool = False) -> Figure:
    """A row of ``panels`` for each environment and algorithm, and below it what the looks mean.

    With ``share_y`` the panels of a row have one vertical scale.
    """
    tasks = by_task(groups)
    figure = Figure(figsize=(PANEL[0] * max(2, len(panels)), sum(map(_height, tasks.values())) + 0.6), layout="constrained")
    parts = figure.subfigures(len(tasks), 1, squeeze=False, height_ratios=[*map(_height, tasks.values())])[:, 0]
    looks = looks_of(groups)
    for part, (task, here) in zip(parts, tasks.items(), strict=True):
        for place, panel in enumerate(panels, start=1):
            first = part.axes[0] if share_y and part.axes else None
            panel(part.add_subplot(1, len(panels), place, sharey=first), here, looks)
        part.suptitle(literal(f"{task[0]}, {task[1]}"), fontsize=11, fontweight="bold")
        lines = [part.axes[0].plot([], [], **looks[group])[0] for group in here]
        names = [f"{number}: {legend(group)}" for number, group in enumerate(here, start=1)]
        look: dict[str, Any] = {"ncols": 3, "frameon": False, "fontsize": 7, "handlelength": 3.5}
        part.legend(lines, names, loc="outside lower center", **look)
    return figure


def _height(groups: Sequence[Group]) -> float:
    """Of a row in inches: the panels, and a line of the legend for three groups."""
    return PANEL[1] + 0.4 + 0.17 * -(-len(groups) // 3)


def legend(group: Group) -> str:
    """A group's name, and how many runs it is of."""
    return literal(f"{group.label} (n={len(group.done)})")


def looks_of(groups: Sequence[Group]) -> dict[Group, dict[str, Any]]:
    """A colour and a marker for each form, a line and a filling for each strength of it: the same in all figures."""
    return {
        group: {
            "color": COLOURS[group.place % len(COLOURS)],
            "marker": MARKERS[group.place % len(MARKERS)],
            "linestyle": LINES[group.strength % len(LINES)],
            "fillstyle": FILLS[group.strength % len(FILLS)],
            "markersize": 4,
        }
        for group in groups
    }
