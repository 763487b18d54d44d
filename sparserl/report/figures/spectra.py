"""Singular values of dense and sparse policies, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparserl.report.figures.style import finish, literal
from sparserl.report.figures.tasks import per_task
from sparserl.report.groups import Group, by_task
from sparserl.report.table import NothingToShowError
from sparserl.runs.reader import Run

SMALLEST = 1e-5
"""Of a layer's largest singular value: what is smaller is rounding, and is not drawn."""

MOST_LAYERS = 4
"""Panels in a row; of deeper networks the layers with the most singular values are drawn."""


def spectra(groups: Sequence[Group]) -> Figure:
    """Medians over runs of the singular values, each divided by the largest of its layer."""
    kept = [group for group in groups if any(run.spectrum for run in group.done)]
    if not kept:
        raise NothingToShowError("it needs spectrum.csv, which only folders of runs have, and none of these has one")
    most = max(len(_layers(here)) for here in by_task(kept).values())
    return per_task(kept, *(partial(_panel, place=place) for place in range(min(most, MOST_LAYERS))))


def _layers(groups: Sequence[Group]) -> list[str]:
    """In the order of the network, but for the smallest where there are too many."""
    counts: dict[str, int] = {}
    for row in (row for group in groups for run in group.done for row in run.spectrum):
        counts[row["layer"]] = max(counts.get(row["layer"], 0), int(row["index"]))
    largest = sorted(counts, key=lambda layer: -counts[layer])[:MOST_LAYERS]
    return [layer for layer in counts if layer in largest]


def _panel(axes: Axes, here: Sequence[Group], looks: Mapping[Group, dict[str, Any]], place: int) -> None:
    layers = _layers(here)
    if place >= len(layers):
        axes.set_axis_off()
        return
    for group in here:
        values = [found for run in group.done if len(found := relative(run, layers[place]))]
        if not values:
            continue
        shortest = min(map(len, values))  # networks of one group may differ in size where a setting gives it
        medians = np.median([found[:shortest] for found in values], axis=0)
        shown = medians[medians > SMALLEST]
        x = np.arange(1, len(shown) + 1)
        axes.plot(x, shown, **looks[group] | {"markevery": max(1, len(x) // 8)})
    axes.set_yscale("log")
    finish(axes, literal(f"Singular values of {layers[place]}: medians"), "index", "of the largest", legend=False)


def relative(run: Run, layer: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The singular values of a layer in units of its largest; none where the layer is empty."""
    values = np.array([row["singular_value"] for row in run.spectrum if row["layer"] == layer], float)
    return values / values[0] if len(values) and values[0] > 0 else np.empty(0)
