"""Which strengths of a regulariser keep what dense policies gained, and which of them makes the most zeros."""

from __future__ import annotations

from collections.abc import Sequence

from sparserl.report.groups import Group
from sparserl.report.statistics import Estimate
from sparserl.report.table import NothingToShowError, Table, Value, of_rows
from sparserl.report.tables import INTERVALS, gained

KEEPS = 0.95
"""The share of the dense gain, in the IQM, from which on a strength is said to keep the return."""


def strengths(groups: Sequence[Group]) -> Table:
    """A row for each form, and beta where it has one, that was trained at several lambda_c beside dense policies."""
    families: dict[tuple[str, ...], list[Group]] = {}
    others = [column for column in groups[0].columns if column != "lambda_c"]
    for group in groups:
        if group.settings.get("lambda_c") is not None and gained(group, groups) is not None:
            families.setdefault((*group.task, *(repr(group.settings.get(column)) for column in others)), []).append(group)
    several = [family for family in families.values() if len({group.settings["lambda_c"] for group in family}) > 1]
    if not several:
        raise NothingToShowError("no form was trained at several lambda_c beside dense policies that learned")
    named = {column: (column, "g") for column in dict.fromkeys(("environment", "algorithm", "regularizer", *others))}
    columns = named | {
        "tried": ("lambda_c tried", ""),
        "keeps": (f"lambda_c with {KEEPS:.0%} of the dense gain", ""),
        "lambda_c": ("recommended lambda_c", "g"),
        "seeds": ("seeds", ""),
        "gained": ("gain / dense gain", ".3f"),
        "sparsity": ("sparsity", ".1%"),
        "compression": ("compression", ".1%"),
        "shrunken_compression": ("shrunken: compression", ".1%"),
    }
    rows = [{column: family[0].settings.get(column) for column in named} | _of(family, groups) for family in several]
    caption = INTERVALS + (
        "A lambda_c keeps the return where the IQM of the gain over a random policy, divided by that of dense policies, is "
        f"{KEEPS} or more. Of those the one with the most zeros, or the highest compression where the form makes none, is "
        "recommended; the other columns are of it."
    )
    cells, frame = of_rows(rows, columns)
    runs = [run for family in several for group in family for run in group.runs]
    return Table("strengths", "Strengths that keep the return", cells, frame, caption, runs)


def _of(family: Sequence[Group], groups: Sequence[Group]) -> dict[str, Value]:
    """Of one form: what was tried, what keeps the return, and the strongest of these."""
    gains: dict[Group, Estimate | None] = {group: gained(group, groups) for group in family}
    kept = [group for group, gain in gains.items() if gain is not None and gain.value >= KEEPS]
    row: dict[str, Value] = {"tried": _listed(family), "keeps": _listed(kept) if kept else "none"}
    if not kept:
        return row
    best = max(kept, key=lambda group: (group.mean("sparsity") or 0.0, group.mean("compression") or 0.0))
    means = {name: best.mean(name) for name in ("sparsity", "compression", "shrunken_compression")}
    return row | {"lambda_c": best.settings["lambda_c"], "seeds": best.how_many, "gained": gains[best]} | means


def _listed(groups: Sequence[Group]) -> str:
    return ", ".join(f"{value:g}" for value in sorted({group.settings["lambda_c"] for group in groups}))
