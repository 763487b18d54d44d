"""scripts/film_best.py: which run of a table is filmed, and what is said of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import made_up

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import film_best

from sparserl.runs.reader import find

DENSE = {"regularizer": "none", "lambda_c": None, "sparsity": 0.0, "return_mean": 200.0}
LOST = {"rank": None, "rank_reason": "not_learned"}


def table(root: Path, **runs: dict[str, Any]) -> None:
    """Runs in a folder, by their names."""
    for name, given in runs.items():
        made_up(root / name, **given)


def chosen(root: Path) -> str:
    return film_best.best(find([root])).folder.name


def test_of_the_runs_at_the_highest_sparsity_that_learned_the_best_is_filmed(tmp_path: Path) -> None:
    """Within a percentage point it is the same level; what is sparser has lost its task, has no ranks yet, or has failed."""
    table(
        tmp_path,
        dense=DENSE,
        less_sparse={"sparsity": 0.8, "return_mean": 150.0},
        as_sparse={"sparsity": 0.925, "return_mean": 100.0},
        sparsest={"sparsity": 0.93, "return_mean": 90.0},
        lost={"sparsity": 0.99, "return_mean": 300.0} | LOST,
        not_yet={"sparsity": 0.99, "return_mean": 300.0, "rank": None, "rank_reason": "not_swept"},
        failed={"sparsity": 0.99, "return_mean": 300.0, "status": "failed"},
    )
    assert chosen(tmp_path) == "as_sparse"


def test_where_nothing_sparse_has_learned_it_is_the_best_dense_run(tmp_path: Path) -> None:
    table(tmp_path, a=DENSE, b=DENSE | {"return_mean": 210.0}, c=DENSE | {"return_mean": 210.0}, lost={"sparsity": 0.9} | LOST)
    assert chosen(tmp_path) == "b", "of equal ones the first"


def test_returns_of_two_tasks_are_not_compared_and_where_nothing_has_learned_there_is_no_film(tmp_path: Path) -> None:
    table(tmp_path / "two", a=DENSE, b=DENSE | {"environment": "acrobot"})
    with pytest.raises(ValueError, match=r"runs of dqn-acrobot, dqn-cartpole, .* choose by --only TEXT"):
        chosen(tmp_path / "two")
    table(tmp_path / "none", lost=LOST)
    with pytest.raises(ValueError, match=r"none of 1 runs has learned"):
        chosen(tmp_path / "none")


def test_the_run_is_played_beside_its_truncated_form_and_a_page_says_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(tmp_path, cartpole=DENSE, acrobot=DENSE | {"environment": "acrobot"})
    film = tmp_path / "film.mp4"

    def played(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:] == ["-m", "sparserl.play", str(tmp_path / "acrobot"), "--beside", "--video", str(film)]
        film.write_bytes(b"a film")
        return subprocess.CompletedProcess(command, 0, "dense: episode 1: return -70.0, steps 70\n")

    monkeypatch.setattr(film_best.provenance, "commit", lambda: "abc")
    monkeypatch.setattr(film_best.subprocess, "run", played)
    monkeypatch.setattr(sys, "argv", ["film_best", str(tmp_path), "--only", "acro"])
    film_best.main()
    assert (tmp_path / "film.md").read_text().splitlines()[:5] == [
        f"* run: `{(tmp_path / 'acrobot').as_posix()}`",
        "* regularizer none, seed 0, rank 2, sparsity 0.0%, mean return 200.0",
        "* dense: episode 1: return -70.0, steps 70",
        f"* command: `film_best {tmp_path} --only acro`",
        "* commit: `abc`",
    ]
