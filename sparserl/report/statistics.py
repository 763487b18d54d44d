"""Estimates of a few runs each, with intervals: what Agarwal et al. 2021 (arXiv 2108.13264) recommend for reports.

A *task* is what runs of several seeds repeat, such as an algorithm on an environment: an array of one score for each run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 5000
SEED = 0
"""Of the bootstrap. Every interval begins with it again, so it does not depend on which others are made."""

Scores: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Sequence[Scores]], Scores]
"""From tasks, each ``[..., runs]``, to ``[...]``: of the sample itself and of all resamples at once."""


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its interval, None where too few runs say anything about how they differ."""

    value: float
    low: float | None
    high: float | None
    n: int
    """How many runs it is of."""
    note: str = ""
    """What a reader should know of it."""


def iqm(scores: ArrayLike) -> Scores:
    """The interquartile mean over the last axis: without the lowest and the highest quarter of the scores.

    A quarter of n is rounded down, as in scipy's trim_mean and in rliable: of three scores none is left out.
    """
    return np.asarray(stats.trim_mean(np.asarray(scores, float), 0.25, axis=-1))


def pooled_iqm(tasks: Sequence[Scores]) -> Scores:
    """The interquartile mean of the runs of all tasks together; scores of different tasks must be comparable."""
    return iqm(np.concatenate(tasks, axis=-1))


def pooled_mean(tasks: Sequence[Scores]) -> Scores:
    """The mean of the runs of all tasks together."""
    return np.asarray(np.concatenate(tasks, axis=-1).mean(-1))


def ratio_of_iqms(tasks: Sequence[Scores]) -> Scores:
    """The interquartile mean of the first task divided by that of the second."""
    top, bottom = tasks
    return np.asarray(iqm(top) / iqm(bottom))


def probability_of_improvement(tasks: Sequence[Scores]) -> Scores:
    """How probable it is that a run of X is better than one of Y on the same task, where a tie is half a win; mean of tasks.

    ``tasks`` are those of X, then those of Y in the same order. Of one task it is the statistic of Mann and Whitney, divided
    by the number of pairs.
    """
    half = len(tasks) // 2
    pairs = zip(tasks[:half], tasks[half:], strict=True)
    wins = [np.sign(x[..., :, None] - y[..., None, :]).mean((-1, -2)) for x, y in pairs]
    return np.asarray((1 + np.mean(wins, axis=0)) / 2)


def performance_profile(tasks: Sequence[Scores], thresholds: Scores) -> Scores:
    """The share of runs that score above each threshold, ``[..., thresholds]``: mean of tasks."""
    return np.asarray(np.mean([(task[..., :, None] > thresholds).mean(-2) for task in tasks], axis=0))


def resamples(tasks: Sequence[Scores], count: int = RESAMPLES) -> list[Scores]:
    """The stratified bootstrap: of each task ``[runs]`` ``count`` times as many runs as it has, drawn with replacement.

    ``[count, runs]`` for each task. A task keeps its number of runs, so easy and hard ones keep their weight.
    """
    rng = np.random.default_rng(SEED)
    return [task[rng.integers(len(task), size=(count, len(task)))] for task in tasks]


def estimate(tasks: Sequence[ArrayLike], statistic: Statistic = pooled_iqm) -> Estimate | None:
    """A statistic of tasks with its percentile interval; None where a task has no run, or where it is not finite.

    The interval is of the runs at hand: with fewer than about eight it is narrower than it claims to be, and there is none
    where a task has only one, which would count as known for certain.
    """
    arrays = [np.asarray(task, float) for task in tasks]
    if not arrays or not all(map(len, arrays)):
        return None
    n = sum(map(len, arrays))
    with np.errstate(divide="ignore", invalid="ignore"):  # a quotient of resamples may have nothing below
        value = float(statistic(arrays))
        low, high = ends(statistic(resamples(arrays))) if min(map(len, arrays)) > 1 else (math.nan, math.nan)
    if not math.isfinite(value):
        return None
    known = math.isfinite(low) and math.isfinite(high)
    return Estimate(value, float(low) if known else None, float(high) if known else None, n)


def ends(distribution: Scores) -> Scores:
    """The ends of the interval that has the share ``CONFIDENCE`` of what is along the first axis, ``[2, ...]``."""
    outside = (1 - CONFIDENCE) / 2
    return np.asarray(np.quantile(distribution, [outside, 1 - outside], axis=0))


def curve(values: ArrayLike) -> tuple[Scores, Scores]:
    """The interquartile means of curves ``[runs, steps]`` and the ends of their intervals ``[2, steps]``.

    A run is drawn as a whole, since its steps depend on each other. The ends of one run are the run itself.
    """
    curves = np.asarray(values, float)
    (drawn,) = resamples([np.arange(len(curves), dtype=float)], 2000)
    return iqm(curves.T), ends(iqm(curves[drawn.astype(int)].swapaxes(1, 2)))


def t_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Student's interval of the mean of independent values; None twice for fewer than two.

    It assumes that means of so few values are normal: where returns pile up at a limit, it may reach beyond that.
    """
    if len(values) < 2:
        return None, None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean - half, mean + half
