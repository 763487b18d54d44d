"""The figures of a report by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from sparserl.report.figures import comparison, curves, grid, joined, sizes, spectra, time
from sparserl.report.groups import Group
from sparserl.report.table import NothingToShowError


@dataclass(frozen=True)
class Entry:
    """A figure, and the words that a page shows with it."""

    title: str
    caption: str
    draw: Callable[[Sequence[Group]], Figure]
    """Of all groups. Raises NothingToShowError, which says what the figure lacks."""


def _comparison(groups: Sequence[Group]) -> Figure:
    runs = [run for group in groups for run in group.done]
    if not runs:
        raise NothingToShowError("no run has finished")
    return comparison.of_many(runs)


FIGURES = {
    "comparison": Entry(
        "Comparison of all groups",
        "For each environment, as far as the runs have them: evaluated return in training, return by rank, and return by the "
        "share of policy weights left. Bands reach from the lowest to the highest seed. Small points are runs, large ones the "
        "means of groups; the grey line joins the best means.",
        _comparison,
    ),
    "learning": Entry(
        "Learning curves",
        "Return of the evaluated policy by environment step: interquartile mean over seeds, with 95 % bootstrap bands.",
        curves.learning,
    ),
    "sparsity_in_training": Entry(
        "Sparsity in training",
        "Share of exact zeros among the policy weights by environment step: interquartile mean over seeds, with 95 % bootstrap "
        "bands.",
        curves.sparsity,
    ),
    "return_by_sparsity": Entry(
        "Return by sparsity",
        "Small points are runs. Numbered points are the interquartile means of groups, with 95 % bootstrap intervals. The "
        "dashed line is that of dense policies.",
        sizes.sparsity,
    ),
    "return_by_stored": Entry(
        "Return by stored numbers",
        "A panel for each way to store a policy. Small points are runs. Numbered points are the interquartile means of groups, "
        "with 95 % bootstrap intervals. The dashed line is that of dense policies.",
        sizes.stored,
    ),
    "return_by_rank": Entry(
        "Return by rank and by compression",
        "Interquartile mean of the return of factored policies, with 95 % bootstrap bands. Dotted lines are of full rank.",
        sizes.ranks,
    ),
    "spectra": Entry(
        "Singular values by layer",
        "Medians over runs, each value divided by the largest of its layer.",
        spectra.spectra,
    ),
    "lambda_beta": Entry(
        "Return and sparsity by lambda_c and beta",
        "Interquartile mean of the return, and mean sparsity, of each pair of values.",
        grid.heat_maps,
    ),
    "performance_profiles": Entry(
        "Performance profiles",
        "Share of runs that gain more over a random policy than a share of what dense policies gain, over the tasks that all "
        "methods have, with 95 % bootstrap bands (Agarwal et al. 2021).",
        joined.profiles,
    ),
    "improvement": Entry(
        "Probability of improvement over dense policies",
        "Probability that a run of a method returns more than a dense one of the same task, with 95 % bootstrap intervals; "
        "ties count as halves (Agarwal et al. 2021).",
        joined.improvement,
    ),
    "wall_time": Entry(
        "Wall time",
        "Hours from the start of a run to its result: the bar is the mean of a group, each mark a run.",
        time.wall_time,
    ),
}
