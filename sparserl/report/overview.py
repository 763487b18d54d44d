"""The table of whatever runs there are: one row for all that differ in nothing but their seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from sparserl.report.settings import NOTHING, joined
from sparserl.report.statistics import CONFIDENCE, t_interval
from sparserl.report.table import shown
from sparserl.runs.reader import Row, Run, distinguishing, groups
from sparserl.runs.schema import MEASURES


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each group, by what distinguishes it.

    Returns are means over seeds, between the ends of their interval; sizes, compression and retention are means over the
    runs that have them. Columns that no run has anything for are left out.
    """
    columns = distinguishing(runs)
    found = [dict(zip(columns, values, strict=True)) | _summary(members) for values, members in groups(runs).items()]
    return pd.DataFrame(found).dropna(axis="columns", how="all").convert_dtypes()


def _summary(runs: Sequence[Run]) -> Row:
    done = [run for run in runs if run.counts]
    returns = [run.result["return_mean"] for run in done if run.result["return_mean"] is not None]
    low, high = t_interval(returns)

    def mean(field: str) -> float | None:
        known = [run.result[field] for run in done if run.result.get(field) is not None]
        return fmean(known) if known else None

    learned = [run.learned for run in done if run.learned is not None]
    return {
        "seeds": len(done),
        "seed_list": listed(sorted(run.seed for run in done if run.seed is not None)),
        "return_mean": mean("return_mean"),
        "return_low": low,
        "return_high": high,
        "return_random": mean("return_random"),
        **{measure: mean(measure) for measure in MEASURES},
        "sparsity": mean("sparsity"),
        "nonzero_weights": mean("nonzero_weights"),
        "policy_weights": mean("policy_weights"),
        "alive_units": mean("alive_units"),
        "shrunken_weights": mean("shrunken_weights"),
        "ranks": ranks(done, "rank"),
        "compression": mean("compression"),
        "return_lowrank": mean("return_lowrank"),
        "retention": mean("retention"),
        "shrunken_ranks": ranks(done, "shrunken_rank"),
        "shrunken_compression": mean("shrunken_compression"),
        "shrunken_return_mean": mean("shrunken_return_mean"),
        "shrunken_retention": mean("shrunken_retention"),
        "learned": sum(learned) if learned else None,
        "failed": sum(run.status == "failed" for run in runs),
        "unfinished": sum(run.status not in ("done", "failed") for run in runs),
        "with_warnings": sum(bool(run.result.get("warnings")) for run in done),
    }


def ranks(runs: Sequence[Run], field: str) -> str | None:
    """The selected ranks in increasing order."""
    known = [run.result[field] for run in runs if run.result.get(field) is not None]
    return ", ".join(map(str, sorted(known, key=lambda rank: math.inf if rank == "full" else rank))) or None


def listed(numbers: Sequence[int]) -> str:
    """``0-2, 5``: numbers in order, with those that follow each other as a range."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


# ---------------------------------------------------------------- for a reader

CAPTION = (
    "Means over seeds of the last policy, hardened and without exploration; "
    f"in brackets the {CONFIDENCE:.0%} t-interval over seeds. "
    "Rank: the selected one of each run; return at it, compression and retention: means over the runs that learned. "
    "Shrunken: without the hidden units that nothing enters or leaves."
)


def cells(summary: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of a table as text by header, all with the same headers; one that no row has anything for is left out."""
    settings = [str(column) for column in summary.columns[: summary.columns.get_indexer(["seeds"])[0]]]
    found = [_cells({k: v for k, v in row.items() if not pd.isna(v)}, settings) for row in summary.to_dict("records")]
    headers = [header for header in found[0] if any(row[header] != NOTHING for row in found)]
    return joined([{header: row[header] for header in headers} for row in found], [h for h in settings if h in headers])


def _cells(row: dict[Any, Any], settings: Sequence[str]) -> dict[str, str]:
    def cell(key: str, form: str) -> str:
        return shown(row.get(key), form)

    ends = f" [{row['return_low']:.1f}, {row['return_high']:.1f}]" if "return_low" in row else ""
    return {key: cell(key, "g") for key in settings} | {
        "seeds": f"{row['seeds']}: {row['seed_list']}" if row["seeds"] else "0",
        "return": f"{cell('return_mean', '.1f')}{ends}",
        "random": cell("return_random", ".1f"),
        "success": cell("success_rate", ".1%"),
        "x": cell("x_pos", ".0f"),
        "flag": cell("flag_rate", ".1%"),
        "sparsity": cell("sparsity", ".1%"),
        "weights left": " of ".join(format(row[key], ".0f") for key in ("nonzero_weights", "policy_weights") if key in row)
        or NOTHING,
        "rank": cell("ranks", ""),
        "return at it": cell("return_lowrank", ".1f"),
        "compression": cell("compression", ".1%"),
        "retention": cell("retention", ".1%"),
        "units alive": cell("alive_units", ".0f"),
        "shrunken: weights": cell("shrunken_weights", ".0f"),
        "shrunken: rank": cell("shrunken_ranks", ""),
        "shrunken: return at it": cell("shrunken_return_mean", ".1f"),
        "shrunken: compression": cell("shrunken_compression", ".1%"),
        "learned": f"{row['learned']} of {row['seeds']}" if "learned" in row else NOTHING,
        "failed": str(row["failed"]),
        "unfinished": str(row["unfinished"]),
        "warned": str(row["with_warnings"]),
    }
