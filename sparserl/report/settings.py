"""Settings that few rows of a table have: one column for all of them, since one for each would leave no room for results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sparserl.runs.reader import NAMED

NOTHING = "-"
"""What a cell says that has nothing."""

COLUMN = "settings"


def last_words(name: str) -> str:
    """The last part of a setting's name; of a term of a penalty with the name of the term."""
    return name.rpartition(".terms.")[2] if ".terms." in name else name.split(".")[-1]


def joined(rows: Sequence[dict[str, str]], names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of text in which those settings of ``names`` that some row lacks share a column, if there are several.

    ``target_sparsity 0.95, schedule gradual``: it stands where the first of them stood. A name is told by its last words, or
    whole where another one has these too. What a reader looks for first keeps its own column.
    """
    shared = [name for name in names if name not in (*NAMED, "beta") and any(row[name] == NOTHING for row in rows)]
    if len(shared) < 2:
        return list(rows)
    return [_joined(row, shared) for row in rows]


def _joined(row: dict[str, str], shared: Sequence[str]) -> dict[str, str]:
    last = Counter(map(last_words, shared))
    words = {name: last_words(name) if last[last_words(name)] == 1 else name for name in shared}
    told = ", ".join(f"{words[name]} {row[name]}" for name in shared if row[name] != NOTHING) or NOTHING
    cells = {COLUMN if name == shared[0] else name: told if name == shared[0] else value for name, value in row.items()}
    return {name: value for name, value in cells.items() if name not in shared}
