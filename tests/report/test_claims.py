"""Answers to the paper's claims, from tables whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import answer_claims as claims

from sparserl.report.statistics import Estimate


def runs(folder: Path, **forms: tuple[list[float], float, float]) -> Path:
    """A table of one environment: for each regulariser the returns, the sparsity and the compression of its runs."""
    folder.mkdir()
    rows = [
        {
            "folder": f"{form}-{seed}",
            "status": "done",
            "counted": True,
            "learned": True,
            "seed": seed,
            "algorithm": "dqn",
            "environment": "cartpole",
            "regularizer": form,
            "env_steps": 100,
            "return_mean": value,
            "return_random": 20.0,
            "sparsity": sparsity,
            "policy_weights": 1000,
            "rank": 3,
            "compression": compression,
        }
        for form, (returns, sparsity, compression) in forms.items()
        for seed, value in enumerate(returns)
    ]
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    return folder


def answers(folder: Path, part: object) -> list[list[str]]:
    """The cells of the rows that a part of the page has."""
    text = "\n".join(part({folder: claims._groups(folder)}))  # type: ignore[operator]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")][2:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Dense policies gain 80 of 100; l0 keeps all of it, l1 a half, and l2 is now above and now below."""
    return runs(
        tmp_path / "known",
        none=([100.0] * 8, 0.0, 0.5),
        l0=([100.0] * 8, 0.9, 0.4),
        l1=([60.0] * 8, 0.5, 0.7),
        l2=([20.0, 100.0] * 4, 0.1, 0.5),
    )


def test_what_is_kept_of_the_gain_decides_whether_return_was_lost(folder: Path) -> None:
    told = {row[3]: (row[5], row[-2], row[-1]) for row in answers(folder, claims.without_loss)}
    assert told["l0"] == ("90.0%", "1.000 [1.000, 1.000]", "held")
    assert told["l1"] == ("50.0%", "0.500 [0.500, 0.500]", "did not hold")
    assert told["l2"][2] == "not decided"


def test_the_rank_is_lower_where_more_is_saved_than_of_dense_policies(folder: Path) -> None:
    told = {row[3]: row[5:8] for row in answers(folder, claims.lower_rank)}
    assert told["l0"] == ["40.0%", "-10.0% [-10.0%, -10.0%]", "did not hold"]
    assert told["l1"] == ["70.0%", "20.0% [20.0%, 20.0%]", "held"]


def test_l0_has_to_be_better_in_both_and_so_has_the_other(folder: Path) -> None:
    assert answers(folder, claims.beats) == [["known", "cartpole", "dqn", "2", "2", "0"]]


def test_a_table_without_dense_policies_has_no_answers(tmp_path: Path) -> None:
    alone = runs(tmp_path / "alone", l0=([100.0] * 8, 0.9, 0.4))
    assert answers(alone, claims.without_loss) == []
    assert "Nothing in results/" in "\n".join(claims.without_loss({alone: claims._groups(alone)}))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.95, 1.2, "held"), (0.5, 0.94, "did not hold"), (0.5, 1.2, "not decided"), (None, None, "not decided: too few runs")],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(low: float | None, high: float | None, said: str) -> None:
    assert claims.verdict(Estimate(1.0, low, high, 8), 0.95) == said


def test_the_page_is_made_of_all_tables_in_results(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    folder.rename(results / "known")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["answer_claims.py"])
    claims.main()
    page = (results / "claims.md").read_text()
    assert "| known | cartpole | dqn | l0 | 8: 0-7 |" in page
    assert "90.0%" in page
