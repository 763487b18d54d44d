from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from folders import made_up, unfinished

from sparserl.report import markup, overview, statistics, writer
from sparserl.report.__main__ import main
from sparserl.runs import provenance, reader
from sparserl.runs.files import read_json, write_json
from sparserl.runs.schema import Status


def report(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sparserl-report", *map(str, arguments)])
    main()


@pytest.fixture(autouse=True)
def _nothing_to_draw(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds, and have tests of their own."""
    kept = ("comparison",) if "every_file" in request.node.name else ()
    monkeypatch.setattr(writer, "FIGURES", {name: writer.FIGURES[name] for name in kept})


def table(folder: Path) -> pd.DataFrame:
    return overview.table(reader.find([folder]))


# ---------------------------------------------------------------- the interval


def test_the_interval_is_the_one_of_a_worked_example() -> None:
    """Of 1, 2, 3, 4, 5: mean 3, deviation sqrt(2.5), t of 0.975 with 4 degrees of freedom 2.7764 (any table of t).

    So 3 -+ 2.7764 * sqrt(2.5) / sqrt(5) = 3 -+ 1.9633.
    """
    assert statistics.t_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((1.0367, 4.9633), abs=1e-4)


def test_two_values_have_the_widest_interval_and_one_has_none() -> None:
    # 12.706 is t for one degree of freedom; the standard error of 0 and 2 is sqrt(2) / sqrt(2)
    assert statistics.t_interval([0.0, 2.0]) == pytest.approx((1 - 12.706, 1 + 12.706), abs=1e-3)
    assert statistics.t_interval([7.0]) == statistics.t_interval([]) == (None, None)


# ---------------------------------------------------------------- groups


def test_runs_that_differ_in_their_seed_only_are_one_row(tmp_path: Path) -> None:
    for seed, score in ((0, 90.0), (1, 100.0), (2, 110.0), (5, 100.0)):
        made_up(tmp_path / f"{seed}", seed=seed, return_mean=score, nonzero_weights=seed)
    (row,) = table(tmp_path).to_dict("records")
    assert (row["seeds"], row["seed_list"]) == (4, "0-2, 5")
    assert row["return_mean"] == 100.0
    # deviation sqrt(200 / 3), t of 0.975 with 3 degrees of freedom 3.1824
    assert row["return_high"] - 100 == pytest.approx(3.1824 * (200 / 3 / 4) ** 0.5, rel=1e-4)
    assert row["nonzero_weights"] == 2.0
    assert not {"algorithm", "regularizer", "lambda_c", "seed"} & set(row), "nothing differs that would need a column"


def test_a_job_that_is_the_same_run_as_another_is_no_run(tmp_path: Path) -> None:
    made_up(tmp_path / "a")
    (tmp_path / "a-again").mkdir()
    write_json(tmp_path / "a-again/status.json", Status("duplicate", 0, 20, 1, "host", of="a"))
    (run,) = reader.find([tmp_path])
    assert run.folder == tmp_path / "a"


def test_only_what_differs_is_a_column(tmp_path: Path) -> None:
    made_up(tmp_path / "a", lambda_c=10.0)
    made_up(tmp_path / "b", lambda_c=9.0)
    made_up(tmp_path / "c", regularizer="none", lambda_c=None, beta=None)
    found = table(tmp_path)
    assert [*found.columns[:3]] == ["regularizer", "lambda_c", "seeds"]  # beta follows from the regulariser
    assert found["lambda_c"].tolist()[:2] == [9, 10], "as numbers, not as words"
    assert found["regularizer"].tolist() == ["l0", "l0", "none"]


@pytest.mark.parametrize(
    ("config", "column"),
    [
        ({"regularizer": {"lambda_c": 60.0, "beta": 0.25, "reduction": "mean"}}, "beta"),
        ({"regularizer": {"lambda_c": 60.0, "beta": 0.5, "reduction": "sum"}}, "reduction"),
        ({"trainer": {"total_steps": 7}}, "trainer.total_steps"),
        ({"network": {"hidden": [3, 4]}}, "network.hidden"),
    ],
)
def test_any_other_key_that_tells_runs_apart_is_a_column(tmp_path: Path, config: dict[str, object], column: str) -> None:
    made_up(tmp_path / "a")
    made_up(tmp_path / "b", config=config)
    found = table(tmp_path)
    assert [*found.columns[:2]] == [column, "seeds"]
    assert found["seeds"].tolist() == [1, 1]


def test_runs_that_each_start_from_the_policy_of_their_own_seed_are_one_row(tmp_path: Path) -> None:
    constant = {"epsilon": {"_target_": "sparserl.schedules.Constant", "value": 0.1}}
    for seed in (0, 1):
        made_up(tmp_path / f"fresh{seed}", seed=seed)
        from_dense = {"init_from": f"outputs/mine/dqn-none-seed{seed}-*", "algorithm": constant}
        made_up(tmp_path / f"started{seed}", seed=seed, config=from_dense)
    found = table(tmp_path)
    assert [*found.columns[:2]] == ["init_from", "seeds"]
    assert found["seeds"].tolist() == [2, 2]
    assert "outputs/mine/dqn-none-seed*-*" in found["init_from"].tolist()


def test_where_a_run_is_kept_and_who_hears_of_it_tells_no_runs_apart(tmp_path: Path) -> None:
    made_up(tmp_path / "a")
    made_up(tmp_path / "b", seed=1, config={"sweep_name": "other", "objective": "sparsity", "logger": {"mode": "offline"}})
    assert table(tmp_path)["seeds"].tolist() == [2]


def test_a_seed_counts_once_however_often_it_was_run(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    old, new = made_up(tmp_path / "b", return_mean=1.0), made_up(tmp_path / "a", return_mean=2.0)
    os.utime(old / "result.json", ns=(0, 0))
    report(monkeypatch, tmp_path)
    assert f"{old} is left out: {new} is the same run, and newer" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "table.csv")["return_mean"].tolist() == [2.0]
    assert pd.read_csv(tmp_path / "rows.csv")["counted"].tolist() == [True, False]


# ---------------------------------------------------------------- what a row says


def test_a_row_says_what_was_learned_kept_and_saved(tmp_path: Path) -> None:
    made_up(tmp_path / "a", seed=0, rank=3, compression=0.4, retention=0.98, return_lowrank=98.0, warnings=["a warning"])
    made_up(tmp_path / "b", seed=1, rank="full", compression=0.0, retention=1.0, return_lowrank=102.0)
    nothing = {"rank": None, "compression": None, "retention": None, "return_lowrank": None}
    made_up(tmp_path / "c", seed=2, rank_reason="not_learned", **nothing)
    (row,) = table(tmp_path).to_dict("records")
    assert (row["learned"], row["with_warnings"], row["ranks"]) == (2, 1, "3, full")
    # of the two that learned
    assert (row["compression"], row["retention"], row["return_lowrank"]) == (pytest.approx(0.2), pytest.approx(0.99), 100)


def test_the_share_of_successes_is_a_column_where_some_run_has_one(tmp_path: Path) -> None:
    made_up(tmp_path / "a", environment="cartpole")
    assert "success_rate" not in table(tmp_path)
    assert "success" not in overview.cells(table(tmp_path))[0]
    made_up(tmp_path / "b", seed=0, environment="fetch_reach", success_rate=0.5)
    made_up(tmp_path / "c", seed=1, environment="fetch_reach", success_rate=1.0)
    assert [row["success"] for row in overview.cells(table(tmp_path))] == ["-", "75.0%"]


def test_runs_without_a_result_are_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    made_up(tmp_path / "good", seed=0, return_mean=100.0)
    unfinished(tmp_path / "bad", "failed", "Traceback\n  line\nValueError: made to fail", seed=1)
    unfinished(tmp_path / "slow", "running", seed=2)
    unfinished(tmp_path / "lost", "done", seed=3)
    unfinished(tmp_path / "other", "failed", "ValueError: made to fail", seed=4, lambda_c=7.0)
    report(monkeypatch, tmp_path)
    found = pd.read_csv(tmp_path / "table.csv")
    assert found["lambda_c"].tolist() == [7.0, 60.0]
    assert (found["seeds"].tolist(), found["failed"].tolist(), found["unfinished"].tolist()) == ([0, 1], [1, 1], [0, 2])
    assert found["return_mean"].tolist()[1] == 100.0
    printed, written = capsys.readouterr().out, (tmp_path / "table.md").read_text()
    for text in (printed, written):
        assert f"{tmp_path / 'bad'}: failed at step 7 of 20, ValueError: made to fail" in text
        assert f"{tmp_path / 'slow'}: running at step 7 of 20" in text
        assert f"{tmp_path / 'lost'}: no result" in text
    rows = pd.read_csv(tmp_path / "rows.csv").set_index("seed")
    assert rows["status"].to_dict() == {0: "done", 1: "failed", 2: "running", 3: "no result", 4: "failed"}
    assert rows["algorithm"].tolist() == ["dqn"] * 5


def test_a_frozen_run_has_a_result_that_is_listed_and_counts_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it is newer than one of the same seed that ended well; and its return may be no number."""
    made_up(tmp_path / "good", seed=0, return_mean=100.0)
    made_up(tmp_path / "other", seed=1, return_mean=110.0)
    error = "the loss of policy is not finite: frozen at its last finite weights from step 7 on"
    for name, score in (("frozen", 3.0), ("null", None)):
        folder = made_up(tmp_path / name, seed=0, return_mean=3.0, status="failed")
        write_json(folder / "result.json", read_json(folder / "result.json") | {"return_mean": score})
        write_json(folder / "status.json", Status("failed", 20, 20, 1, "host", error))
    report(monkeypatch, tmp_path)
    printed = capsys.readouterr()
    assert printed.err == ""
    (row,) = pd.read_csv(tmp_path / "table.csv").to_dict("records")
    assert (row["return_mean"], row["seed_list"], row["failed"], row["unfinished"]) == (105.0, "0-1", 2, 0)
    for text in (printed.out, (tmp_path / "table.md").read_text()):
        for name in ("frozen", "null"):
            assert f"{tmp_path / name}: failed at step 20 of 20, {error}" in text
    rows = pd.read_csv(tmp_path / "rows.csv").set_index("return_mean")
    assert (rows.loc[3.0, "status"], rows.loc[3.0, "error"]) == ("failed", error)


@pytest.mark.parametrize("content", ["", '{"algorithm": "dq', "[]", "{}", '{"algorithm": "dqn", "return_mean": null}'])
def test_a_damaged_result_is_one_line_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    made_up(tmp_path / "good", seed=0)
    damaged = made_up(tmp_path / "damaged", seed=1) / "result.json"
    damaged.write_text(content)
    report(monkeypatch, tmp_path)
    (told,) = capsys.readouterr().err.splitlines()
    assert str(damaged) in told
    found = pd.read_csv(tmp_path / "table.csv")
    assert (found["seeds"].tolist(), found["unfinished"].tolist()) == ([1], [1])


def test_results_are_found_without_a_config(tmp_path: Path) -> None:
    for seed in (0, 1):
        (made_up(tmp_path / "deep" / "down" / str(seed), seed=seed) / "config.json").unlink()
    assert table(tmp_path)["seed_list"].tolist() == ["0-1"]


def test_a_folder_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    made_up(tmp_path / "a" / "run")
    assert len(reader.find([tmp_path, tmp_path / "a", tmp_path / "a" / "run"])) == 1


# ---------------------------------------------------------------- what is written


def test_every_file_says_what_it_was_made_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(tmp_path / "runs" / "a")
    report(monkeypatch, tmp_path / "runs", "--to", tmp_path / "new" / "place")
    place = tmp_path / "new" / "place"
    named = {
        f"{name}{ending}" for name in ("table", "main", "ranks", "rank_sweep", "stored") for ending in (".md", ".tex", ".csv")
    }
    exports = {"rows.csv", "rows_by_rank.csv", "rows_by_step.csv", "long.csv", "marl_eval.json", "report.html"}
    assert {path.name for path in place.iterdir()} == named | exports | {"figures"}
    assert {path.name for path in (place / "figures").iterdir()} == {"comparison.png", "comparison.svg"}
    typed = f"sparserl-report {tmp_path / 'runs'} --to {place}"
    for name in ("rows.csv", "table.csv", "main.csv"):
        (row,) = pd.read_csv(place / name).to_dict("records")
        assert row["report_command"] == typed
        assert all(f"{package} " in row["report_versions"] for package in ("sparserl", "pandas", "scipy"))
        assert "report_commit" in row
    for name in ("table.md", "main.md", "main.tex"):
        written = (place / name).read_text()
        assert typed in written
        assert "1 run: " in written, "the command, commit and versions of the runs"
    assert "95% t-interval" in (place / "table.md").read_text()


def test_a_package_is_named_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/sparserl/report/__main__.py", "a folder"])
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=SimpleNamespace(name="sparserl.report.__main__")))
    assert provenance.command() == "python -m sparserl.report 'a folder'"


