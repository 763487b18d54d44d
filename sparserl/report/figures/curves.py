"""What changes while policies train: return and sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparserl.report import statistics
from sparserl.report.figures.style import by_step, share
from sparserl.report.figures.tasks import per_task
from sparserl.report.groups import Group
from sparserl.report.table import NothingToShowError


def learning(groups: Sequence[Group]) -> Figure:
    """Evaluated returns by environment step."""
    return _figure(groups, "eval/return_mean", "Learning curves: IQM, 95 % band", "return", False)


def sparsity(groups: Sequence[Group]) -> Figure:
    """Exact zeros among the policy weights by environment step."""
    return _figure(groups, "sparsity/exact", "Sparsity in training: IQM, 95 % band", "zeros among policy weights", True)


def _figure(groups: Sequence[Group], key: str, title: str, y: str, is_share: bool) -> Figure:
    kept = [group for group in groups if common(group, key)[0]]
    if not kept:
        raise NothingToShowError("it needs metrics.jsonl, which only folders of runs have, and none of these has one with it")

    def panel(axes: Axes, here: Sequence[Group], looks: Mapping[Group, dict[str, Any]]) -> None:
        for group in here:
            steps, values = common(group, key)
            middle, (low, high) = statistics.curve(values)
            axes.fill_between(steps, low, high, color=looks[group]["color"], alpha=0.1, linewidth=0)
            axes.plot(steps, middle, **looks[group] | {"markevery": max(1, len(steps) // 8)})
        if is_share:
            share(axes)
        by_step(axes, title, y, legend=False)

    return per_task(kept, panel)


def common(group: Group, key: str) -> tuple[list[int], list[list[float]]]:
    """The environment steps at which all runs that have such a curve have a value, and the values of each run."""
    curves = [dict(zip(*curve, strict=True)) for run in group.done if (curve := run.curve(key))[0]]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return steps, [[curve[step] for step in steps] for curve in curves]
