from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import made_up, table
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from sparserl.config.validation import compose
from sparserl.report.figures import comparison, draw, single, style
from sparserl.runs import reader
from sparserl.runs.files import read_json, write_json
from sparserl.runs.schema import RankRow
from sparserl.sweeps.loop import run

PNG = b"\x89PNG\r\n\x1a\n"
PANELS = ["Learning curve", "Sparsity", "Gates", "Singular values of the weights", "Return by rank"]
PANELS += ["Return by compression (the same lines)"]


def figure(folder: Path) -> Figure:
    return single.of_run(reader.read(folder))


def compared(folder: Path) -> Figure:
    return comparison.of_many(reader.find([folder]))


def titles(drawn: Figure) -> list[str]:
    return [axes.get_title() for axes in drawn.axes]


def panel(drawn: Figure, title: str) -> Axes:
    (found,) = [axes for axes in drawn.axes if axes.get_title().startswith(title)]
    return found


def line(axes: Axes, label: str) -> Line2D:
    (found,) = [drawn for drawn in axes.lines if str(drawn.get_label()).startswith(label)]
    return found


def points(drawn: Line2D) -> list[tuple[float, float]]:
    return list(zip(np.asarray(drawn.get_xdata()).tolist(), np.asarray(drawn.get_ydata()).tolist(), strict=True))


def height(drawn: Line2D) -> float:
    """Of a line from one side to the other."""
    (value,) = set(np.asarray(drawn.get_ydata()).tolist())
    return float(value)


# ---------------------------------------------------------------- one run


def test_the_picture_is_a_png_in_the_runs_folder(tmp_path: Path) -> None:
    path = draw(str(made_up(tmp_path / "run")))
    assert path == tmp_path / "run" / "figure.png"
    assert path.read_bytes().startswith(PNG)


def test_what_a_real_run_leaves_can_be_drawn(tmp_path: Path) -> None:
    """All its panels, with the ranks that were swept and the singular values of all three layers."""
    run([compose("trainer=smoke", "lowrank.ranks=[1,2]")], [tmp_path])
    drawn = figure(tmp_path)
    assert titles(drawn) == PANELS
    assert [x for x, _ in points(line(panel(drawn, "Return by rank"), "truncated"))] == [1, 2]
    layers = {str(shown.get_label()).partition(":")[0] for shown in panel(drawn, "Singular values").lines}
    assert layers == {"layer policy/0", "layer policy/1", "layer policy/2"}


def test_the_title_says_which_run_it_is_and_how_it_ended(tmp_path: Path) -> None:
    title = figure(made_up(tmp_path / "run", seed=3)).get_suptitle()
    assert title.startswith("dqn on cartpole, l0, lambda_c 60, beta 0.5, seed 3\n")
    for words in ("return 100.0 (random policy 20.0)", "75.0% sparse: 3 of 12", "rank 2: return 96.0, compression 50.0%"):
        assert words in title
    nothing = made_up(tmp_path / "nothing", rank=None, rank_reason="not_learned", return_lowrank=None, compression=None)
    assert "it did not learn" in figure(nothing).get_suptitle()


def test_the_title_of_a_shrunken_policy_has_room_beside_and_above_the_panels(tmp_path: Path) -> None:
    """It was one line that began and ended outside of the picture."""
    weights = {"policy_weights": 10728, "nonzero_weights": 843, "shrunken_weights": 843, "alive_units": 54}
    at_rank = {"shrunken_rank": 5, "shrunken_return_mean": 500.0, "shrunken_compression": 0.961}
    drawn = figure(made_up(tmp_path / "run", return_mean=500.0, **weights, **at_rank))
    assert "shrunken to 54 units, rank 5: return 500.0, compression 96.1%" in drawn.get_suptitle()
    FigureCanvasAgg(drawn).draw()
    box = drawn._suptitle.get_window_extent()  # type: ignore[attr-defined]
    assert box.x0 > 0
    assert box.x1 < drawn.bbox.width
    assert box.y0 > max(axes.title.get_window_extent().y1 for axes in drawn.axes)


