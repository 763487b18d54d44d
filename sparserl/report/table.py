"""One table in all its forms: numbers for programs, text for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import pandas as pd

from sparserl.report.settings import NOTHING
from sparserl.report.statistics import Estimate
from sparserl.runs.reader import Run

Value: TypeAlias = Estimate | float | int | str | None


class NothingToShowError(Exception):
    """Why a table or a figure is not made: the runs have nothing for it. Its text goes on after ``NAME is not made: ``."""


@dataclass(frozen=True)
class Table:
    """What is written under one name."""

    name: str
    title: str
    cells: list[dict[str, str]]
    """The rows as text by header, all with the same headers."""
    frame: pd.DataFrame
    """The same as numbers, with the ends of intervals as columns of their own."""
    caption: str
    runs: Sequence[Run]
    """What it is made of: those of its rows."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what is missing."""


def of_rows(
    rows: Sequence[Mapping[str, Value]], columns: Mapping[str, tuple[str, str]]
) -> tuple[list[dict[str, str]], pd.DataFrame]:
    """The cells and the frame of rows of values by key. ``columns`` has for each key its header and the format of its numbers.

    A column that no row has anything for is left out; a cell that has nothing is a dash.
    """
    kept = [key for key in columns if any(row.get(key) is not None for row in rows)]
    cells = [{columns[key][0]: shown(row.get(key), columns[key][1]) for key in kept} for row in rows]
    flat = [{name: value for key in kept for name, value in _flat(key, row.get(key)).items()} for row in rows]
    return cells, pd.DataFrame(flat).dropna(axis="columns", how="all").convert_dtypes()


def shown(value: Value, form: str) -> str:
    """``mean [low, high]`` of an estimate; a dash for nothing."""
    if value is None:
        return NOTHING
    if isinstance(value, Estimate):
        ends = "" if value.low is None or value.high is None else f" [{value.low:{form}}, {value.high:{form}}]"
        return f"{value.value:{form}}{ends}{f' ({value.note})' * bool(value.note)}"
    if isinstance(value, str | bool) or (isinstance(value, int) and form == "g"):  # which has six digits only
        return str(value)
    return f"{value:{form}}"


def _flat(key: str, value: Value) -> dict[str, float | int | str | None]:
    if isinstance(value, Estimate):
        told = {f"{key}_note": value.note} if value.note else {}
        return {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high, f"{key}_n": value.n} | told
    return {key: value}
