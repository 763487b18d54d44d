"""The open questions of the paper: where the tables in results/ answer them, and from what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from claims_by_setting import Cells, table
from claims_settings import Setting

from sparserl.report.groups import Group
from sparserl.report.strengths import KEEPS, strengths
from sparserl.report.table import NothingToShowError


def open_questions(settings: Sequence[Setting]) -> Iterator[str]:
    """The lines of the page."""
    yield from ("## Open questions of the paper", "", RANGE, "", table(ranges(settings)), "", REST)


def ranges(settings: Sequence[Setting]) -> list[Cells]:
    """A row for each form that some table has at several lambda_c, from the first table that has the form at so many."""
    groups: dict[Path, Sequence[Group]] = {setting.folder: setting.groups for setting in settings}
    found: dict[tuple[str, ...], Cells] = {}
    for folder, its in groups.items():
        try:
            made = strengths(its)
        except NothingToShowError:
            continue
        for cells in made.cells:
            row = {"table": folder.name} | cells
            key = tuple(row.get(name, "-") for name in NAMED)
            found.setdefault(key, {name: row.get(name, "-") for name in COLUMNS})
    return [*found.values()]


RANGE = f"""**The range of lambda_c and beta.** It depends on the size of the loss, so each algorithm and task has its own. Of
the lambda_c that were tried, those keep the return whose IQM of the gain over random is {KEEPS:.0%} of that of dense
policies, or more; recommended is the one of these with the most zeros. What beta does is claim 4; it is named where
several were tried."""

NAMED = "environment", "algorithm", "regularizer", "beta", "lambda_c tried"
FOUND = f"lambda_c with {KEEPS:.0%} of the dense gain", "recommended lambda_c", "seeds", "gain / dense gain", "sparsity"
COLUMNS = "table", *NAMED, *FOUND

REST = """* **L0 against L1 and L2 beyond Mario**: claim 3, by environment.
* **Low rank in continuous control**: claim 2, the rows of Pendulum and of the robots.
* **Rank selection**: here the lowest rank from which on every rank keeps 95 % of the gain, measured again on other seeds.
* **Other algorithms**: A2C, TD3 and SAC train with every regulariser. What was measured is in the tables."""
