"""``rows.csv`` in the place of the runs that it was made of."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from folders import made_up, unfinished

from sparserl.report import rows, sources, writer
from sparserl.report.__main__ import main
from sparserl.report.groups import grouped
from sparserl.runs import reader
from sparserl.runs.files import read_json, write_json

RESULTS = Path(__file__).parents[2] / "results"
COMMITTED = [path for path in sorted(RESULTS.glob("*/rows.csv")) if "return_mean" in path.read_text().split("\n", 1)[0]]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FIGURES", {})


def report(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sparserl-report", *map(str, arguments)])
    main()


def several(folder: Path) -> Path:
    """Two seeds dense, two sparse that differ in a key that is no field of a result, and one that never ended."""
    for seed in (0, 1):
        made_up(folder / f"none{seed}", regularizer="none", lambda_c=None, seed=seed, return_mean=100.0 + seed, sparsity=0.0)
        made_up(folder / f"l0{seed}", seed=seed, return_mean=90.0 + seed, config={"network": {"hidden": [3]}})
        made_up(folder / f"wide{seed}", seed=seed, rank="full", warnings=["a", "b"], config={"network": {"hidden": [4]}})
    unfinished(folder / "never", "failed", "ValueError: made to fail", seed=2, config={"network": {"hidden": [4]}})
    return folder


def numbers(path: Path) -> pd.DataFrame:
    found = pd.read_csv(path)
    return found[[column for column in found if not column.startswith("report_")]]


def test_every_table_of_results_is_the_same_from_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(monkeypatch, several(tmp_path / "runs"), "--to", tmp_path / "first")
    report(monkeypatch, tmp_path / "first" / "rows.csv", "--to", tmp_path / "second")
    for name in ("table", "main", "ranks", "rank_sweep", "stored"):
        pd.testing.assert_frame_equal(numbers(tmp_path / "first" / f"{name}.csv"), numbers(tmp_path / "second" / f"{name}.csv"))
    assert "network.hidden" in numbers(tmp_path / "second" / "main.csv")
    assert "failed, ValueError: made to fail" in (tmp_path / "second" / "table.md").read_text()


def test_a_folder_with_a_table_and_no_runs_is_read_and_its_table_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(monkeypatch, several(tmp_path / "runs"), "--to", tmp_path / "kept")
    before = (tmp_path / "kept" / "rows.csv").read_bytes()
    (tmp_path / "kept" / "main.csv").unlink()
    shutil.rmtree(tmp_path / "runs")
    report(monkeypatch, tmp_path / "kept")
    assert (tmp_path / "kept" / "main.csv").exists()
    assert (tmp_path / "kept" / "rows.csv").read_bytes() == before, "it says what its runs were reported with"


def test_runs_of_another_machine_are_taken_from_the_tables_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is named and not on this disk: from the table's own rows, else from those of another; ranks and curves too."""
    several(tmp_path / "runs")
    results = tmp_path / "results"
    report(monkeypatch, tmp_path / "runs" / "l00", "--to", results / "first")
    again = tmp_path / "runs" / "l00" / "result.json"
    write_json(again, read_json(again) | {"return_mean": 91.5})
    report(monkeypatch, tmp_path / "runs" / "none0", tmp_path / "runs" / "l00", "--to", results / "others")
    report(monkeypatch, tmp_path / "runs" / "none0", tmp_path / "runs" / "none1", "--to", results / "mine")
    names = [tmp_path / "runs" / name for name in ("none0", "none1", "l00", "l01", "wide0")]
    (results / "mine" / reader.RUNS_FILE).write_text("".join(f"{name}\n" for name in names))
    for name in ("none0", "none1", "l00", "wide0"):
        shutil.rmtree(tmp_path / "runs" / name)
    found = sources.read([results / "mine"])
    assert {run.folder.name for run in found.runs} == {"none0", "none1", "l00", "l01"}, "nobody has kept wide0"
    assert all(len(run.lowrank) == 3 and run.curve("eval/return_mean")[0] == [10, 20] for run in found.runs)
    assert [run.result["return_mean"] for run in found.runs if run.folder.name == "l00"] == [91.5], "of the last table by name"
    assert found.tables == [], "its table has not all of them, so it is written again"
    report(monkeypatch, results / "mine")
    shutil.rmtree(results / "others")
    shutil.rmtree(tmp_path / "runs")
    again = sources.read([results / "mine"])
    assert {run.folder.name for run in again.runs} == {"none0", "none1", "l00", "l01"}, "now its table has them all"


def test_a_finished_row_stays_where_its_run_has_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several(tmp_path / "runs")
    mine, later = tmp_path / "results" / "mine", tmp_path / "results" / "others"
    report(monkeypatch, tmp_path / "runs", "--to", mine)
    names = [tmp_path / "runs" / name for name in ("none0", "none1", "l00")]
    (mine / reader.RUNS_FILE).write_text("".join(f"{name}\n" for name in names))
    for path in names[1:]:
        shutil.rmtree(path)
    unfinished(names[1], "interrupted", regularizer="none", lambda_c=None, seed=1)
    report(monkeypatch, names[1], names[0], "--to", later)
    found = {run.folder: run.status for run in sources.read([mine]).runs if run.folder in names}
    assert found == dict.fromkeys(names, "done")
    assert sources.kept(tmp_path / "results")[names[1]].status == "done", "though the table of the interrupted one is the last"


def test_runs_that_a_table_no_longer_names_leave_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several(tmp_path / "runs")
    mine = tmp_path / "results" / "mine"
    report(monkeypatch, tmp_path / "runs", "--to", mine)
    (mine / reader.RUNS_FILE).write_text(f"{tmp_path / 'runs' / 'l01'}\n")
    shutil.rmtree(tmp_path / "runs")
    report(monkeypatch, mine)
    assert [Path(name).name for name in pd.read_csv(mine / "rows.csv")["folder"]] == ["l01"]
    (run,) = sources.read([mine]).runs
    assert [row["return_mean"] for row in run.lowrank] == [40.0, 96.0, 91.0], "its own ranks, though it stands elsewhere"