def test_a_learning_curve_has_training_evaluation_and_the_random_policy(tmp_path: Path) -> None:
    axes = panel(figure(made_up(tmp_path / "run")), "Learning curve")
    assert points(line(axes, "training")) == [(15, 45.0), (20, 60.0)]  # where no episode ended there is no point
    assert points(line(axes, "evaluation")) == [(10, 50.0), (20, 100.0)]
    assert height(line(axes, "random policy")) == 20.0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "return")


def test_gates_and_sparsity_are_shares_by_step(tmp_path: Path) -> None:
    drawn = figure(made_up(tmp_path / "run"))
    assert points(line(panel(drawn, "Gates"), "open")) == [(10, 0.75), (15, 0.5), (20, 0.25)]
    assert points(line(panel(drawn, "Gates"), "closed")) == [(10, 0.25), (15, 0.5), (20, 0.75)]
    assert points(line(panel(drawn, "Sparsity"), "exact")) == [(10, 0.25), (15, 0.5), (20, 0.75)]
    assert {str(shown.get_label()).split()[0] for shown in panel(drawn, "Sparsity").lines} == {"exact", "expected:"}


def test_spectra_are_those_of_the_raw_and_of_the_hardened_weights(tmp_path: Path) -> None:
    axes = panel(figure(made_up(tmp_path / "run")), "Singular values")
    before, after = line(axes, "layer policy/0: before"), line(axes, "layer policy/0: hardened, effective rank 1.5 of 3")
    assert points(before) == [(1, 8.0), (2, 4.0), (3, 2.0)]
    assert points(after) == [(1, 6.0), (2, 3.0)]  # a zero has no place on a logarithmic axis
    assert before.get_color() == after.get_color()


@pytest.mark.parametrize("raw", [None, {"0.weight": torch.diag(torch.tensor([6.0, 3.0, 0.0]))}], ids=["gone", "the same"])
def test_raw_weights_that_are_gone_or_the_same_are_left_out(tmp_path: Path, raw: dict[str, Tensor] | None) -> None:
    (shown,) = panel(figure(made_up(tmp_path / "run", raw=raw)), "Singular values").lines
    assert str(shown.get_label()).startswith("layer policy/0: hardened")


@pytest.mark.parametrize(("title", "swept"), [("Return by rank", [1.0, 2.0]), ("Return by compression", [0.8, 0.5])])
def test_returns_of_truncated_policies(tmp_path: Path, title: str, swept: list[float]) -> None:
    axes = panel(figure(made_up(tmp_path / "run")), title)
    assert points(line(axes, "truncated")) == list(zip(swept, [40.0, 96.0], strict=True))
    assert height(line(axes, "full rank")) == 100.0
    # lowrank.retention of 0.9, between the random policy's 20 and the full rank's 100
    assert height(line(axes, "90% of it retained")) == pytest.approx(20 + 0.9 * 80)
    assert height(line(axes, "random policy")) == 20.0
    assert points(line(axes, "selected: rank 2")) == [(swept[1], 96.0)]
    # a standard error of 8 / sqrt(4) at rank 1 and 4 / sqrt(4) at rank 2
    (band,) = axes.collections
    assert set(band.get_paths()[0].vertices[:, 1].tolist()) == {36.0, 44.0, 94.0, 98.0}


def test_a_policy_that_needs_its_full_rank_has_that_marked(tmp_path: Path) -> None:
    axes = panel(figure(made_up(tmp_path / "run", rank="full")), "Return by rank")
    assert height(line(axes, "full rank (selected)")) == 100.0
    assert not any("rank 2" in str(shown.get_label()) for shown in axes.lines)


def test_panels_that_do_not_apply_are_not_there(tmp_path: Path) -> None:
    assert titles(figure(made_up(tmp_path / "all"))) == PANELS
    assert titles(figure(made_up(tmp_path / "dense", gates=False))) == [title for title in PANELS if title != "Gates"]
    assert titles(figure(made_up(tmp_path / "unswept", sweep=False, raw=None))) == PANELS[:3]


