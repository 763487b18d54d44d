"""How long runs took."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from sparserl.report.figures.style import PANEL, finish, literal
from sparserl.report.figures.tasks import legend, looks_of
from sparserl.report.groups import Group, by_task
from sparserl.report.table import NothingToShowError


def wall_time(groups: Sequence[Group]) -> Figure:
    """Hours from the start of a run to its result: every run, and the mean of each group."""
    kept = [group for group in groups if len(group.scores("wall_seconds"))]
    if not kept:
        raise NothingToShowError("no run says how long it took")
    tasks = by_task(kept)
    heights = [0.9 + 0.22 * len(here) for here in tasks.values()]
    figure = Figure(figsize=(PANEL[0] * 2, sum(heights) + 0.6), layout="constrained")
    looks = looks_of(kept)
    panels = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (task, here) in zip(panels, tasks.items(), strict=True):
        for place, group in enumerate(here):
            hours = group.scores("wall_seconds") / 3600
            axes.barh([place], [hours.mean()], color=looks[group]["color"], alpha=0.5)
            axes.plot(hours, [place] * len(hours), linestyle="", marker="|", color="black", markersize=6)
        axes.set_yticks(range(len(here)), [legend(group) for group in here])
        axes.invert_yaxis()
        title = literal(f"{task[0]}, {task[1]}")
        finish(axes, title, "hours; runs that trained in one loop have the time of the loop", "", legend=False)
    return figure
