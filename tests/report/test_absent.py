"""What a run may lack goes through everything that reads runs: a number, its ranks, the end of its rank sweep."""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from folders import NASTY, made_up, result, table, unfinished

from sparserl import status
from sparserl.config.validation import compose
from sparserl.report import figures, writer
from sparserl.report.__main__ import main
from sparserl.report.figures import catalogue, comparison, single
from sparserl.runs import reader
from sparserl.runs.files import write_json
from sparserl.runs.schema import RankRow, Result, Status
from sparserl.sweeps.jobs import result_of
from sparserl.sweeps.loop import run
from sparserl.tracking.console import print_jobs, print_results

HINTS = {name: (hint, *get_args(hint)) for name, hint in get_type_hints(Result).items()}
NUMBERS = [name for name, hints in HINTS.items() if {int, float} & {*hints}]
OPTIONAL = [name for name in NUMBERS if NoneType in HINTS[name]]
REQUIRED = [name for name in NUMBERS if name not in OPTIONAL]


@pytest.fixture(autouse=True)
def _one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others take seconds, and have tests of their own."""
    monkeypatch.setattr(writer, "FIGURES", {"comparison": catalogue.FIGURES["comparison"]})
    monkeypatch.setattr(writer, "FORMATS", (".svg",))  # of XML, which text can break


def report(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sparserl-report", str(folder)])
    main()


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def print_all(folders: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a command says at the end of runs, side by side in a folder, and everything that is asked for later.

    The picture of a run is drawn of the last one.
    """
    found = [(folder.name, its) for folder in folders if (its := result_of(folder)) is not None]
    assert len(found) == len(folders)
    print_results([its for _, its in found])
    print_jobs([(name, "done", its, "") for name, its in found])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whatever is said on stderr, nobody asked for
        assert figures.draw(folders[-1]).exists()
        report(monkeypatch, folders[-1].parent)
    assert (folders[-1].parent / "figures" / "comparison.svg").exists()
    assert [job.status for job in status.look(folders[-1].parent)] == ["done"] * len(folders)


# ---------------------------------------------------------------- numbers


def test_a_number_that_may_be_absent_is_a_dash_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deviation of one episode was null in the file, and a TypeError in every table. The last run has none of them."""
    absent = {name: [name] for name in OPTIONAL} | {"~all": OPTIONAL}
    made = [made_up(tmp_path / name, seed=seed, **dict.fromkeys(names)) for seed, (name, names) in enumerate(absent.items())]
    print_all(made, monkeypatch)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert not {"nan", "None"} & {*printed.out.split()}
    rows = {Path(row["folder"]).name: row for row in cells(tmp_path / "rows.csv")}
    present = {name: {key for key in OPTIONAL if row[key] != ""} for name, row in rows.items()}
    given = set().union(*present.values())
    assert {"lambda_c", "rank", "retention"} <= given
    assert present == {name: given - {*names} for name, names in absent.items()}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_result_without_any_other_number_is_damaged_and_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_up(tmp_path / "run", sweep=False, raw=None)
    write_json(folder / "result.json", vars(result()) | {name: None})
    sentence = f"{folder / 'result.json'} is not whole: its {name} is None"
    assert result_of(folder) is None
    report(monkeypatch, tmp_path)
    assert capsys.readouterr().err.count(sentence) == 2
    (job,) = status.look(tmp_path)
    assert (job.status, job.note) == ("damaged", sentence)


def test_one_evaluation_episode_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    settings = "trainer=smoke", "network.hidden=[8]", "logger=disk", "lowrank.ranks=[1]", "lowrank.episodes=1"
    (made,) = run([compose(*settings, "trainer.eval_episodes=1")], [tmp_path / "run"], live=False)
    print_results([made])  # at the end, when it is nan
    first = capsys.readouterr().out
    print_results([r for r in [result_of(tmp_path / "run")] if r])  # at the second start, when it is null
    assert capsys.readouterr().out == first
    assert "±" not in first
    print_all([tmp_path / "run"], monkeypatch)


# ---------------------------------------------------------------- ranks


def only_full(folder: Path) -> None:
    table(folder, RankRow, [{"rank": "full", "return_mean": 100.0, "return_std": 1.0, "episodes": 4}])


NO_RANK: dict[str, Any] = dict.fromkeys(("rank", "compression", "return_lowrank", "retention"))


def test_runs_without_ranks_are_compared_by_what_they_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``lowrank.ranks=[]``, or a network in which no rank saves anything: only the whole policy was played."""
    folder = made_up(tmp_path / "run", sweep=False, rank="full", compression=0.0, retention=1.0, return_lowrank=100.0)
    only_full(folder)
    print_all([folder], monkeypatch)
    assert capsys.readouterr().err == ""
    drawn = comparison.of_many(reader.find([tmp_path]))
    assert [axes.get_title()[:6] for axes in drawn.axes] == ["Evalua", "Return"]
    assert "Return by rank" not in [axes.get_title() for axes in single.of_run(reader.read(folder)).axes]