def test_a_frozen_run_is_drawn_as_one_that_failed_also_where_its_returns_are_no_numbers(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "run", status="failed")
    nothing = dict.fromkeys(("return_mean", "return_std", "return_random", "rank", "retention", "return_lowrank"))
    write_json(folder / "result.json", read_json(folder / "result.json") | nothing)
    table(folder, RankRow, [{"rank": rank, "episodes": 4, "compression": 0.5} for rank in (1, 2, "full")])
    drawn = figure(folder)
    assert drawn.get_suptitle().endswith("\nfailed")
    assert titles(drawn) == PANELS[:4], "there is no return to show by rank"
    assert draw(folder).read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match="no run has finished"):
        comparison.of_many([run for run in reader.find([tmp_path]) if run.counts])


def test_no_place_is_empty(tmp_path: Path) -> None:
    """Five panels: three, and below them two that are as wide together."""
    boxes = [axes.get_subplotspec() for axes in figure(made_up(tmp_path / "run", gates=False)).axes]
    assert sum(len(box.rowspan) * len(box.colspan) for box in boxes if box) == 2 * 6


def test_a_run_that_is_under_way_is_drawn_as_far_as_it_got(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "run", sweep=False, raw=None)
    (folder / "result.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"env_step": 25, "train/ret')  # being written
    axes = panel(figure(folder), "Learning curve")
    assert points(line(axes, "evaluation")) == [(10, 50.0), (20, 100.0)]
    assert not any("random" in str(shown.get_label()) for shown in axes.lines)


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(tmp_path / "empty")
    folder = made_up(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"env_step": 1}\n{"env_st\n{"env_step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl is not whole"):
        draw(folder)


def test_whoever_draws_nothing_does_not_wait_for_matplotlib() -> None:
    code = (
        "import sys, sparserl.report.figures; sys.exit(any(name in sys.modules for name in ('matplotlib', 'pandas', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


# ---------------------------------------------------------------- many runs


def several(folder: Path) -> Path:
    """Two seeds of L0 and one dense run."""
    made_up(folder / "a", seed=0, return_mean=80.0, raw=None)
    made_up(folder / "b", seed=1, return_mean=120.0, sparsity=0.5, raw=None)
    made_up(folder / "c", regularizer="none", lambda_c=None, beta=None, return_mean=110.0, sparsity=0.0, raw=None)
    return folder


def test_seeds_of_one_setting_are_one_line_with_a_band(tmp_path: Path) -> None:
    axes = panel(compared(several(tmp_path)), "Evaluation")
    assert [shown.get_label() for shown in axes.lines] == ["l0, lambda_c 60 (seeds: 2)", "none (seeds: 1)"]
    assert points(axes.lines[0]) == [(10, 50.0), (20, 100.0)]  # of 40 and 60, and of 80 and 120
    (band,) = axes.collections  # one run has none
    assert set(band.get_paths()[0].vertices[:, 1].tolist()) == {40.0, 60.0, 80.0, 120.0}


def test_return_by_rank_is_compared_with_full_rank(tmp_path: Path) -> None:
    axes = panel(compared(several(tmp_path)), "Return by rank")
    assert points(line(axes, "l0")) == [(1, 40.0), (2, 96.0)]
    assert [height(shown) for shown in axes.lines if len(shown.get_xdata()) == 2 and shown.get_marker() == "None"] == [
        100.0,
        110.0,
    ]


def test_every_run_and_every_mean_has_its_return_by_size(tmp_path: Path) -> None:
    axes = panel(compared(several(tmp_path)), "Return by size")
    assert points(line(axes, "l0, lambda_c 60")) == [(0.375, 100.0)]
    assert points(line(axes, "none")) == [(1.0, 110.0)]
    assert points(axes.lines[0]) == [(0.25, 80.0), (0.5, 120.0)]
    assert points(axes.lines[-1]) == [(0.375, 100.0), (1.0, 110.0)]  # more weights, a higher mean: both are best of their size


def test_a_mean_that_a_smaller_policy_beats_is_not_on_the_line_of_the_best(tmp_path: Path) -> None:
    made_up(tmp_path / "sparse", sparsity=0.9, return_mean=100.0, raw=None)
    made_up(tmp_path / "dense", regularizer="none", sparsity=0.0, return_mean=90.0, raw=None)
    axes = panel(compared(tmp_path), "Return by size")
    assert points(axes.lines[-1]) == [(pytest.approx(0.1), 100.0)]


def test_of_two_means_of_one_size_the_lower_is_not_on_the_line_of_the_best(tmp_path: Path) -> None:
    """It was, as the end of a vertical line, where nothing was pruned."""
    made_up(tmp_path / "a", regularizer="none", sparsity=0.0, return_mean=90.0, raw=None)
    made_up(tmp_path / "b", sparsity=0.0, return_mean=100.0, raw=None)
    axes = panel(compared(tmp_path), "Return by size")
    assert points(axes.lines[-1]) == [(1.0, 100.0)]


def test_more_groups_than_colours_are_told_apart(tmp_path: Path) -> None:
    """Twenty strengths: the seventh had the colour and the marker of the first."""
    for index in range(20):
        made_up(tmp_path / f"{index}", lambda_c=float(index + 1), raw=None)
    drawn = compared(tmp_path)
    for title in ("Evaluation", "Return by rank", "Return by size"):
        named = [shown for shown in panel(drawn, title).lines if str(shown.get_label()).startswith("lambda_c")]
        looks = {(shown.get_color(), shown.get_marker()) for shown in named}
        assert len(looks) == len(named) == 20


def test_a_row_of_few_panels_is_not_stretched(tmp_path: Path) -> None:
    made_up(tmp_path / "run", sweep=False, raw=None)
    (tmp_path / "run/metrics.jsonl").unlink()
    drawn = compared(tmp_path)
    assert len(drawn.axes) == 1
    assert drawn.get_figwidth() == 2 * style.PANEL[0]


def test_environments_are_compared_apart(tmp_path: Path) -> None:
    made_up(tmp_path / "a", raw=None)
    made_up(tmp_path / "b", environment="acrobot", sweep=False, raw=None)
    drawn = compared(tmp_path)
    assert [row.get_suptitle() for row in drawn.subfigs] == ["acrobot", "cartpole"]
    assert [len(row.axes) for row in drawn.subfigs] == [2, 3]  # nothing by rank where no rank was swept


def test_figures_are_written_in_both_formats_and_equal_ones_are_equal_files(tmp_path: Path) -> None:
    drawn = [compared(several(tmp_path / "runs")), compared(tmp_path / "runs")]
    first, second = (style.save(figure, tmp_path / f"{index}.svg", ["typed"]) for index, figure in enumerate(drawn))
    assert first.read_text().startswith("<?xml")
    assert first.read_bytes() == second.read_bytes()
    assert style.save(drawn[0], tmp_path / "a.png", ["typed"]).read_bytes().startswith(PNG)


@pytest.mark.parametrize(("values", "span"), [([499.96, 500.0], 25.0), ([20.0, 500.0], 480.0), ([-0.1, 0.1], 0.2)])
def test_returns_that_are_nearly_equal_are_shown_as_nearly_equal(values: list[float], span: float) -> None:
    """By itself matplotlib would fill the panel with a difference of 0.04, and write "+4.999e2" over the title."""
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], values)
    style.finish(axes, "title", "x", "y", legend=False)
    figure.canvas = FigureCanvasAgg(figure)
    figure.canvas.draw()
    low, high = axes.get_ylim()
    # a twentieth of what is largest on the axis, or the values with matplotlib's margin of a tenth
    assert high - low == pytest.approx(span, rel=0.11)
    assert low < min(values) <= max(values) < high
    assert axes.yaxis.get_offset_text().get_text() == ""


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        comparison.of_many([])
