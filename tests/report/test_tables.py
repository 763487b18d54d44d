"""The tables that have names, of made-up runs whose numbers can be worked out."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import NASTY, filled, made_up, unfinished

from sparserl.report import markup, tables, writer
from sparserl.report.__main__ import main
from sparserl.report.groups import Group, grouped, reference
from sparserl.report.settings import joined
from sparserl.report.table import NothingToShowError, shown
from sparserl.runs import reader
from sparserl.runs.files import LAYER_RANKS, write_table
from sparserl.runs.schema import LayerRanks


def groups(folder: Path) -> list[Group]:
    return grouped(reader.find([folder]))


def seeds(folder: Path, name: str, returns: list[float], **given: Any) -> None:
    """A run for each return, of seeds 0, 1, ..."""
    for seed, value in enumerate(returns):
        made_up(folder / f"{name}{seed}", seed=seed, return_mean=value, raw=None, **given)


def dense(folder: Path, returns: list[float], **given: Any) -> None:
    seeds(folder, "none", returns, regularizer="none", lambda_c=None, beta=None, **({"sparsity": 0.0} | given))


# ---------------------------------------------------------------- main


def test_returns_are_divided_by_those_of_dense_policies(tmp_path: Path) -> None:
    """IQMs of two are means: 75 and 100. A random policy has 20, so they gained 55 and 80."""
    dense(tmp_path, [90.0, 110.0])
    seeds(tmp_path, "l0", [70.0, 80.0])
    none, l0 = tables.main(groups(tmp_path)).frame.to_dict("records")
    assert (none["regularizer"], none["of_dense"], none["gained"]) == ("none", 1, 1)
    assert (l0["return_mean"], l0["return_iqm"], l0["return_iqm_n"]) == (75, 75, 2)
    assert (l0["return_iqm_low"], l0["return_iqm_high"]) == (70, 80)
    assert (l0["of_dense"], l0["gained"]) == (0.75, pytest.approx(55 / 80))
    assert l0["of_dense_low"] == pytest.approx(70 / 110)


def test_returns_below_zero_are_not_divided(tmp_path: Path) -> None:
    """-200 / -100 is 2, and no gain. Above a random policy's -300 it is half of it."""
    dense(tmp_path, [-100.0, -100.0], return_random=-300.0)
    seeds(tmp_path, "l0", [-200.0, -200.0], return_random=-300.0)
    frame = tables.main(groups(tmp_path)).frame
    assert frame["of_dense"].tolist()[0] == 1
    assert frame["of_dense"].isna().tolist() == [False, True]
    assert frame["gained"].tolist() == [1, 0.5]


def test_dense_policies_of_another_environment_or_size_are_not_the_reference(tmp_path: Path) -> None:
    dense(tmp_path / "full", [100.0])
    dense(tmp_path / "small", [50.0], network="small_dense", policy_weights=4)
    dense(tmp_path / "other", [7.0], environment="acrobot")
    seeds(tmp_path, "l0", [90.0])
    found = groups(tmp_path)
    (l0,) = [group for group in found if group.settings["regularizer"] == "l0"]
    assert [run.folder.parent.name for run in reference(l0, found)] == ["full"]


def test_names_say_the_network_only_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    dense(tmp_path, [100.0])
    dense(tmp_path / "small", [50.0], network="small_dense")
    seeds(tmp_path, "l0", [90.0])
    seeds(tmp_path / "small", "l0", [40.0], network="small_dense")
    seeds(tmp_path, "l1", [70.0], regularizer="l1")
    found = groups(tmp_path)
    assert [group.form for group in found] == ["none", "small_dense", "l0", "l1", "small_dense, l0"]
    assert {group.label for group in found} >= {"none", "small_dense"}


def test_dense_policies_beside_small_ones_of_several_sizes_are_named_none(tmp_path: Path) -> None:
    dense(tmp_path, [100.0])
    seeds(tmp_path, "l0", [90.0])
    seeds(tmp_path, "l1", [70.0], regularizer="l1")
    for weights in (10, 20):
        dense(tmp_path / str(weights), [50.0], network="small_dense", config={"network": {"weights": weights}})
    assert groups(tmp_path)[0].label == "none"


def test_settings_that_some_rows_lack_share_a_column() -> None:
    rows = [
        {
            "regularizer": "none",
            "lambda_c": "-",
            "r.a": "-",
            "n.b": "2",
            "r.terms.l1.c": "-",
            "return": "9",
        },
        {"regularizer": "l0", "lambda_c": "1", "r.a": "x", "n.b": "3", "r.terms.l1.c": "4", "return": "8"},
    ]
    names = [*rows[0]][:-1]
    assert joined(rows, names) == [
        {"regularizer": "none", "lambda_c": "-", "settings": "-", "n.b": "2", "return": "9"},
        {"regularizer": "l0", "lambda_c": "1", "settings": "a x, l1.c 4", "n.b": "3", "return": "8"},
    ]


