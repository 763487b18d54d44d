"""The figures of a report by name: each of all groups, or an exception ``NothingToShowError`` that says what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from sparserl.report.figures import comparison, curves, grid, joined, sizes, spectra, time
from sparserl.report.groups import Group
from sparserl.report.table import NothingToShowError


def _comparison(groups: Sequence[Group]) -> Figure:
    runs = [run for group in groups for run in group.done]
    if not runs:
        raise NothingToShowError("no run has finished")
    return comparison.of_many(runs)


FIGURES: dict[str, Callable[[Sequence[Group]], Figure]] = {
    "comparison": _comparison,
    "learning": curves.learning,
    "sparsity_in_training": curves.sparsity,
    "return_by_sparsity": sizes.sparsity,
    "return_by_stored": sizes.stored,
    "return_by_rank": sizes.ranks,
    "spectra": spectra.spectra,
    "lambda_beta": grid.heat_maps,
    "performance_profiles": joined.profiles,
    "improvement": joined.improvement,
    "wall_time": time.wall_time,
}
