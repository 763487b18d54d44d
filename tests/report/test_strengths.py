"""Which lambda_c is recommended, of made-up runs: dense policies have 100, random ones 20, so 95 % of the gain is 96."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import made_up

from sparserl.report.groups import grouped
from sparserl.report.strengths import strengths
from sparserl.report.table import NothingToShowError
from sparserl.runs import reader


def trained(folder: Path, regularizer: str, lambda_c: float | None, score: float, sparsity: float) -> None:
    for seed in (0, 1):
        path = folder / f"{regularizer}{lambda_c}{seed}"
        given = {"regularizer": regularizer, "lambda_c": lambda_c, "return_mean": score, "sparsity": sparsity}
        made_up(path, seed=seed, raw=None, **given, **({"beta": None} if regularizer == "none" else {}))


def test_the_strongest_that_keeps_the_return_is_recommended(tmp_path: Path) -> None:
    trained(tmp_path, "none", None, 100.0, 0.0)
    for lambda_c, score, sparsity in ((1.0, 100.0, 0.5), (10.0, 96.0, 0.9), (100.0, 95.0, 0.99)):
        trained(tmp_path, "l0", lambda_c, score, sparsity)
    trained(tmp_path, "l1", 1.0, 100.0, 0.1)  # at one strength only
    (row,) = strengths(grouped(reader.find([tmp_path]))).frame.to_dict("records")
    assert (row["regularizer"], row["tried"], row["keeps"]) == ("l0", "1, 10, 100", "1, 10")
    assert (row["lambda_c"], row["sparsity"]) == (10, 0.9)
    assert row["gained"] == pytest.approx(76 / 80)


def test_where_none_keeps_the_return_none_is_recommended(tmp_path: Path) -> None:
    trained(tmp_path, "none", None, 100.0, 0.0)
    for lambda_c in (1.0, 10.0):
        trained(tmp_path, "l0", lambda_c, 50.0, 0.9)
    (cells,) = strengths(grouped(reader.find([tmp_path]))).cells
    assert cells["lambda_c with 95% of the dense gain"] == "none"
    assert "recommended lambda_c" not in cells


def test_without_dense_policies_or_several_strengths_there_is_no_table(tmp_path: Path) -> None:
    trained(tmp_path, "l0", 1.0, 100.0, 0.5)
    trained(tmp_path, "l0", 10.0, 100.0, 0.5)
    with pytest.raises(NothingToShowError, match="beside dense policies"):
        strengths(grouped(reader.find([tmp_path])))