def test_ranks_of_an_earlier_table_do_not_stay_beside_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(monkeypatch, made_up(tmp_path / "swept"), "--to", tmp_path / "kept")
    report(monkeypatch, made_up(tmp_path / "not", sweep=False, rank_reason="not_swept"), "--to", tmp_path / "kept")
    (run,) = sources.read([tmp_path / "kept" / "rows.csv"]).runs
    assert run.lowrank == []


def test_a_setting_is_one_whether_its_runs_are_in_a_folder_or_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs of the table differ in ``proximal``, which it states, and those of folders do not."""
    for seed, proximal in ((0, True), (1, True), (0, False)):
        made_up(tmp_path / "first" / f"{seed}{proximal}", seed=seed, config={"proximal": proximal})
    report(monkeypatch, tmp_path / "first", "--to", tmp_path / "kept")
    for seed in (2, 3):
        made_up(tmp_path / "second" / f"{seed}", seed=seed, config={"proximal": True})
    groups = grouped(sources.read([tmp_path / "second", tmp_path / "kept"]).runs)
    assert sorted(sorted(run.seed or 0 for run in group.done) for group in groups) == [[0], [0, 1, 2, 3]]


def test_runs_of_one_setting_are_one_group_whether_or_not_they_were_to_be_compiled(tmp_path: Path) -> None:
    for seed, compiles in enumerate((False, "auto", True)):
        made_up(tmp_path / str(seed), seed=seed, config={"trainer": {"total_steps": 20, "compile": compiles}})
    assert reader.distinguishing(reader.find([tmp_path])) == []


def test_runs_that_are_still_there_come_before_the_table_beside_them(tmp_path: Path) -> None:
    several(tmp_path)
    shutil.copy(COMMITTED[0], tmp_path / "rows.csv")
    found = sources.read([tmp_path])
    assert len(found.runs) == 7
    assert found.tables == []


def test_a_run_of_a_folder_and_of_a_table_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(monkeypatch, several(tmp_path / "runs"), "--to", tmp_path / "kept")
    kept, repeats = reader.without_repeats(sources.read([tmp_path / "runs", tmp_path / "kept"]).runs)
    assert len(repeats) == 6
    assert sorted(len(group.done) for group in grouped(kept)) == [2, 2, 2]


def test_experiments_of_other_lengths_are_not_taken_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither table has a column for what none of its own runs differ in."""
    for steps in (100, 200):
        made_up(tmp_path / f"{steps}" / "run", env_steps=steps, return_mean=float(steps))
        report(monkeypatch, tmp_path / f"{steps}")
        shutil.rmtree(tmp_path / f"{steps}" / "run")
    groups = grouped(sources.read([tmp_path / "100", tmp_path / "200"]).runs)
    assert [group.mean("return_mean") for group in groups] == [100, 200]


def test_results_of_versions_that_knew_less_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both as a result.json and as a line of a table: the cell is empty."""
    later = "x_pos", "alive_units", "shrunken_weights", "shrunken_rank", "shrunken_compression", "shrunken_return_mean"
    path = made_up(tmp_path / "run") / "result.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key not in later})
    table = pd.read_csv(path.parent / "lowrank.csv")
    table.drop(columns=[column for column in table if column.startswith("shrunken")]).to_csv(
        path.parent / "lowrank.csv", index=False
    )
    (run,) = reader.find([tmp_path])
    assert (run.problems, run.status, run.result["alive_units"]) == ([], "done", None)
    assert [row["return_mean"] for row in run.lowrank] == [40, 96, 100]
    report(monkeypatch, tmp_path)
    written = pd.read_csv(tmp_path / "rows.csv")
    written.drop(columns=[*later]).to_csv(tmp_path / "older.csv", index=False)
    (read,) = rows.read_rows(tmp_path / "older.csv")
    assert {key: value for key, value in read.result.items() if key != "status"} == {
        key: value for key, value in run.result.items() if key != "status"
    }


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_rows_in_the_repository_can_be_reported(path: Path) -> None:
    runs = rows.read_rows(path)
    counted = [run for run in runs if run.counts]
    assert counted
    assert all(run.seed is not None and run.settings["algorithm"] for run in counted)
    tables, _ = writer.make_tables(grouped(runs), runs, "title", ("table", "main"))
    assert [table.name for table in tables] == ["table", "main"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\n1,2\n", f"is not a table of runs: it has no {', '.join(rows.NEEDED)}"),
        (
            "algorithm,environment,regularizer,seed,return_mean,env_steps\ndqn,c,l0,zero,1,2\n",
            "is not whole: its seed is 'zero'",
        ),
    ],
)
def test_a_table_that_is_none_is_named(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(SystemExit, match="there is no run in"):
        report(monkeypatch, tmp_path / "rows.csv")
    assert f"{tmp_path / 'rows.csv'} {problem}" in capsys.readouterr().err


def test_ranks_that_are_not_whole_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(monkeypatch, several(tmp_path / "runs"), "--to", tmp_path / "kept")
    for name, problem in (("by_rank", "it has no rank"), ("by_step", "KeyError: 'row'")):
        path = tmp_path / "kept" / f"rows_{name}.csv"
        whole = path.read_text()
        path.write_text("a,b\n1,2\n")
        found = sources.read([tmp_path / "kept"])
        assert found.runs == []
        assert problem in found.problems[0]
        path.write_text(whole)
    assert len(sources.read([tmp_path / "kept"]).runs) == 7