def test_rows_have_every_field_of_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made_up(tmp_path / "a", warnings=["one", "two"])
    report(monkeypatch, folder)
    (row,) = pd.read_csv(folder / "rows.csv").to_dict("records")
    assert set(row) >= set(reader.read(folder).result)
    assert (row["warnings"], row["command"], row["nonzero_weights"]) == ("one; two", "typed", 3)


def test_the_table_for_a_readme_has_a_cell_for_each_header(tmp_path: Path) -> None:
    made_up(tmp_path / "a", seed=0)
    made_up(tmp_path / "b", seed=1, return_mean=110.0)
    made_up(tmp_path / "c", regularizer="none", lambda_c=None)
    header, line, *rows = markup.markdown(overview.cells(table(tmp_path))).splitlines()
    assert len({text.count("|") for text in (header, line, *rows)}) == 1
    assert "| 2: 0-1 | 105.0 [41.5, 168.5] |" in rows[0]  # 105 -+ 12.706 * 5
    assert "| 1: 0 | 100.0 |" in rows[1]


def test_where_there_is_no_run_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="there is no run in"):
        report(monkeypatch, tmp_path / "nowhere")
    assert "is neither a folder nor a table of runs" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="cannot be used"):
        report(monkeypatch, tmp_path, "--to", tmp_path / "file")
