"""What the figures are made of: one function for each panel, and the two that choose and arrange them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter, SymmetricalLogLocator

from sparserl.runs import checkpoint
from sparserl.runs.files import replace
from sparserl.runs.reader import NAMED, Run, distinguishing, groups
from sparserl.terminal import number, plain
from sparserl.types import Weights, is_weight

# told apart also by those who do not see red or green as others do (Okabe and Ito 2008)
BLUE, RED, GREEN, PURPLE, ORANGE, SKY = COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "0.45"

PANEL = 4.4, 3.3
"""Width and height of one panel with its labels, in inches."""

LABELS = 0.8
"""What a panel's labels take of its width, and of its height: the same for all, so that no layout need be searched for."""

TITLE = 0.95
"""Inches above the panels: three lines, and the panels' own titles."""

LONGEST = 250
"""Characters of a text in a figure; more would leave no room for the panels."""

SMALLEST_SINGULAR_VALUE = 1e-5
"""Of a layer's largest: what is smaller is rounding, and is not drawn."""


# ---------------------------------------------------------------- one run


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
    axes.plot(*run.curve("eval/return_mean"), color=BLUE, marker="o", markersize=3, label="evaluation (hardened, greedy)")
    _random_line(axes, run)
    _by_step(axes, "Learning curve", "return")


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
    _share(axes)
    _by_step(axes, "Sparsity", "share of policy weights")


def gates(axes: Axes, run: Run) -> None:
    """Shares of gates open, closed and undecided by environment step."""
    for key, colour, style in (("open", GREEN, "-"), ("closed", RED, "--"), ("undecided", PURPLE, ":")):
        axes.plot(*run.curve(f"gates/{key}"), color=colour, linestyle=style, linewidth=2, label=key)
    _share(axes)
    _by_step(axes, "Gates", "share of gates")


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
    _finish(axes, "Singular values of the weights", "index", "singular value")


def _spectrum_line(axes: Axes, values: Sequence[float], **style: Any) -> None:
    shown = [value for value in values if value > SMALLEST_SINGULAR_VALUE * values[0]]
    axes.plot(range(1, len(shown) + 1), shown, **style)


def rank(axes: Axes, run: Run) -> None:
    """Return by the rank at which the layers are truncated."""
    _lowrank(axes, run, "rank")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    _finish(axes, "Return by rank", "rank, for all layers", "return")


def compression(axes: Axes, run: Run) -> None:
    """Return by the share of the policy weights that factors save; the lines are those of the panel by rank."""
    _lowrank(axes, run, "compression")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _finish(axes, "Return by compression (the same lines)", "compression: 1 - stored / dense weights", "return", legend=False)


def _lowrank(axes: Axes, run: Run, column: str) -> None:
    x = [row[column] for row in run.swept]
    returns = np.array([row["return_mean"] for row in run.swept])
    errors = [row["return_std"] / math.sqrt(row["episodes"]) for row in run.swept]
    axes.fill_between(x, returns - errors, returns + errors, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(x, returns, color=BLUE, marker=".", label="truncated (band: standard error)")
    if any(row["shrunken_parameters"] != row["parameters"] for row in run.swept):
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


# ---------------------------------------------------------------- many runs


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
        named = {_label(columns, values, here): members for values, members in groups(here).items()}
        panels: list[Callable[[Axes, dict[str, list[Run]]], None]] = [compare_learning]
        panels += [compare_rank] * any(run.swept for run in here) + [compare_weights]
        for place, panel in enumerate(panels, start=1):
            panel(row.add_subplot(1, len(panels), place), named)
        row.suptitle(literal(environment), fontsize=12, fontweight="bold")
        handles, labels = row.axes[0].get_legend_handles_labels()
        row.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=8)
    return figure


def _label(columns: Sequence[str], values: Sequence[Any], runs: Sequence[Run]) -> str:
    """What tells a group from the others, in the fewest words: the names of options speak for themselves."""
    words = [
        value if column in NAMED and isinstance(value, str) else f"{column.split('.')[-1]} {_short(value)}"
        for column, value in zip(columns, values, strict=True)
        if value is not None
    ]
    return literal(", ".join(words) or f"{runs[0].settings['algorithm']}, {runs[0].settings['regularizer']}")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _styles() -> Any:
    """A colour for each group, and another line once the colours are used up."""
    return ({"color": colour, "linestyle": style} for style in cycle(("-", "--", ":")) for colour in COLOURS)


def compare_learning(axes: Axes, named: dict[str, list[Run]]) -> None:
    """Evaluated returns by environment step: the mean over seeds, from the lowest to the highest."""
    for (label, runs), style in zip(named.items(), _styles(), strict=False):
        curves = [dict(zip(*run.curve("eval/return_mean"), strict=True)) for run in runs]
        _mean_and_band(axes, curves, f"{label} (seeds: {len(runs)})", style)
    _by_step(axes, "Evaluation: mean, lowest and highest seed", "return", legend=False)


def compare_rank(axes: Axes, named: dict[str, list[Run]]) -> None:
    """Return by rank: the mean over seeds, from the lowest to the highest, and the mean at full rank."""
    for (label, runs), style in zip(named.items(), _styles(), strict=False):
        swept = [{row["rank"]: row["return_mean"] for row in run.lowrank} for run in runs if run.swept]
        full = [returns.pop(math.inf) for returns in swept if math.inf in returns]
        _mean_and_band(axes, swept, label, style)
        if full:
            axes.axhline(fmean(full), color=style["color"], linestyle=(0, (1, 3)), linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    _finish(axes, "Return by rank (dotted: full rank)", "rank, for all layers", "return", legend=False)


def compare_weights(axes: Axes, named: dict[str, list[Run]]) -> None:
    """Return by weights left: every run, the mean of each group, and the best mean that so many weights or fewer reach."""
    means = []
    for (label, runs), style in zip(named.items(), _styles(), strict=False):
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
    _finish(axes, "Return by size: runs, means (diamonds), best means", "share of policy weights left", "return", legend=False)


def _mean_and_band(axes: Axes, curves: Sequence[dict[Any, float]], label: str, style: dict[str, Any]) -> None:
    """Over what all curves have."""
    x = sorted(set.intersection(*map(set, curves))) if curves else []
    at = [[curve[value] for curve in curves] for value in x]
    if len(curves) > 1:
        axes.fill_between(x, list(map(min, at)), list(map(max, at)), color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, list(map(fmean, at)), label=label, marker=".", markersize=4, **style)


# ---------------------------------------------------------------- style


def save(figure: Figure, path: Path, footer: Sequence[str]) -> Path:
    """Write a PNG whose last lines are ``footer``; returns its path."""
    figure.supxlabel("\n".join(map(literal, footer)), fontsize=6, color=GREY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks, a label with no room: boxes and overlaps
        replace(path, lambda file: figure.savefig(file, format="png", dpi=150))
    return path


def literal(text: str) -> str:
    """Text from outside, of which matplotlib would take dollars for a formula and hide what begins with an underscore."""
    shown = plain(text)
    shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
    return f"{' ' * shown.startswith('_')}{shown}".replace("$", r"\$")


def _by_step(axes: Axes, title: str, y: str, legend: bool = True) -> None:
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _finish(axes, title, "environment steps", y, legend)


def _share(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _finish(axes: Axes, title: str, x: str, y: str, legend: bool = True) -> None:
    axes.set_title(title, fontsize=10, y=1.0)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if legend:
        axes.margins(y=0.15)  # room for it
        axes.legend(fontsize=7, framealpha=0.8, edgecolor="none")
