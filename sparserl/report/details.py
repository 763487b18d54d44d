"""What is kept of runs beside ``rows.csv``: their ranks and their evaluations, without which a table has results only.

The first column of both files is ``row``: the place of the run in rows.csv, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sparserl.report.exports import EVALUATIONS
from sparserl.runs import reader
from sparserl.runs.files import write_text
from sparserl.runs.reader import Row, Run
from sparserl.runs.schema import RankRow

BY_RANK = "_by_rank.csv"
"""What the name of a table ends with, each line of the runs' lowrank.csv: rows_by_rank.csv."""
BY_STEP = "_by_step.csv"
"""The same of what is exported of metrics.jsonl, at the steps of evaluations."""

DIGITS = "%.9g"
"""More than a float32 has."""


def write(runs: Sequence[Run], table: Path) -> list[str]:
    """Both files beside a table of these runs, if any has something for them; returns their names."""
    ranks = [
        {"row": place, **row, "rank": int(row["rank"]) if math.isfinite(row["rank"]) else "full"}
        for place, run in enumerate(runs)
        for row in run.lowrank
    ]
    steps = [
        {"row": place, "env_step": row["env_step"]} | {key: row.get(key) for key in EVALUATIONS}
        for place, run in enumerate(runs)
        for row in run.metrics
        if row.get(EVALUATIONS[0]) is not None
    ]
    written = {_beside(table, ending): lines for ending, lines in ((BY_RANK, ranks), (BY_STEP, steps)) if lines}
    for ending in (BY_RANK, BY_STEP):
        _beside(table, ending).unlink(missing_ok=True)  # an earlier table's, of other runs at the same places
    for path, lines in written.items():
        write_text(path, pd.DataFrame(lines).convert_dtypes().to_csv(index=False, float_format=DIGITS))
    return [path.name for path in written]


def _beside(table: Path, ending: str) -> Path:
    return table.with_name(f"{table.stem}{ending}")


def read(table: Path) -> tuple[dict[int, list[Row]], dict[int, list[Row]]]:
    """The ranks and the evaluations of the runs of a table, by their places in it; empty where they are not kept.

    Raises ValueError where a file is not whole.
    """
    ranks, steps = _beside(table, BY_RANK), _beside(table, BY_STEP)
    by_rank = _by_place(reader.table(RankRow, ranks)) if ranks.exists() else {}
    try:
        lines = pd.read_csv(steps).to_dict("records") if steps.exists() else []
        by_step = _by_place([{str(key): value for key, value in line.items() if not _is_nan(value)} for line in lines])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{steps} is not whole: {type(error).__name__}: {error}") from error
    return by_rank, by_step


def _by_place(lines: Sequence[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for line in lines:
        found.setdefault(int(line.pop("row")), []).append(line)
    return found


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