def test_settings_of_two_groups_with_one_name_are_told_whole() -> None:
    rows = [{"a.steps": "1", "b.steps": "-", "n.c.start": "-"}, {"a.steps": "-", "b.steps": "3", "n.c.start": "4"}]
    assert [row["settings"] for row in joined(rows, [*rows[0]])] == ["a.steps 1", "b.steps 3, c.start 4"]


def test_whole_numbers_are_shown_with_all_digits() -> None:
    told = {1_000_000: "1000000", 1_000_001: "1000001", 3000.0: "3000", True: "True", None: "-"}
    assert {value: shown(value, "g") for value in told} == told


def test_one_setting_that_some_rows_lack_keeps_its_column() -> None:
    rows = [{"regularizer": "none", "n.b": "-", "return": "9"}, {"regularizer": "l0", "n.b": "3", "return": "8"}]
    assert joined(rows, ["regularizer", "n.b"]) == rows


def test_missing_cells_and_seeds_are_named(tmp_path: Path) -> None:
    dense(tmp_path, [100.0, 100.0])
    seeds(tmp_path, "l0", [90.0])
    dense(tmp_path / "acrobot", [7.0], environment="acrobot")
    unfinished(tmp_path / "l1", "running", regularizer="l1", seed=0)
    table = tables.main(groups(tmp_path))
    assert table.notes == [
        "dqn on acrobot: no result of l0, l1",
        "dqn on cartpole: no result of l1",
        "dqn on cartpole, l0, lambda_c 60: no result of seed 1",
    ]
    assert [row["seeds"] for row in table.cells] == ["1: 0", "2: 0-1", "1: 0", "0 (1 unfinished)"]


# ---------------------------------------------------------------- ranks and sizes


def test_ranks_are_listed_with_what_is_kept_and_saved(tmp_path: Path) -> None:
    seeds(tmp_path, "l0", [100.0, 104.0], shrunken_rank=1, shrunken_return_mean=99.0, shrunken_compression=0.9)
    (row,) = tables.ranks(groups(tmp_path)).frame.to_dict("records")
    assert (row["ranks"], row["learned"], row["full_iqm"], row["return_iqm"]) == ("2, 2", "2 of 2", 102, 96)
    assert (row["compression"], row["shrunken_ranks"], row["shrunken_compression"]) == (0.5, "1, 1", 0.9)
    sweep = tables.rank_sweep(groups(tmp_path)).frame
    assert sweep["rank"].tolist() == ["1", "2", "full"]
    assert sweep["return_iqm"].tolist() == [40, 96, 102]
    assert sweep["n"].tolist() == [2, 2, 2]


def test_forms_are_compared_at_equal_numbers(tmp_path: Path) -> None:
    """Of 12 dense weights, half is 6, a quarter 3: whole, the sparse policy takes 16 / 4 = 4, shrunken 6, factored 6.

    Within a half all three fit, and the highest return counts; within a quarter only the two numbers of the shrunken factors.
    """
    unswept = {"rank": None, "compression": None, "return_lowrank": None}
    dense(tmp_path, [100.0, 100.0], sparse_bytes=96, shrunken_weights=12, **unswept)
    of_sparse = {"csr_bytes": 40, "sparse_bytes": 16, "shrunken_weights": 6}
    of_sparse |= {"shrunken_compression": 10 / 12, "shrunken_return_mean": 33.0}
    seeds(tmp_path, "l0", [80.0, 80.0], sweep=False, **of_sparse)
    none, l0 = tables.stored(groups(tmp_path)).frame.to_dict("records")
    assert (none["sparse"], none["shrunken"]) == (24, 12)
    assert (l0["sparse"], l0["shrunken"], l0["factored"]) == (4, 6, 6)
    assert (l0["within_0.5"], l0["within_0.5_note"]) == (96, "factored")
    assert (l0["within_0.25"], l0["within_0.25_note"]) == (pytest.approx(33), "shrunken and factored")
    assert none["within_0.25"] is not l0["within_0.25"]


def test_what_not_all_runs_fit_into_says_how_many_do(tmp_path: Path) -> None:
    dense(tmp_path, [100.0])
    made_up(tmp_path / "a", seed=0, raw=None, sweep=False, sparse_bytes=16, compression=None)
    made_up(tmp_path / "b", seed=1, raw=None, sweep=False, csr_bytes=96, sparse_bytes=None, compression=None)
    cells = tables.stored(groups(tmp_path)).cells
    assert cells[1]["return within 50%"] == "100.0 (sparse, 1 of 2)"


# ---------------------------------------------------------------- measures


def test_success_and_distance_are_tables_of_the_environments_that_have_them(tmp_path: Path) -> None:
    seeds(tmp_path / "reach", "a", [-10.0, -20.0], environment="surrol_ecm_reach", success_rate=0.75)
    seeds(tmp_path / "level", "a", [700.0], environment="super_mario_bros_tiles", x_pos=1200.0, flag_rate=0.5)
    surgical, mario = tables.surgical(groups(tmp_path)), tables.mario(groups(tmp_path))
    assert [row["success: IQM"] for row in surgical.cells] == ["75.0% [75.0%, 75.0%]"]
    assert [(row["x: IQM"], row["flag: mean"]) for row in mario.cells] == [("1200", "50.0%")]


