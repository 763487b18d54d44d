"""The paper's claims, answered from the tables in results/: what held, what did not, and what nothing here decides.

Writes results/claims.md.

    python scripts/answer_claims.py                    # from every table of runs below results/
    python scripts/answer_claims.py results/sparsity   # from some
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sparserl.report import sources
from sparserl.report.groups import DENSE, Group, by_task, grouped, reference
from sparserl.report.markup import markdown
from sparserl.report.statistics import CONFIDENCE, Estimate, Scores, estimate, pooled_mean
from sparserl.report.table import shown
from sparserl.report.tables import gained, scores_of
from sparserl.runs import reader
from sparserl.runs.files import write_text

RESULTS = Path("results")
NO_LOSS = 0.95
"""The share of what dense policies gained over random ones that has to be kept for a return to count as not lost."""

MARIO = "super_mario_bros"
SURGICAL = "surrol"

Groups = Sequence[Group]


def main() -> None:
    """Write results/claims.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders with a rows.csv; by default all below results/")
    folders = parser.parse_args().folders or sorted(path.parent for path in RESULTS.glob("*/rows.csv"))
    found = {folder: groups for folder in folders if (groups := _groups(folder))}
    text = "\n".join([INTRODUCTION, *(line for part in PARTS for line in (*part(found), "")), LEFT_OPEN])
    write_text(RESULTS / "claims.md", text)


def _groups(folder: Path) -> list[Group]:
    """The settings of one table; each table is answered by itself, since its dense policies are those of its own settings."""
    kept, _ = reader.without_repeats(sources.read([folder]).runs)
    return [group for group in grouped(kept) if group.done] if kept else []


def verdict(found: Estimate | None, line: float) -> str:
    """Whether an interval is above a line, below it, or on both sides of it."""
    if found is None or found.low is None or found.high is None:
        return "not decided: too few runs"
    return "held" if found.low >= line else "did not hold" if found.high < line else "not decided"


def difference(first: Scores, second: Scores) -> Estimate | None:
    """How much higher the mean of the first is."""
    return estimate([first, second], lambda tasks: pooled_mean(tasks[:1]) - pooled_mean(tasks[1:]))


def named(group: Group, folder: Path) -> dict[str, str]:
    """The cells that every row begins with."""
    environment, algorithm = group.task
    strength = {"form": group.label if group.label != group.task[1] else group.form}
    return {"table": folder.name, "environment": environment, "algorithm": algorithm} | strength | {"seeds": group.how_many}


def sparse(groups: Groups) -> list[Group]:
    """The settings that have dense policies to be compared with."""
    return [group for group in groups if group.settings["regularizer"] != DENSE and reference(group, groups)]


Found = dict[Path, list[Group]]


def rows(found: Found, line: Callable[[Group, Groups], dict[str, str] | None]) -> list[dict[str, str]]:
    """A row for each setting that ``line`` says something of."""
    settings = [(folder, group, groups) for folder, groups in found.items() for group in sparse(groups)]
    return [named(group, folder) | told for folder, group, groups in settings if (told := line(group, groups))]


def table(lines: list[dict[str, str]]) -> str:
    """The rows, or a sentence where there are none."""
    return markdown(lines) if lines else "Nothing in results/ says anything of it yet."


# ---------------------------------------------------------------- claim by claim


def without_loss(found: Found) -> Iterator[str]:
    """Claim 1."""

    def line(group: Group, groups: Groups) -> dict[str, str]:
        kept, sparsity = gained(group, groups), group.mean("sparsity")
        return {"sparsity": shown(sparsity, ".1%"), "gain / dense gain": shown(kept, ".3f"), "no loss": verdict(kept, NO_LOSS)}

    yield "## 1. Policies become sparse in training without loss of return"
    yield ""
    yield f"Held where the interval of the IQM of the gain over random, divided by that of dense policies, is at {NO_LOSS} or"
    yield "above."
    yield ""
    yield table(rows(found, line))


def lower_rank(found: Found) -> Iterator[str]:
    """Claim 2."""

    def line(group: Group, groups: Groups) -> dict[str, str] | None:
        dense = reference(group, groups)
        if not len(group.scores("compression")) or not len(scores_of(dense, "compression")):
            return None
        told = {}
        for said, field in (("SVD alone", "compression"), ("shrunken", "shrunken_compression")):
            ours = group.scores(field)
            more = difference(ours, scores_of(dense, field)) if len(ours) else None
            told |= {said: shown(float(ours.mean()) if len(ours) else None, ".1%"), f"{said}: beyond dense": shown(more, ".1%")}
            told |= {f"{said}: lower rank": verdict(more, 0.0)}
        return told

    yield "## 2. Sparse policies decompose to a lower rank than dense ones"
    yield ""
    yield "Compression at the selected rank, of runs that learned, beside dense policies of the same table: by the SVD of the"
    yield "whole matrices, as in the paper, and by that of the network without its dead units. Held where the interval of the"
    yield "difference of means is above 0."
    yield ""
    yield table(rows(found, line))


