"""Several tasks together: performance profiles and the probability of improvement (Agarwal et al. 2021, arXiv 2108.13264)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from sparserl.report.figures.style import COLOURS, GREY, MARKERS, PANEL, finish, literal
from sparserl.report.figures.tasks import LINES
from sparserl.report.groups import Group, by_task, is_reference, reference
from sparserl.report.statistics import (
    Scores,
    ends,
    estimate,
    performance_profile,
    probability_of_improvement,
    resamples,
)
from sparserl.report.table import NothingToShowError

Task = tuple[str, str]

DENSE = "dense"
"""The name of the method that others are compared with."""

PROFILE_RESAMPLES = 1000


def profiles(groups: Sequence[Group]) -> Figure:
    """The share of runs that gain more than a share of what dense policies gain, over the tasks that methods have in common."""
    scores = methods(groups)
    thresholds = np.linspace(0.0, 1.2, 121)
    figure = Figure(figsize=(PANEL[0] * 1.8, PANEL[1] * 1.5), layout="constrained")
    axes = figure.subplots()
    for index, (name, tasks) in enumerate(scores.items()):
        arrays = [*tasks.values()]
        colour = COLOURS[index % len(COLOURS)]
        low, high = ends(performance_profile(resamples(arrays, PROFILE_RESAMPLES), thresholds))
        axes.fill_between(thresholds, low, high, color=colour, alpha=0.12, linewidth=0)
        line = LINES[index // len(COLOURS) % len(LINES)]
        axes.plot(thresholds, performance_profile(arrays, thresholds), color=colour, linestyle=line, label=literal(name))
    axes.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
    title = f"Performance profiles: {_tasks(scores)} (bands: 95 % bootstrap)"
    finish(axes, title, "gain over a random policy, of the gain of dense policies", "share of runs above")
    axes.set_ylim(-0.02, 1.02)
    return figure


def improvement(groups: Sequence[Group]) -> Figure:
    """How probable it is that a run of a method is better than a dense one of the same task."""
    scores = methods(groups)
    dense = scores.get(DENSE)
    others = {name: tasks for name, tasks in scores.items() if name != DENSE}
    if dense is None or not others:
        raise NothingToShowError("it needs dense runs and others on the same tasks")
    figure = Figure(figsize=(PANEL[0] * 1.6, 1.4 + 0.35 * len(others)), layout="constrained")
    axes = figure.subplots()
    for place, tasks in enumerate(others.values()):
        found = estimate([*tasks.values(), *(dense[task] for task in tasks)], probability_of_improvement)
        if found is None:
            continue
        low, high = (found.value if end is None else end for end in (found.low, found.high))
        bars = [[max(0.0, found.value - low)], [max(0.0, high - found.value)]]
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.errorbar([found.value], [place], xerr=bars, color=colour, marker=marker, linestyle="", capsize=3)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(others)), [literal(name) for name in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    finish(axes, f"Better than dense: {_tasks(scores)}", "P(a run returns more than a dense one), ties are halves", "", False)
    return figure


def _tasks(scores: dict[str, dict[Task, Scores]]) -> str:
    return f"{len(next(iter(scores.values())))} tasks"


def methods(groups: Sequence[Group]) -> dict[str, dict[Task, Scores]]:
    """What each form gains on the tasks that all of them have, in units of what dense policies gain there.

    A form that has several strengths on some task is two methods: that of its least and that of its largest lambda_c on each
    task. Raises NothingToShowError where fewer than two tasks or methods are left.
    """
    known: dict[str, dict[Task, list[tuple[float, Scores]]]] = {}
    for task, here in by_task(groups).items():
        for group in here:
            if len(scores := _gained(group, groups)):
                strength = float(group.settings.get("lambda_c") or 0.0)
                form = DENSE if is_reference(group, groups) else group.form
                known.setdefault(form, {}).setdefault(task, []).append((strength, scores))
    found: dict[str, dict[Task, Scores]] = {}
    for form, tasks in known.items():
        if all(len(strengths) == 1 for strengths in tasks.values()):
            found[form] = {task: strengths[0][1] for task, strengths in tasks.items()}
        else:
            for name, choose in (("least", min), ("largest", max)):
                of_task = {task: choose(strengths, key=lambda pair: pair[0])[1] for task, strengths in tasks.items()}
                found[f"{form}, {name} lambda_c"] = of_task
    return _in_common(found)


def _in_common(found: dict[str, dict[Task, Scores]]) -> dict[str, dict[Task, Scores]]:
    """The methods that are on two tasks or more with dense ones, on the tasks that all of these have."""
    several = {name: tasks for name, tasks in found.items() if len(tasks) > 1}
    common = set.intersection(*map(set, several.values())) if several else set()
    if len(several) < 2 or len(common) < 2:
        raise NothingToShowError("it needs two tasks on which there are dense runs and runs of another form")
    return {name: {task: scores for task, scores in tasks.items() if task in common} for name, tasks in several.items()}


def _gained(group: Group, groups: Sequence[Group]) -> Scores:
    """The returns above a random policy's, divided by the mean of dense ones; none where dense policies gained nothing."""
    runs = [run.result for run in reference(group, groups)]
    dense = [row["return_mean"] for row in runs if row["return_mean"] is not None]
    random = [row["return_random"] for row in runs if row["return_random"] is not None]
    if not dense or not random or (gain := float(np.mean(dense) - np.mean(random))) <= 0:
        return np.empty(0)
    return (group.scores("return_mean") - float(np.mean(random))) / gain