def test_a_table_that_nothing_can_be_said_in_is_not_made_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    dense(tmp_path, [100.0])
    with pytest.raises(NothingToShowError, match="no run has success_rate"):
        tables.surgical(groups(tmp_path))
    monkeypatch.setattr(writer, "FIGURES", {})
    monkeypatch.setattr(sys, "argv", ["sparserl-report", str(tmp_path)])
    main()
    said = capsys.readouterr().out
    assert f"{tmp_path / 'report.html'} shows tables and figures, and why others are not made" in said
    assert "mario" not in said, "what others would like to see is not worth a line here"
    assert "table mario is not made: no run has x_pos or flag_rate" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "mario.md").exists()
    monkeypatch.setattr(sys, "argv", ["sparserl-report", str(tmp_path), "--table", "mario"])
    with pytest.raises(SystemExit, match="table mario is not made"):
        main()


def test_one_table_can_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dense(tmp_path / "runs", [100.0])
    monkeypatch.setattr(
        sys, "argv", ["sparserl-report", str(tmp_path / "runs"), "--table", "main", "--to", str(tmp_path / "to")]
    )
    main()
    assert "return: IQM" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"main.md", "main.tex", "main.csv"}


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("text", [*NASTY.values(), "~^{}_&%$#\\", "[4, 5]"], ids=[*NASTY, "special", "bracket"])
def test_latex_shows_text_as_it_is(text: str) -> None:
    written = markup.latex([{"a": text, "b_c": "1"}, {"a": "2", "b_c": text}], text, "main", [text])
    comment, *lines = written.splitlines()
    assert comment.startswith("% ")
    rows = [line for line in lines if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [1, 1, 1]
    assert not any(row.startswith("[") for row in rows), "the line break before it would take it for its own"
    for line in (*rows, lines[-3]):
        shown = re.sub(r"\\text[a-z]+\{\}|\\[{}$&%#_]|\\\\$|\\caption\{(.*)\}|^\{\}|& \{\}", r"\1", line)
        shown = re.sub(r"\\text[a-z]+\{\}|\\[{}$&%#_]", "", shown)  # of what was in the caption
        assert not re.search(r"[\\{}$%#_~^<>|\"`']", shown), shown


def test_latex_has_the_rules_of_booktabs_and_a_column_for_each_header() -> None:
    written = markup.latex([{"return": "1.0 [0.5, 1.5]", "sparsity": "90.0%"}], "What it is.", "main")
    assert written.splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"return & sparsity \\",
        r"\midrule",
        r"1.0 [0.5, 1.5] & 90.0\% \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\caption{What it is.}",
        r"\label{tab:main}",
        r"\end{table}",
    ]


# ---------------------------------------------------------------- ranks by layer


def test_ways_of_choosing_ranks_are_compared_at_equal_budgets(tmp_path: Path) -> None:
    """Of two seeds; a budget that only one of them was evaluated at says so."""
    seeds(tmp_path, "l0", [100.0, 104.0])
    for seed, first in ((0, "4"), (1, "10")):
        row = {"parameters": 90, "energy": 0.5, "episodes": 4, "form": "plain"}
        rows = [
            row | {"budget": 100, "way": "energy", "ranks": f"{first} 1 2", "return_mean": 50.0 + seed},
            row | {"budget": 100, "way": "uniform", "ranks": f"{first} 1 full", "return_mean": 40.0 + seed},
            row | {"budget": 20, "way": "uniform", "ranks": "1 1 1", "return_mean": 30.0, "form": "shrunken"},
        ]
        write_table(tmp_path / f"l0{seed}" / LAYER_RANKS, [LayerRanks(**filled(LayerRanks, its)) for its in rows[: 3 - seed]])
    table = tables.rank_selection(groups(tmp_path))
    found = table.frame.to_dict("records")
    assert [(row["form"], row["budget"], row["way"], row["n"]) for row in found] == [
        ("plain", 100, "uniform", 2), ("plain", 100, "energy", 2), ("shrunken", 20, "uniform", 1)
    ]  # fmt: skip
    assert [(row["return_mean"], row["return_iqm"]) for row in found] == [(40.5, 40.5), (50.5, 50.5), (30, 30)]
    assert [row["ranks"] for row in found] == ["4-10, 1, full", "4-10, 1, 2", "1, 1, 1"]
    assert [row["return: IQM"] for row in table.cells] == ["40.5 [40.0, 41.0]", "50.5 [50.0, 51.0]", "30.0"]


def test_without_ranks_by_layer_there_is_no_table_of_them(tmp_path: Path) -> None:
    seeds(tmp_path, "l0", [100.0])
    with pytest.raises(NothingToShowError, match=r"python -m sparserl\.select"):
        tables.rank_selection(groups(tmp_path))
