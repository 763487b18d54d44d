"""What a policy returns for its size: by sparsity, by the numbers it stores, by rank and by compression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from sparserl.report.figures.style import GREY, finish, logarithmic, weights_left
from sparserl.report.figures.tasks import per_task
from sparserl.report.groups import Group, reference
from sparserl.report.statistics import estimate, iqm
from sparserl.report.table import NothingToShowError
from sparserl.report.tables import FORMS, forms_of
from sparserl.runs.reader import Run

Point = tuple[float, float]


def sparsity(groups: Sequence[Group]) -> Figure:
    """Return by the share of zeros, and by the share of weights left on a logarithmic axis."""
    kept = [group for group in groups if len(group.scores("return_mean"))]
    if not kept:
        raise NothingToShowError("no run has a return")
    return per_task(kept, partial(_by_zeros, groups=groups), partial(_by_weights, groups=groups), share_y=True)


def stored(groups: Sequence[Group]) -> Figure:
    """Return by the numbers stored, for each way to store a policy."""
    kept = [group for group in groups if any(forms_of(run) for run in group.done)]
    if not kept:
        raise NothingToShowError("no run says how many numbers its policy stores")
    forms = [form for form in FORMS if any(form in forms_of(run) for group in kept for run in group.done)]
    return per_task(kept, *(partial(_by_numbers, groups=groups, form=form) for form in forms), share_y=True)


def ranks(groups: Sequence[Group]) -> Figure:
    """Return by rank, and by the share of numbers that factors save."""
    kept = [group for group in groups if any(run.swept for run in group.done)]
    if not kept:
        raise NothingToShowError("it needs lowrank.csv, which only folders of runs have, and none of these has one with a rank")
    return per_task(kept, _by_rank, _by_compression, share_y=True)


def _by_zeros(axes: Axes, here: Sequence[Group], looks: Mapping[Group, dict[str, Any]], groups: Sequence[Group]) -> None:
    for number, group in enumerate(here, start=1):
        _points(axes, [_of(run, run.result["sparsity"]) for run in group.done], looks[group], number)
    _dense_line(axes, here, groups)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    finish(axes, "Return by sparsity: runs, and IQM of groups", "zeros among policy weights", "return", legend=False)


def _by_weights(axes: Axes, here: Sequence[Group], looks: Mapping[Group, dict[str, Any]], groups: Sequence[Group]) -> None:
    for number, group in enumerate(here, start=1):
        _points(axes, [_of(run, 1 - run.result["sparsity"]) for run in group.done], looks[group], number)
    _dense_line(axes, here, groups)
    weights_left(axes)
    finish(axes, "The same by weights left", "share of policy weights that are not zero", "return", legend=False)


def _of(run: Run, x: float) -> Point | None:
    score = run.result["return_mean"]
    return None if score is None else (x, score)


def _by_numbers(
    axes: Axes, here: Sequence[Group], looks: Mapping[Group, dict[str, Any]], groups: Sequence[Group], form: str
) -> None:
    if not any(form in forms_of(run) for group in here for run in group.done):
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"{form}: not known", ha="center", color=GREY, transform=axes.transAxes)
        return
    for number, group in enumerate(here, start=1):
        _points(axes, [forms_of(run).get(form) for run in group.done], looks[group], number)
    _dense_line(axes, here, groups)
    logarithmic(axes, smallest=1.0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    finish(axes, form.capitalize(), "numbers stored (4 bytes each)", "return", legend=False)


def _points(axes: Axes, points: Sequence[Point | None], look: dict[str, Any], number: int) -> None:
    """Every run faintly, and in their middle the group by its number in the legend: the IQM with its interval."""
    known = [point for point in points if point is not None]
    if not known:
        return
    x, y = map(np.array, zip(*known, strict=True))
    axes.plot(x, y, color=look["color"], marker=look["marker"], linestyle="", markersize=3, alpha=0.3)
    middle = estimate([y])
    if middle is not None:
        low, high = (middle.value if end is None else end for end in (middle.low, middle.high))
        bars = [[max(0.0, middle.value - low)], [max(0.0, high - middle.value)]]
        style = look | {"linestyle": "", "markersize": 10, "fillstyle": "full", "zorder": 3}
        axes.errorbar([iqm(x)], [middle.value], yerr=bars, capsize=2, **style)
        edge = [withStroke(linewidth=1.5, foreground="black")]
        style = {"ha": "center", "va": "center", "zorder": 4, "color": "white", "fontsize": 6, "fontweight": "bold"}
        axes.text(float(iqm(x)), middle.value, str(number), path_effects=edge, **style)


def _dense_line(axes: Axes, here: Sequence[Group], groups: Sequence[Group]) -> None:
    dense = [run.result["return_mean"] for run in reference(here[0], groups) if run.result["return_mean"] is not None]
    if dense:
        axes.axhline(float(iqm(dense)), color=GREY, linestyle="--", linewidth=1)


def _by_rank(axes: Axes, here: Sequence[Group], looks: Mapping[Group, dict[str, Any]]) -> None:
    _swept(axes, here, looks, "rank")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    finish(axes, "Return by rank: IQM (dotted: full rank)", "rank, for all layers", "return", legend=False)


def _by_compression(axes: Axes, here: Sequence[Group], looks: Mapping[Group, dict[str, Any]]) -> None:
    _swept(axes, here, looks, "compression")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    finish(axes, "The same by compression", "compression: 1 - stored / dense numbers", "return", legend=False)


def _swept(axes: Axes, here: Sequence[Group], looks: Mapping[Group, dict[str, Any]], column: str) -> None:
    for group in here:
        rows = [row for run in group.done for row in run.lowrank if math.isfinite(row["return_mean"])]
        at = {rank: [row for row in rows if row["rank"] == rank] for rank in sorted({row["rank"] for row in rows})}
        full = at.pop(math.inf, [])
        estimates = {rank: estimate([[row["return_mean"] for row in found]]) for rank, found in at.items()}
        known = {rank: value for rank, value in estimates.items() if value is not None}
        x = [float(np.mean([row[column] for row in at[rank]])) for rank in known]
        low = [value.value if value.low is None else value.low for value in known.values()]
        high = [value.value if value.high is None else value.high for value in known.values()]
        axes.fill_between(x, low, high, color=looks[group]["color"], alpha=0.12, linewidth=0)
        axes.plot(x, [value.value for value in known.values()], **looks[group] | {"markevery": max(1, len(x) // 8)})
        if full:
            axes.axhline(float(iqm([row["return_mean"] for row in full])), color=looks[group]["color"], linestyle=(0, (1, 3)))
