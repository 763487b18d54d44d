"""The figures of a report: what is drawn, and what is said where nothing can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from folders import NASTY, made_up, table
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sparserl.report.figures import catalogue, curves, grid, joined, sizes, spectra, style, time
from sparserl.report.figures.tasks import looks_of
from sparserl.report.groups import Group, grouped
from sparserl.report.table import NothingToShowError
from sparserl.runs import reader
from sparserl.runs.schema import SingularValue


def groups(folder: Path) -> list[Group]:
    return grouped(reader.find([folder]))


def two_forms(folder: Path, **given: Any) -> list[Group]:
    """Dense and sparse policies, two seeds each."""
    for seed, score in ((0, 80.0), (1, 120.0)):
        both = {"seed": seed, "raw": None, "csr_bytes": 64, "shrunken_weights": 8} | given
        sparse = {"return_mean": score, "shrunken_compression": 0.75, "shrunken_return_mean": 70.0}
        made_up(folder / f"a{seed}", **both | sparse)
        made_up(folder / f"b{seed}", regularizer="none", lambda_c=None, return_mean=100.0, sparsity=0.0, **both)
    return groups(folder)


def of_group(axes: Axes, colour: Any, length: int) -> list[list[float]]:
    """The heights of the lines of a group that have so many points."""
    lines = [line for line in axes.lines if line.get_color() == colour and len(line.get_xdata()) == length]
    return [np.asarray(line.get_ydata()).tolist() for line in lines]


def test_learning_curves_are_interquartile_means_with_bands(tmp_path: Path) -> None:
    found = two_forms(tmp_path)
    (axes,) = curves.learning(found).axes
    look = looks_of(found)[found[1]]
    assert of_group(axes, look["color"], 2) == [[50, 100]]  # of 40 and 60, and of 80 and 120
    assert {40.0, 60.0, 80.0, 120.0} <= set(axes.collections[1].get_paths()[0].vertices[:, 1].tolist())
    (shares,) = curves.sparsity(found).axes
    assert of_group(shares, look["color"], 3) == [[0.25, 0.5, 0.75]]


def test_return_by_stored_numbers_has_a_panel_for_each_form_on_a_logarithmic_axis(tmp_path: Path) -> None:
    found = two_forms(tmp_path)
    figure = sizes.stored(found)
    assert [axes.get_title() for axes in figure.axes] == ["Sparse", "Shrunken", "Factored", "Shrunken and factored"]
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    assert len({axes.get_ylim() for axes in figure.axes}) == 1, "or sizes could not be compared"
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2"]  # as in the legend
    look = looks_of(found)[found[1]]
    sparse = [line for line in figure.axes[0].lines if line.get_color() == look["color"]]
    assert np.asarray(sparse[0].get_xdata()).tolist() == [16, 16]  # 64 bytes
    assert np.asarray(sparse[0].get_ydata()).tolist() == [80, 120]


EMPTY: dict[str, Any] = {
    "sparsity": 1.0, "nonzero_weights": 0, "csr_bytes": 0, "sparse_bytes": 0, "shrunken_weights": 0, "alive_units": 0,
    "compression": 1.0, "shrunken_compression": 1.0,
}  # fmt: skip
"""Of a policy of which nothing is left."""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("beside", [True, False], ids=["beside others", "alone"])
def test_a_policy_that_stores_nothing_has_a_place_on_axes_that_are_logarithmic_elsewhere(beside: bool, tmp_path: Path) -> None:
    """Zero has no logarithm: matplotlib warned, and drew nothing."""
    made_up(tmp_path / "empty", raw=None, **EMPTY)
    table(tmp_path / "empty", SingularValue, [{"layer": "policy/0", "index": 1, "singular_value": 0.0}])
    if beside:
        two_forms(tmp_path / "others")
    found = groups(tmp_path)
    for name in ("return_by_sparsity", "return_by_stored", "spectra", "comparison"):
        figure = catalogue.FIGURES[name].draw(found)
        FigureCanvasAgg(figure).draw()
    _, by_weights = sizes.sparsity(found).axes
    sparse, *_ = sizes.stored(found).axes
    for axes, farthest in ((by_weights, 1.2), (sparse, 16 if beside else 1)):
        left, right = axes.transData.transform([(0, 0), (farthest, 0)])[:, 0]
        assert axes.bbox.x0 < left < right <= axes.bbox.x1, "within the panel"
        assert axes.get_xlim()[0] > -1e-3 or axes is sparse, "no room for what is less than nothing"


def test_a_form_that_is_not_known_on_a_task_says_so(tmp_path: Path) -> None:
    two_forms(tmp_path / "new")
    two_forms(tmp_path / "old", environment="acrobot", shrunken_weights=None)
    (axes,) = [axes for axes in sizes.stored(groups(tmp_path)).axes if not axes.axison]
    assert [text.get_text() for text in axes.texts] == ["shrunken: not known"]


def test_forms_and_strengths_are_told_apart_by_more_than_colour(tmp_path: Path) -> None:
    """Eight forms at four strengths on two tasks: no two groups of a task look the same, and a form keeps its marker."""
    (run,) = reader.find([made_up(tmp_path / "run", raw=None)])
    runs = [
        replace(run, stated=run.settings | {"environment": name, "regularizer": f"form{form}", "lambda_c": strength})
        for name in ("a", "b")
        for form in range(8)
        for strength in range(4)
    ]
    found = grouped(runs)
    looks = looks_of(found)
    for task in ("a", "b"):
        here = [tuple(looks[group].values()) for group in found if group.task[0] == task]
        assert len(set(here)) == len(here) == 32
    markers = {(group.form, looks[group]["marker"]) for group in found}
    assert len(markers) == len({marker for _, marker in markers}) == 8


def test_return_by_sparsity_and_by_rank(tmp_path: Path) -> None:
    found = two_forms(tmp_path)
    by_zeros, by_weights = sizes.sparsity(found).axes
    assert by_weights.get_xscale() == "log"
    assert any(np.asarray(line.get_xdata()).tolist() == [0.75, 0.75] for line in by_zeros.lines)
    by_rank, by_compression = sizes.ranks(found).axes
    colour = looks_of(found)[found[1]]["color"]
    assert [40, 96] in of_group(by_rank, colour, 2)
    assert {tuple(line.get_xdata()) for line in by_compression.lines if line.get_color() == colour} >= {(0.8, 0.5)}


def test_dense_policies_alone_leave_shares_between_0_and_1(tmp_path: Path) -> None:
    """The axes went from -4 % to 4 %, and to 1000 %."""
    made_up(tmp_path / "a", regularizer="none", lambda_c=None, sparsity=0.0, raw=None)
    by_zeros, by_weights = sizes.sparsity(groups(tmp_path)).axes
    assert by_zeros.get_xlim() == (-0.03, 1.03)
    assert by_weights.get_xlim()[1] < 2


def test_all_numbers_of_an_axis_have_one_size(tmp_path: Path) -> None:
    """A logarithmic axis that spans less than a decade has minor labels, which were larger."""
    (axes, *_) = sizes.stored(two_forms(tmp_path)).axes
    ticks = [*axes.xaxis.get_minor_ticks(1), *axes.xaxis.get_major_ticks(1)]
    assert {tick.label1.get_size() for tick in ticks} == {8}


def test_spectra_are_relative_and_of_dense_and_sparse_policies(tmp_path: Path) -> None:
    (axes,) = spectra.spectra(two_forms(tmp_path)).axes
    drawn = [np.asarray(line.get_ydata()).tolist() for line in axes.lines if len(line.get_xdata())]
    assert drawn == [[1, 0.5], [1, 0.5]]  # of 6, 3 and 0, and a zero has no place on the axis


def test_heat_maps_are_drawn_where_both_were_varied(tmp_path: Path) -> None:
    for place, (lambda_c, beta) in enumerate([(1.0, 0.3), (1.0, 0.6), (10.0, 0.3)]):
        made_up(tmp_path / f"{place}", lambda_c=lambda_c, beta=beta, return_mean=10.0 * place, raw=None)
    figure = grid.heat_maps(groups(tmp_path))
    returns, shares = [axes for axes in figure.axes if axes.get_xlabel() == "lambda_c"]
    assert [text.get_text() for text in returns.texts] == ["0", "20", "10", "no run"]
    assert [text.get_text() for text in shares.texts] == ["75%", "75%", "75%", "no run"]
    assert [label.get_text() for label in returns.get_yticklabels()] == ["0.3", "0.6"]


def test_the_darkest_return_of_a_grid_is_that_of_a_random_policy(tmp_path: Path) -> None:
    """Or 499 beside 500 would look like a loss. One below it would be darker."""
    made = [(1.0, 0.5, 499.0), (1.0, 1.0, 500.0), (2.0, 0.5, 500.0), (2.0, 1.0, 500.0)]
    for place, (lambda_c, beta, score) in enumerate(made):
        made_up(tmp_path / f"{place}", lambda_c=lambda_c, beta=beta, return_mean=score, return_random=20.0, raw=None)
    assert grid.heat_maps(groups(tmp_path)).axes[0].images[0].get_clim() == (20, 500)
    made_up(tmp_path / "worse", lambda_c=3.0, beta=1.0, return_mean=9.0, return_random=20.0, raw=None)
    assert grid.heat_maps(groups(tmp_path)).axes[0].images[0].get_clim() == (9, 500)


def test_values_of_lambda_alone_are_no_grid(tmp_path: Path) -> None:
    for place, lambda_c in enumerate((1.0, 10.0)):
        made_up(tmp_path / f"{place}", lambda_c=lambda_c, raw=None)
    with pytest.raises(NothingToShowError, match="several values of both"):
        grid.heat_maps(groups(tmp_path))


def test_tasks_are_joined_in_units_of_what_dense_policies_gain(tmp_path: Path) -> None:
    """Above a random policy's 20 the dense policies gain 80: runs of 80 and 120 have 3 / 4 and 5 / 4 of it, on either task."""
    two_forms(tmp_path / "one")
    two_forms(tmp_path / "two", environment="acrobot")
    found = groups(tmp_path)
    scores = joined.methods(found)
    assert {name: [task.tolist() for task in tasks.values()] for name, tasks in scores.items()} == {
        "dense": [[1, 1], [1, 1]],
        "l0": [[0.75, 1.25], [0.75, 1.25]],
    }
    (axes,) = joined.profiles(found).axes
    (l0,) = [line for line in axes.lines if line.get_label() == "l0"]
    at = dict(zip(np.round(np.asarray(l0.get_xdata()), 2).tolist(), np.asarray(l0.get_ydata()).tolist(), strict=True))
    assert (at[0.5], at[1.0], at[1.2]) == (1, 0.5, 0.5)
    (axes,) = joined.improvement(found).axes
    assert axes.lines[0].get_xdata()[0] == 0.5  # of its two runs one is better than both dense ones, and one is worse