def test_of_runs_with_and_without_ranks_those_that_have_them_are_compared_by_rank(tmp_path: Path) -> None:
    """A seed without ranks does not take those of the other seeds out of the picture."""
    made_up(tmp_path / "a", seed=0, raw=None)
    only_full(made_up(tmp_path / "b", seed=1, raw=None, sweep=False))
    (axes,) = [
        axes for axes in comparison.of_many(reader.find([tmp_path])).axes if axes.get_title().startswith("Return by rank")
    ]
    assert list(axes.lines[0].get_xdata()) == [1.0, 2.0]


@pytest.mark.parametrize("said", ["running", "interrupted", "failed"])
def test_a_trained_run_counts_before_its_ranks_are_known(
    said: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its policy and result are there; the rank sweep is under way, or did not come to its end."""
    folder = made_up(tmp_path / "run", sweep=False, rank_reason="not_swept", csr_bytes=None, **NO_RANK)
    error = "Traceback\nValueError: in the rank sweep" if said == "failed" else None
    write_json(folder / "status.json", Status(said, 20, 20, 1, "elsewhere", error))
    assert figures.draw(folder).exists()
    report(monkeypatch, tmp_path)
    capsys.readouterr()
    (row,) = cells(tmp_path / "table.csv")
    counts = {"failed": "1", "unfinished": "0"} if said == "failed" else {"failed": "0", "unfinished": "1"}
    assert row.items() >= {"seeds": "1", "return_mean": "100", "sparsity": "0.75", **counts}.items()
    assert "learned" not in row, "nobody knows yet"
    (job,) = status.look(tmp_path)
    notes = {"running": "the ranks are evaluated", "failed": "ValueError: in the rank sweep"}
    assert (job.status, job.return_mean, job.note) == (said, 100.0, notes.get(said))


# ---------------------------------------------------------------- what goes wrong in a picture


def test_a_figure_that_fails_leaves_the_tables_and_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(tmp_path / "run")

    def fail(*_: object) -> None:
        raise ValueError("made to fail")

    monkeypatch.setattr(comparison, "of_many", fail)
    report(monkeypatch, tmp_path)
    printed = capsys.readouterr()
    assert printed.err == "warning: there is no figure comparison: ValueError: made to fail\n"
    assert {"rows.csv", "table.md", "table.tex", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert not any((tmp_path / "figures").iterdir())


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_any_text_goes_through_a_report(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the name of an option, as an error, and in the command, which is the last line of every file and figure."""
    monkeypatch.setattr("sparserl.runs.provenance.command", lambda: f"typed {text}")
    for name, named in (("a", "regularizer"), ("b", "algorithm"), ("c", "environment")):
        made_up(tmp_path / name, command=text, **{named: text})
    assert figures.draw(made_up(tmp_path / "e", command=text, regularizer=text, algorithm=text, environment=text)).exists()
    unfinished(tmp_path / "d", "failed", f"Traceback\n{text}", network=text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(monkeypatch, tmp_path)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert (tmp_path / "figures" / "comparison.svg").exists()
    written = text.encode("utf-8", "backslashreplace").decode()
    rows = {Path(row["folder"]).name: row for row in cells(tmp_path / "rows.csv")}
    assert (rows["a"]["regularizer"], rows["b"]["algorithm"], rows["d"]["network"]) == (written, written, written)
    assert rows["a"]["report_command"] == f"typed {written}"
    assert rows["d"]["error"] == written.strip().splitlines()[-1]
    header, line, *lines = [line for line in (tmp_path / "table.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    assert {len(_columns(line)) for line in (header, line, *lines)} == {len(_columns(header))}
    assert len(lines) == 5


def _columns(line: str) -> list[str]:
    """The cells of a line in Markdown: a bar after a backslash is text, and a backslash after a backslash is one."""
    text = line.replace("\\\\", "").replace("\\|", "")
    return text.split("|")


def test_the_figure_of_a_run_has_the_text_as_it_is(tmp_path: Path) -> None:
    """matplotlib takes what is between dollars for a formula, and what begins with an underscore for nothing."""
    folder = made_up(tmp_path / "run", regularizer="$\\bad{$ $", network="_x")
    assert "l, $" not in single.of_run(reader.read(folder)).get_suptitle()
    assert r"\$\bad{\$ \$" in single.of_run(reader.read(folder)).get_suptitle()
    made_up(tmp_path / "other", regularizer="_hidden", network="_x")
    named = [axes.get_legend_handles_labels()[1] for axes in comparison.of_many(reader.find([tmp_path])).axes]
    assert len(named[0]) == 2, "none is hidden"
