"""The command that chooses ranks by layer: what it leaves, what it does not do twice, and each error in one sentence."""

from __future__ import annotations

import csv
import shutil
import sys
from contextlib import closing
from pathlib import Path

import pytest
from folders import made_up, unfinished

from sparserl import load_policy, select
from sparserl.config.validation import compose
from sparserl.lowrank import selection
from sparserl.lowrank.truncation import RankAssignment
from sparserl.runs.files import LAYER_RANKS, read_policy
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import WAYS
from sparserl.sweeps.loop import run

SETTINGS = (
    *("trainer=smoke", "logger=disk", "lowrank.ranks=all", "lowrank.episodes=3", "network.hidden=[12,10]"),
    "environment.max_episode_steps=60",
)
BUDGETS = [50, 96, 156, 178]
"""Of 4-12-10-2 at 1, 2, 4 and 5: the layers break even at 2, 5 and 1, and are 48, 120 and 20 when whole."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a dense run of a few hundred steps, and one with 80 % zeros; evaluated at all ranks."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
        dense = [compose(*SETTINGS, "regularizer=none", f"seed={seed}") for seed in (0, 1)]
        run(dense, [folder / "dense0", folder / "dense1"], live=False)
        run(
            [compose(*SETTINGS, "regularizer=random", "regularizer.target_sparsity=0.8")],
            [folder / "sparse0"],
            live=False,
        )
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "runs")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sparserl-select", *map(str, arguments)])
    select.main()


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_way_is_evaluated_within_every_budget_and_uniform_is_what_the_rank_sweep_found(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, runs)
    for name in ("dense0", "dense1", "sparse0"):
        rows, sweep = lines(runs / name / LAYER_RANKS), lines(runs / name / "lowrank.csv")
        assert [(int(row["budget"]), row["way"]) for row in rows] == [(budget, way) for budget in BUDGETS for way in WAYS]
        assert all(int(row["parameters"]) <= int(row["budget"]) for row in rows)
        assert {row["episodes"] for row in rows} == {"3"}
        by_size = {row["parameters"]: row for row in sweep}
        uniform = [row for row in rows if row["way"] == "uniform"]
        for row in uniform:
            same = ("return_mean", "return_std", "episodes", "compression", "macs", "energy")
            assert {key: row[key] for key in same} == {key: by_size[row["parameters"]][key] for key in same}
        if name != "sparse0":  # of full numerical rank
            assert [row["ranks"] for row in uniform] == ["1 1 1", "2 2 full", "full 4 full", "full 5 full"]
    table = lines(runs / "rank_selection.csv")
    assert {row["way"] for row in table} == {*WAYS}
    assert {(row["regularizer"], row["seeds"], row["n"]) for row in table} == {("none", "2: 0-1", "2"), ("random", "1: 0", "1")}
    assert {row["report_command"] for row in table} == {f"sparserl-select {runs}"}
    every = lines(runs / "rank_selection_rows.csv")
    assert len(every) == 3 * len(rows)
    assert {(row["exp_name"], row["seed"]) for row in every} == {("dqn, none", "0"), ("dqn, none", "1"), ("dqn, random", "0")}
    assert "rank_selection.md" in capsys.readouterr().out


def test_what_is_done_is_not_done_again(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """New budgets, ways and forms are added, and the result is that of all at once; other episodes begin anew."""
    folder, played = runs / "dense0", []
    play = selection.Selection._play

    def counting(self: selection.Selection, form: str, cuts: list[RankAssignment], stream: str) -> object:
        found = play(self, form, cuts, stream)  # type: ignore[arg-type]
        played.append((stream, len(found)))
        return found

    monkeypatch.setattr(selection.Selection, "_play", counting)
    command(monkeypatch, runs / "dense1", "--budgets", "60,100,150")  # elsewhere, all at once
    expected = [row["ranks"] for row in lines(runs / "dense1" / LAYER_RANKS)]
    shutil.copy(runs / "dense1" / "policy.safetensors", folder)
    command(monkeypatch, folder, "--budgets", "150,60", "--ways", "return,energy")
    first = (folder / LAYER_RANKS).read_bytes()
    played.clear()
    command(monkeypatch, folder, "--budgets", "60,150", "--ways", "energy,return")
    assert (played, (folder / LAYER_RANKS).read_bytes()) == ([], first)
    command(monkeypatch, folder, "--budgets", "60,100,150")
    assert [row["ranks"] for row in lines(folder / LAYER_RANKS)] == expected

    command(monkeypatch, folder, "--budgets", "60", "--shrink")  # no unit is dead
    rows = lines(folder / LAYER_RANKS)
    assert [row["form"] for row in rows] == ["plain"] * 12 + ["shrunken"] * 4
    assert [{**row, "form": ""} for row in rows[:4]] == [{**row, "form": ""} for row in rows[12:]]

    played.clear()
    command(monkeypatch, folder, "--budgets", "60", "--ways", "uniform", "--again")
    assert played == [("evaluation", 1)]
    assert lines(folder / LAYER_RANKS) == rows
    command(monkeypatch, folder, "--budgets", "60", "--ways", "uniform", "--episodes", "2")
    # in another number of episodes, and what was not asked for stays
    again = lines(folder / LAYER_RANKS)
    assert [row["episodes"] for row in again if (row["form"], row["way"], row["budget"]) == ("plain", "uniform", "60")] == ["2"]
    assert [row for row in again if row["episodes"] != "2"] == rows[1:]


def test_what_was_chosen_before_an_interrupt_is_kept(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    by_return = selection.allocation.by_return

    def interrupted(*given: object) -> object:
        for number, found in enumerate(by_return(*given)):  # type: ignore[arg-type]
            if number == 2:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(selection.allocation, "by_return", interrupted)
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, runs / "dense0")
    assert stop.value.code == 130
    assert "the same command again goes on" in capsys.readouterr().err
    rows = lines(runs / "dense0" / LAYER_RANKS)
    assert [row["budget"] for row in rows if row["way"] == "return"] == ["156", "178"]
    assert len(rows) == 3 * 4 + 2
    monkeypatch.setattr(selection.allocation, "by_return", by_return)
    command(monkeypatch, runs / "dense0")
    command(monkeypatch, runs / "dense1")
    assert len(lines(runs / "dense0" / LAYER_RANKS)) == 16


def test_without_dead_units_more_fits(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs / "sparse0"
    command(monkeypatch, folder, "--ways", "uniform,budget")
    command(monkeypatch, folder, "--ways", "uniform,budget", "--shrink")
    rows = lines(folder / LAYER_RANKS)
    plain, shrunken = ([row for row in rows if row["form"] == form] for form in ("plain", "shrunken"))
    assert len(plain) == len(shrunken) == 8
    assert all(int(row["parameters"]) <= int(row["budget"]) for row in shrunken)
    whole = sum(
        parameter.numel() for name, parameter in load_policy(folder, shrink=True).named_parameters() if "weight" in name
    )
    assert whole < 178, "or this test sees nothing"
    assert [int(row["parameters"]) for row in shrunken if row["budget"] == "178"] == [whole] * 2
    assert [float(row["energy"]) for row in shrunken if row["budget"] == "178"] == [1.0] * 2
    assert {row["ranks"] for row in shrunken if row["budget"] == "178"} != {
        row["ranks"] for row in plain if row["budget"] == "178"
    }


def test_a_new_policy_in_the_folder_has_no_ranks_of_the_old_one(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, runs / "dense0", "--ways", "uniform")
    with closing(RunFolder(runs / "dense0", 1)) as folder:
        _, description, tensors = read_policy(runs / "dense0")
        folder.policy(tensors, description)
        assert (runs / "dense0" / LAYER_RANKS).exists(), "it is the same"
        folder.policy({name: tensor + 1 for name, tensor in tensors.items()}, description)
        assert not (runs / "dense0" / LAYER_RANKS).exists()


REFUSED: dict[str, tuple[list[str], str]] = {
    "a word": (["--budgets", "400,many"], "'400,many' is no list of numbers of 1 or more, such as 400,800"),
    "no numbers": (["--budgets", "0"], "'0' is no list of numbers of 1 or more"),
    "a way": (["--ways", "uniform,best"], "there is no way 'best'; the ways are uniform, energy, budget, return"),
    "episodes": (["--episodes", "0"], "--episodes is 0; it must be 1 or more"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED)
def test_each_error_is_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(monkeypatch, tmp_path, *arguments)
    assert sentence in capsys.readouterr().err


def test_runs_that_have_no_policy_and_budgets_that_nothing_fits_are_left_out(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished(runs / "running", "running")
    made_up(runs / "gone", raw=None)
    command(monkeypatch, runs, "--budgets", "49,50", "--ways", "uniform")
    said = capsys.readouterr().err
    assert f"{runs}/running is left out: it is running" in said
    assert f"{runs}/gone is left out: {runs}/gone/policy.safetensors does not exist" in said
    assert f"{runs}/dense0: budget 49 is left out: at rank 1 its layers store 50 numbers" in said
    assert {row["budget"] for row in lines(runs / "rank_selection.csv")} == {"50"}
    with pytest.raises(SystemExit, match="there is no finished run in"):
        command(monkeypatch, runs / "running")