def beats(found: Found) -> Iterator[str]:
    """Claim 3."""
    yield "## 3. L0 beats L1 and L2 in sparsity and in return"
    yield ""
    yield "Every strength of L0 beside every strength of L1 and L2 of the same table: better in both means more zeros in the"
    yield "mean and an IQM of the return that is not lower."
    yield ""
    lines = []
    for folder, groups in found.items():
        for (environment, algorithm), here in by_task(groups).items():
            ours, others = ([g for g in here if g.settings["regularizer"] in names] for names in (("l0",), ("l1", "l2")))
            pairs = [(_better(a, b), _better(b, a)) for a in ours for b in others]
            if pairs:
                first, second = sum(a for a, _ in pairs), sum(b for _, b in pairs)
                told = {"table": folder.name, "environment": environment, "algorithm": algorithm, "pairs": str(len(pairs))}
                lines.append(told | {"L0 better in both": str(first), "the other better in both": str(second)})
    yield table(lines)


def _better(a: Group, b: Group) -> bool:
    zeros, returns = [group.mean("sparsity") or 0.0 for group in (a, b)], [estimate([g.scores("return_mean")]) for g in (a, b)]
    return zeros[0] > zeros[1] and None not in returns and returns[0].value >= returns[1].value  # type: ignore[union-attr]


def beta(found: Found) -> Iterator[str]:
    """Claim 4."""
    yield "## 4. beta: too high closes nearly all gates, too low opens nearly all"
    yield ""
    yield "By the formula of the gate, P(z != 0) at the same log_alpha rises with beta: the opposite. What training does:"
    yield ""
    lines = []
    for folder, groups in found.items():
        for here in by_task(groups).values():
            gates = [g for g in here if g.settings.get("beta") is not None and g.settings["regularizer"].startswith("l0")]
            if len({group.settings["beta"] for group in gates}) > 1:
                lines += [named(group, folder) | {"sparsity": shown(group.mean("sparsity"), ".1%")} for group in gates]
    yield table(lines)


def headline(where: str, title: str, said: str) -> Callable[[Found], Iterator[str]]:
    """What the paper says of one environment beside all settings of it here."""

    def part(found: Found) -> Iterator[str]:
        measures = ("return_mean", ".1f"), ("x_pos", ".0f"), ("flag_rate", ".1%"), ("success_rate", ".1%"), ("sparsity", ".1%")
        stored = ("compression", ".1%"), ("shrunken_compression", ".1%")
        lines = []
        for folder, groups in found.items():
            for group in (group for group in groups if group.task[0].startswith(where)):
                told = {name.replace("_", " "): shown(group.mean(name), form) for name, form in (*measures, *stored)}
                lines.append(named(group, folder) | told)
        yield f"## {title}"
        yield ""
        yield said
        yield ""
        yield table(lines)

    return part


PARTS = (
    without_loss,
    lower_rank,
    beats,
    beta,
    headline(MARIO, "Super Mario Bros 7-1", "The paper: 93 % sparsity, 70 % compression, a better policy than the dense one."),
    headline(SURGICAL, "Surgical robot learning", 'The paper: 36 % sparsity, 46 % compression, "while being performant".'),
)

INTRODUCTION = f"""# The paper's claims, answered by the tables in results/

Made by `python scripts/answer_claims.py` from every `results/*/rows.csv`; no number is typed by hand. The claims are those
of arXiv 2403.06313 as its abstract and summaries state them. The paper gives neither its settings nor how it counts: a claim
that does not hold here does not hold for the settings and definitions of this repository. Each row has the seeds that it is
of. In brackets are {CONFIDENCE:.0%} bootstrap intervals over seeds; of fewer than eight seeds they are too narrow.
"""

LEFT_OPEN = """## Open questions of the paper

* **The range of lambda_c and beta** depends on the size of the loss. Claim 1 has the strengths that were tried, and what was
  lost.
* **L0 against L1 and L2 beyond Mario**: claim 3, by environment.
* **Low rank in continuous control**: claim 2, the rows of Pendulum and of the robots.
* **Rank selection**: here the lowest rank from which on every rank keeps 95 % of the gain, measured again on other seeds.
* **Other algorithms**: A2C, TD3 and SAC train with every regulariser. What was measured is in the tables.
"""


if __name__ == "__main__":
    main()
