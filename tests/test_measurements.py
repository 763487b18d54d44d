"""What benches keep: rows of several commands in one file, and the table of all of them."""

from __future__ import annotations

import csv
import sys
from datetime import date
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from measurements import Measurements

MEASUREMENTS = Measurements(
    {"name": "what", "rate": "steps/s"}, ("name",), lambda row: {"rate": f"{float(row['rate']):.0f}"}, lambda row: row["name"]
)


def test_a_row_that_is_measured_again_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "first"])
    MEASUREMENTS.add(tmp_path, [{"name": "b", "rate": 1.4}, {"name": "c", "rate": 2.6}])
    monkeypatch.setattr(sys, "argv", ["bench.py", "second"])
    table = MEASUREMENTS.add(tmp_path, [{"name": "c", "rate": 5.0, "memory": 7}, {"name": "a", "rate": 3.0}])
    assert table == "| what | steps/s |\n| --- | --- |\n| a | 3 |\n| b | 1 |\n| c | 5 |\n"
    assert (tmp_path / "table.md").read_text() == table
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {row["date"] for row in rows} == {str(date.today())}
    assert [(row["name"], row["command"], row["memory"]) for row in rows] == [
        ("a", "python bench.py second", ""),
        ("b", "python bench.py first", ""),
        ("c", "python bench.py second", "7"),
    ]
