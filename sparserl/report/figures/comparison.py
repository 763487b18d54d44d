"""Runs beside each other at a glance: a row of panels for each environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from sparserl.report.figures.style import GREY, PANEL, by_step, finish, literal, styles
from sparserl.report.groups import name_of
from sparserl.runs.reader import Run, distinguishing, groups


def of_many(runs: Sequence[Run]) -> Figure:
    """A row of panels for each environment: learning curves, return by rank, return by weights left.

    Raises ValueError where there are no runs.
    """
    if not runs:
        raise ValueError("no run has finished, so there is nothing to compare")
    environments = sorted({str(run.settings["environment"]) for run in runs})
    figure = Figure(figsize=(PANEL[0] * 3, PANEL[1] * len(environments) + 1.2), layout="constrained")
    rows = figure.subfigures(len(environments), 1, squeeze=False)[:, 0]
    for row, environment in zip(rows, environments, strict=True):
        here = [run for run in runs if run.settings["environment"] == environment]
        columns = distinguishing(here)
        named = {literal(name_of(columns, values, here)): members for values, members in groups(here).items()}
        panels: list[Callable[[Axes, dict[str, list[Run]]], None]] = []
        panels += [compare_learning] * any(run.metrics for run in here)
        panels += [compare_rank] * any(run.swept for run in here) + [compare_weights]
        for place, panel in enumerate(panels, start=1):
            panel(row.add_subplot(1, len(panels), place), named)
        row.suptitle(literal(environment), fontsize=12, fontweight="bold")
        handles, labels = row.axes[0].get_legend_handles_labels()
        row.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=8)
    return figure


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
        axes.plot(left, returns, "o", color=style["color"], markersize=4, alpha=0.5)
        axes.plot(
            [fmean(left)], [fmean(returns)], "D", color=style["color"], markersize=9, markeredgecolor="black", label=label
        )
        means.append((fmean(left), fmean(returns)))
    front: list[tuple[float, float]] = []
    for left_, return_ in sorted(means):
        if not front or return_ > front[-1][1]:
            front.append((left_, return_))
    if front:
        axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1, zorder=0)
    axes.set_xscale("symlog", linthresh=1e-3)  # an empty policy has a place too
    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1e-3, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    finish(axes, "Return by size: runs, means (diamonds), best means", "share of policy weights left", "return", legend=False)


def _mean_and_band(axes: Axes, curves: Sequence[dict[Any, float]], label: str, style: dict[str, Any]) -> None:
    """Over what all curves have."""
    x = sorted(set.intersection(*map(set, curves))) if curves else []
    at = [[curve[value] for curve in curves] for value in x]
    if len(curves) > 1:
        axes.fill_between(x, list(map(min, at)), list(map(max, at)), color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, list(map(fmean, at)), label=label, marker=".", markersize=4, **style)
