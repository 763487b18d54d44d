"""Settings that few rows of a table have: one column for all of them, since one for each would leave no room for results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sparserl.runs.reader import NAMED

NOTHING = "-"
"""What a cell says that has nothing."""

COLUMN = "settings"


def short(name: str) -> str:
    """A setting's name without that of its group; of a term of a penalty from the name of the term on."""
    return name.rpartition(".terms.")[2] if ".terms." in name else name.partition(".")[2] or name


def joined(rows: Sequence[dict[str, str]], names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of text in which those settings of ``names`` that some row lacks share a column, if there are several.

    ``target_sparsity 0.95, schedule gradual``: it stands where the first of them stood. A name is told without its
    group, or whole where another one would be told so too. What a reader looks for first keeps its own column.
    """
    shared = [name for name in names if name not in (*NAMED, "beta") and any(row[name] == NOTHING for row in rows)]
    if len(shared) < 2:
        return list(rows)
    return [_joined(row, shared) for row in rows]


def _joined(row: dict[str, str], shared: Sequence[str]) -> dict[str, str]:
    times = Counter(map(short, shared))
    words = {name: short(name) if times[short(name)] == 1 else name for name in shared}
    told = ", ".join(f"{words[name]} {row[name]}" for name in shared if row[name] != NOTHING) or NOTHING
    cells = {COLUMN if name == shared[0] else name: told if name == shared[0] else value for name, value in row.items()}
    return {name: value for name, value in cells.items() if name not in shared}
