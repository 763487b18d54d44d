"""The picture of one run: a function for each panel, and what chooses and arranges them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sparserl.report.figures.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PANEL,
    PURPLE,
    RED,
    SKY,
    by_step,
    finish,
    literal,
    share,
)
from sparserl.runs import checkpoint
from sparserl.runs.reader import Run
from sparserl.terminal import number
from sparserl.types import Weights, is_weight

LABELS = 0.8
"""What a panel's labels take of its width, and of its height: the same for all, so that no layout need be searched for."""

TITLE = 0.95
"""Inches above the panels: three lines, and the panels' own titles."""

SMALLEST_SINGULAR_VALUE = 1e-5
"""Of a layer's largest: what is smaller is rounding, and is not drawn."""


def of_run(run: Run) -> Figure:
    """The panels that a run has something for. Raises ValueError where it has nothing for any."""
    raw = checkpoint.raw_weights(run.folder)
    swept = any(math.isfinite(row["return_mean"]) for row in run.swept)  # of a run that was stopped perhaps none is
    tests: list[tuple[Callable[[Axes], None], Any]] = [
        (lambda axes: learning(axes, run), run.curve("train/return")[0] or run.curve("eval/return_mean")[0]),
        (lambda axes: sparsity(axes, run), run.curve("sparsity/exact")[0]),
        (lambda axes: gates(axes, run), run.curve("gates/open")[0]),
        (lambda axes: spectrum(axes, run, raw), run.spectrum or raw),
        (lambda axes: rank(axes, run), swept),
        (lambda axes: compression(axes, run), swept),
    ]
    panels = [panel for panel, there in tests if there]
    if not panels:
        raise ValueError(f"{run.folder} holds nothing to draw: it is not a run's folder, or the run has just begun")
    figure = _arranged(panels)
    figure.suptitle(f"{_title(run)}\n{_summary(run)}", fontsize=10)  # up to three lines above the panels
    return figure


def _arranged(panels: Sequence[Callable[[Axes], None]]) -> Figure:
    """Up to three panels in a row; those of a shorter last row are wider, so that no place is empty."""
    rows = math.ceil(len(panels) / 3)
    columns = math.ceil(len(panels) / rows)
    last = len(panels) - columns * (rows - 1)
    width, height = PANEL[0] * columns, PANEL[1] * rows + TITLE
    figure = Figure(figsize=(width, height))
    cells = columns * last
    cell = (width - 0.2 - cells * LABELS) / cells, (height - TITLE - 0.2 - rows * LABELS) / rows
    grid = figure.add_gridspec(
        rows,
        cells,
        left=LABELS / width,
        right=1 - 0.2 / width,
        bottom=(LABELS + 0.2) / height,
        top=1 - TITLE / height,
        wspace=LABELS / cell[0],
        hspace=LABELS / cell[1],
    )
    for index, panel in enumerate(panels):
        row, place = divmod(index, columns)
        span = last if row < rows - 1 else columns
        panel(figure.add_subplot(grid[row, place * span : (place + 1) * span]))
    return figure


def _title(run: Run) -> str:
    named = run.settings
    values = [f"{key} {named[key]:.3g}" for key in ("lambda_c", "beta") if named.get(key) is not None]
    first = [f"{named['algorithm']} on {named['environment']}", f"{named['regularizer']}"]
    return literal(", ".join([*first, *values, f"seed {run.seed}"]))


def _summary(run: Run) -> str:
    """The numbers that a reader came for, in a line or two."""
    row = run.result
    if not run.counts:
        return run.status
    told = [f"return {number(row['return_mean'], '.1f')} (random policy {number(row['return_random'], '.1f')})"]
    told.append(f"{row['sparsity']:.1%} sparse: {row['nonzero_weights']} of {row['policy_weights']} weights left")
    if row["rank"] is not None:
        at_it, saved = number(row["return_lowrank"], ".1f"), number(row["compression"], ".1%")
        told.append(f"rank {row['rank']}: return {at_it}, compression {saved}")
    lines = [" · ".join([*told, "it did not learn"] if run.learned is False else told)]
    if row["shrunken_rank"] is not None and row["shrunken_weights"] < row["policy_weights"]:
        at_it, saved = number(row["shrunken_return_mean"], ".1f"), number(row["shrunken_compression"], ".1%")
        lines.append(
            f"shrunken to {row['alive_units']} units, rank {row['shrunken_rank']}: return {at_it}, compression {saved}"
        )
    return "\n".join(lines)


def learning(axes: Axes, run: Run) -> None:
    """Returns by environment step, of training episodes and of evaluations."""
    axes.plot(*run.curve("train/return"), color=SKY, linewidth=1, label="training episodes")
    axes.plot(
        *run.curve("eval/return_mean"), color=BLUE, marker="o", markersize=3, label="evaluation (hardened, not exploring)"
    )
    _random_line(axes, run)
    by_step(axes, "Learning curve", "return")


