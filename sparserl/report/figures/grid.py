"""lambda_c x beta: return and sparsity wherever both were varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparserl.report.figures.style import PANEL, literal
from sparserl.report.groups import Group
from sparserl.report.statistics import iqm
from sparserl.report.table import NothingToShowError


def heat_maps(groups: Sequence[Group]) -> Figure:
    """IQM of the return, and mean sparsity, of each pair of values; a cell without a run says so."""
    grids = {name: cells for name, cells in _grids(groups).items() if min(map(len, map(set, zip(*cells, strict=True)))) > 1}
    if not grids:
        raise NothingToShowError("it needs runs of one regulariser with several values of both lambda_c and beta")
    figure = Figure(figsize=(PANEL[0] * 2, PANEL[1] * len(grids) + 0.6), layout="constrained")
    axes = figure.subplots(len(grids), 2, squeeze=False)
    for row, (name, cells) in zip(axes, grids.items(), strict=True):
        returns = {key: float(iqm(group.scores("return_mean"))) for key, group in cells.items()}
        zeros = {key: group.mean("sparsity") or 0.0 for key, group in cells.items()}
        random = [score for group in cells.values() if (score := group.mean("return_random")) is not None]
        _map(figure, row[0], f"{name}\nreturn: IQM", returns, ".0f", darkest=min(random, default=None))
        _map(figure, row[1], "sparsity: mean", zeros, ".0%")
    return figure


def _grids(groups: Sequence[Group]) -> dict[str, dict[tuple[float, float], Group]]:
    """The groups that differ in lambda_c and beta only, by what else they are."""
    found: dict[str, dict[tuple[float, float], Group]] = {}
    for group in groups:
        lambda_c, beta = group.settings.get("lambda_c"), group.settings.get("beta")
        if lambda_c is None or beta is None or not len(group.scores("return_mean")):
            continue
        others = [f"{key} {group.settings.get(key)}" for key in group.columns if key not in (*AXES, *NAMES)]
        name = ", ".join([*group.task, group.form, *others])
        found.setdefault(name, {})[float(lambda_c), float(beta)] = group
    return found


AXES = "lambda_c", "beta"
NAMES = "environment", "algorithm", "regularizer", "network"


def _map(
    figure: Figure,
    axes: Axes,
    title: str,
    values: Mapping[tuple[float, float], float],
    form: str,
    darkest: float | None = None,
) -> None:
    """The darkest colour is that of a given value, or where one is below it, of the least: small differences look small."""
    lambdas, betas = (sorted(set(found)) for found in zip(*values, strict=True))
    table = np.full((len(betas), len(lambdas)), np.nan)
    for (lambda_c, beta), value in values.items():
        table[betas.index(beta), lambdas.index(lambda_c)] = value
    low, high = np.nanmin(table if darkest is None else [np.nanmin(table), darkest]), np.nanmax(table)
    image = axes.imshow(table, origin="lower", aspect="auto", cmap="cividis", vmin=low, vmax=high)
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(table):
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
        bright = np.isnan(value) or value > middle
        axes.text(
            column, row, "no run" if np.isnan(value) else f"{value:{form}}", color="black" if bright else "white", **style
        )
    axes.set_xticks(range(len(lambdas)), [f"{value:g}" for value in lambdas], fontsize=8)
    axes.set_yticks(range(len(betas)), [f"{value:.3g}" for value in betas], fontsize=8)
    axes.set_xlabel("lambda_c", fontsize=9)
    axes.set_ylabel("beta", fontsize=9)
    axes.set_title(literal(title) if "\n" not in title else "\n".join(map(literal, title.split("\n"))), fontsize=9)
    figure.colorbar(image, ax=axes)