def test_strengths_are_methods_of_their_own(tmp_path: Path) -> None:
    for environment in ("cartpole", "acrobot"):
        made_up(tmp_path / environment / "n", regularizer="none", lambda_c=None, environment=environment, raw=None)
        for lambda_c in (1.0, 3.0, 9.0):
            made_up(tmp_path / environment / f"{lambda_c}", lambda_c=lambda_c, environment=environment, raw=None)
    assert [*joined.methods(groups(tmp_path))] == ["dense", "l0, least lambda_c", "l0, largest lambda_c"]


def test_one_task_is_not_joined(tmp_path: Path) -> None:
    with pytest.raises(NothingToShowError, match="two tasks"):
        joined.profiles(two_forms(tmp_path))


def test_wall_time_is_in_hours(tmp_path: Path) -> None:
    (axes,) = time.wall_time(two_forms(tmp_path, wall_seconds=7200.0)).axes
    assert {bar.get_width() for bar in axes.patches} == {2.0}


@pytest.mark.parametrize("name", ["learning", "sparsity_in_training", "return_by_rank", "spectra"])
def test_what_needs_more_than_results_says_so(name: str, tmp_path: Path) -> None:
    found = [replace(group, runs=[replace(run, metrics=[], lowrank=[], spectrum=[]) for run in group.runs])
             for group in two_forms(tmp_path)]  # fmt: skip
    with pytest.raises(NothingToShowError, match="which only folders of runs have"):
        catalogue.FIGURES[name].draw(found)


def test_any_text_can_be_drawn(tmp_path: Path) -> None:
    """Formulas, underscores and control characters in names: the picture is whole, and XML."""
    for index, text in enumerate(NASTY.values()):
        made_up(tmp_path / f"{index}", regularizer=text, raw=None, csr_bytes=8)
    for draw in (sizes.stored, time.wall_time):
        path = style.save(draw(groups(tmp_path)), tmp_path / "figure.svg", [])
        ET.parse(path)