def sparsity(axes: Axes, run: Run) -> None:
    """Shares of zeros among the policy weights by environment step."""
    shown = (
        ("sparsity/exact", "exact zeros", BLUE, "-"),
        ("sparsity/thresholded", "below threshold", ORANGE, "--"),
        ("sparsity/expected", "expected: 1 - P(gate open)", GREEN, ":"),
    )
    for key, label, colour, style in shown:
        if run.curve(key)[0]:
            axes.plot(*run.curve(key), color=colour, linestyle=style, linewidth=2, label=label)
    share(axes)
    by_step(axes, "Sparsity", "share of policy weights")


def gates(axes: Axes, run: Run) -> None:
    """Shares of gates open, closed and undecided by environment step."""
    for key, colour, style in (("open", GREEN, "-"), ("closed", RED, "--"), ("undecided", PURPLE, ":")):
        axes.plot(*run.curve(f"gates/{key}"), color=colour, linestyle=style, linewidth=2, label=key)
    share(axes)
    by_step(axes, "Gates", "share of gates")


def spectrum(axes: Axes, run: Run, raw: Weights | None) -> None:
    """Singular values by layer: of the raw weights ``raw``, dashed, and of the hardened ones that spectrum.csv has.

    Raw ones that hardening left as they were are left out. The effective rank is of the largest that the layer can have,
    the number of its singular values: a layer of few outputs, as the last one is, has a low rank whatever was learned.
    """
    hardened: dict[str, list[float]] = {}
    effective_rank: dict[str, float] = {}
    for row in run.spectrum:
        hardened.setdefault(row["layer"], []).append(row["singular_value"])
        effective_rank[row["layer"]] = row["effective_rank"]
    dense = {
        layer: torch.linalg.svdvals(weight.flatten(1)).tolist()
        for component, layers in (raw or {}).items()
        for name, weight in layers.items()
        if is_weight(name) and weight.isfinite().all()
        if (layer := f"{component}/{name.removesuffix('.weight')}") in hardened or not hardened
    }
    for colour, layer in zip(cycle(COLOURS), dense | hardened, strict=False):
        if layer in dense and not np.allclose(dense[layer], hardened.get(layer, 0.0), rtol=1e-3, atol=1e-5):
            label = literal(f"layer {layer}: before hardening")
            _spectrum_line(axes, dense[layer], color=colour, linestyle="--", label=label)
        if layer in hardened:
            largest = len(hardened[layer])
            label = literal(f"layer {layer}: hardened, effective rank {number(effective_rank[layer], '.1f')} of {largest}")
            _spectrum_line(axes, hardened[layer], color=colour, marker=".", markersize=3, label=label)
    axes.set_yscale("log")
    finish(axes, "Singular values of the weights", "index", "singular value")


def _spectrum_line(axes: Axes, values: Sequence[float], **style: Any) -> None:
    shown = [value for value in values if value > SMALLEST_SINGULAR_VALUE * values[0]]
    axes.plot(range(1, len(shown) + 1), shown, **style)


def rank(axes: Axes, run: Run) -> None:
    """Return by the rank at which the layers are truncated."""
    _lowrank(axes, run, "rank")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    finish(axes, "Return by rank", "rank, for all layers", "return")


def compression(axes: Axes, run: Run) -> None:
    """Return by the share of the policy weights that factors save; the lines are those of the panel by rank."""
    _lowrank(axes, run, "compression")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    finish(axes, "Return by compression (the same lines)", "compression: 1 - stored / dense weights", "return", legend=False)


def _lowrank(axes: Axes, run: Run, column: str) -> None:
    x = [row[column] for row in run.swept]
    returns = np.array([row["return_mean"] for row in run.swept])
    errors = [row["return_std"] / math.sqrt(row["episodes"]) for row in run.swept]
    axes.fill_between(x, returns - errors, returns + errors, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(x, returns, color=BLUE, marker=".", label="truncated (band: standard error)")
    if any(math.isfinite(row["shrunken_parameters"]) and row["shrunken_parameters"] != row["parameters"] for row in run.swept):
        shrunken = [row["shrunken_compression" if column == "compression" else column] for row in run.swept]
        their_returns = [row["shrunken_return_mean"] for row in run.swept]
        axes.plot(shrunken, their_returns, color=PURPLE, marker=".", linestyle="--", label="without idle units")
    retention, chosen = run.config.get("lowrank", {}).get("retention"), run.result.get("rank")
    for full in (row["return_mean"] for row in run.lowrank if row not in run.swept):
        label = "full rank (selected)" if chosen == "full" else "full rank"
        axes.axhline(full, color=GREEN, linestyle="--", label=label)
        random = run.result.get("return_random")
        if chosen is not None and retention is not None and random is not None:
            label = f"{retention:.0%} of it retained"
            axes.axhline(random + retention * (full - random), color=ORANGE, linestyle=":", label=label)
    for row in run.swept:
        if row["rank"] == chosen:
            style: dict[str, Any] = {"color": RED, "markersize": 14, "linestyle": "", "label": f"selected: rank {chosen}"}
            axes.plot([row[column]], [row["return_mean"]], marker="*", **style)
    _random_line(axes, run)


def _random_line(axes: Axes, run: Run) -> None:
    if run.result.get("return_random") is not None:
        axes.axhline(run.result["return_random"], color=GREY, linestyle="-.", linewidth=1, label="random policy")
