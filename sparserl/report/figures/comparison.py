"""Runs beside each other at a glance: a row of panels for each environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparserl.report.figures.style import GREY, PANEL, by_step, finish, literal, styles, weights_left
from sparserl.report.groups import name_of
from sparserl.runs.reader import Run, distinguishing, groups

Panel: TypeAlias = Callable[[Axes, dict[str, list[Run]]], None]
"""Draws the runs of one environment, by the name of their group."""

LEGEND_COLUMNS = 3


def of_many(runs: Sequence[Run]) -> Figure:
    """A row of panels for each environment: learning curves, return by rank, return by weights left.

    Raises ValueError where there are no runs.
    """
    if not runs:
        raise ValueError("no run has finished, so there is nothing to compare")
    rows: dict[str, dict[str, list[Run]]] = {}
    for environment in sorted({str(run.settings["environment"]) for run in runs}):
        here = [run for run in runs if run.settings["environment"] == environment]
        columns = distinguishing(here)
        rows[environment] = {literal(name_of(columns, values, here)): members for values, members in groups(here).items()}
    panels = {environment: _panels(named) for environment, named in rows.items()}
    heights = [PANEL[1] + 0.2 * -(-len(named) // LEGEND_COLUMNS) for named in rows.values()]
    width = PANEL[0] * max(2, *map(len, panels.values()))
    figure = Figure(figsize=(width, sum(heights) + 1.0), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (environment, named) in zip(parts, rows.items(), strict=True):
        for place, panel in enumerate(panels[environment], start=1):
            panel(part.add_subplot(1, len(panels[environment]), place), named)
        part.suptitle(literal(environment), fontsize=12, fontweight="bold")
        handles, labels = part.axes[0].get_legend_handles_labels()
        part.legend(handles, labels, loc="outside lower center", ncols=LEGEND_COLUMNS, frameon=False, fontsize=8)
    return figure


def _panels(named: Mapping[str, Sequence[Run]]) -> list[Panel]:
    """Those that the runs of an environment have something for."""
    runs = [run for members in named.values() for run in members]
    panels: list[Panel] = []
    panels += [compare_learning] * any(run.metrics for run in runs)
    return panels + [compare_rank] * any(run.swept for run in runs) + [compare_weights]


def compare_learning(axes: Axes, named: dict[str, list[Run]]) -> None:
    """Evaluated returns by environment step: the mean over seeds, from the lowest to the highest."""
    for (label, runs), style in zip(named.items(), styles(), strict=False):
        curves = [dict(zip(*run.curve("eval/return_mean"), strict=True)) for run in runs]
        _mean_and_band(axes, curves, f"{label} (seeds: {len(runs)})", style)
    by_step(axes, "Evaluation: mean, lowest and highest seed", "return", legend=False)


def compare_rank(axes: Axes, named: dict[str, list[Run]]) -> None:
    """Return by rank: the mean over seeds, from the lowest to the highest, and the mean at full rank."""
    for (label, runs), style in zip(named.items(), styles(), strict=False):
        swept = [{row["rank"]: row["return_mean"] for row in run.lowrank} for run in runs if run.swept]
        full = [returns.pop(math.inf) for returns in swept if math.inf in returns]
        _mean_and_band(axes, swept, label, style)
        if full:
            axes.axhline(fmean(full), color=style["color"], linestyle=(0, (1, 3)), linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    finish(axes, "Return by rank (dotted: full rank)", "rank, for all layers", "return", legend=False)


def compare_weights(axes: Axes, named: dict[str, list[Run]]) -> None:
    """Return by weights left: every run, the mean of each group, and the best mean that so many weights or fewer reach."""
    means = []
    for (label, runs), style in zip(named.items(), styles(), strict=False):
        known = [run.result for run in runs if run.result["return_mean"] is not None]
        if not known:
            continue
        left = [1 - row["sparsity"] for row in known]
        returns = [row["return_mean"] for row in known]
        look = style | {"linestyle": ""}
        axes.plot(left, returns, **look, markersize=4, alpha=0.5)
        axes.plot([fmean(left)], [fmean(returns)], **look, markersize=9, markeredgecolor="black", label=label)
        means.append((fmean(left), fmean(returns)))
    front: list[tuple[float, float]] = []
    for left_, return_ in sorted(means, key=lambda mean: (mean[0], -mean[1])):
        if not front or return_ > front[-1][1]:
            front.append((left_, return_))
    if front:
        axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1, zorder=0)
    weights_left(axes)
    finish(axes, "Return by size: runs, means (large), best (line)", "share of policy weights left", "return", legend=False)


def _mean_and_band(axes: Axes, curves: Sequence[dict[Any, float]], label: str, style: dict[str, Any]) -> None:
    """Over what all curves have."""
    x = sorted(set.intersection(*map(set, curves))) if curves else []
    at = [[curve[value] for curve in curves] for value in x]
    if len(curves) > 1:
        axes.fill_between(x, list(map(min, at)), list(map(max, at)), color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, list(map(fmean, at)), label=label, markersize=3, **style)
