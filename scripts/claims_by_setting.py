"""The claims that every setting is asked for: no loss of return, a lower rank, better than L1 and L2, and what beta does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from claims_settings import DID_NOT_HOLD, HELD, NOT_DECIDED, Setting, difference, once, verdict

from sparserl.report.groups import Group
from sparserl.report.markup import markdown
from sparserl.report.statistics import estimate
from sparserl.report.table import shown
from sparserl.report.tables import gained, scores_of

NO_LOSS = 0.95
"""The share of what dense policies gained over random ones that has to be kept for a return to count as not lost."""

Cells = dict[str, str]


@dataclass(frozen=True)
class Claim:
    """A part of the page with a row for each setting."""

    title: str
    rule: str
    """When it held, and of what the columns are."""
    line: Callable[[Setting, Sequence[Setting]], Cells | None]
    """The cells of a setting, given all others too; None where its table says nothing of it."""
    asked: Mapping[str, str]
    """The columns that have verdicts, with what the summary calls them."""

    def answers(self, settings: Sequence[Setting]) -> list[tuple[Setting, Cells]]:
        """The cells of each setting from the first table that says anything of it."""
        told = {id(setting): cells for setting in settings if (cells := self.line(setting, settings))}
        return [(setting, told[id(setting)]) for setting in once(setting for setting in settings if id(setting) in told)]

    def part(self, settings: Sequence[Setting]) -> Iterator[str]:
        """Its lines of the page."""
        yield from (f"## {self.title}", "", self.rule, "")
        yield table([setting.named() | cells for setting, cells in self.answers(settings)])


def table(rows: Sequence[Cells]) -> str:
    """The rows, or a sentence where there are none."""
    return markdown(rows) if rows else "Nothing in results/ says anything of it yet."


def without_loss(setting: Setting, _: Sequence[Setting]) -> Cells | None:
    """What is kept of the dense policies' gain."""
    if not setting.dense:
        return None
    kept = gained(setting.group, setting.groups)
    sparsity = shown(setting.group.mean("sparsity"), ".1%")
    return {"sparsity": sparsity, "gain / dense gain": shown(kept, ".3f"), "no loss": verdict(kept, NO_LOSS)}


def lower_rank(setting: Setting, _: Sequence[Setting]) -> Cells | None:
    """Compression beside that of dense policies, with and without dead units."""
    if not len(setting.group.scores("compression")) or not len(scores_of(setting.dense, "compression")):
        return None
    told: Cells = {"learned": f"{len(setting.group.scores('compression'))} of {len(setting.group.done)}"}
    for said, field in (("SVD alone", "compression"), ("shrunken", "shrunken_compression")):
        more = difference(setting.group.scores(field), scores_of(setting.dense, field))
        told |= {said: shown(setting.group.mean(field), ".1%"), f"{said}: beyond dense": shown(more, ".1%")}
        told |= {f"{said}: lower rank": verdict(more, 0.0, strict=True)}
    return told


def beats(setting: Setting, settings: Sequence[Setting]) -> Cells | None:
    """A setting of gates beside every one of L1 and L2 that stands in a table with it, each once."""
    same = [here for here in settings if here.number == setting.number]
    beside = [(here.group, other) for here in same for other in settings if _penalises(here, other)]
    pairs = {other.number: (ours, other) for ours, other in reversed(beside)}.values()  # as the first table has them
    if not setting.has_gates or not pairs:
        return None
    won, lost = sum(_better(a, b.group) for a, b in pairs), sum(_better(b.group, a) for a, b in pairs)
    told = {"sparsity": shown(setting.group.mean("sparsity"), ".1%"), "against": ", ".join(sorted({b.form for _, b in pairs}))}
    told |= {"pairs": str(len(pairs)), "better in both": str(won), "the other better in both": str(lost)}
    return told | {"beats": HELD if won == len(pairs) else DID_NOT_HOLD if lost else NOT_DECIDED}


def _penalises(here: Setting, other: Setting) -> bool:
    """Whether ``other`` is L1 or L2 in the table and on the task of ``here``."""
    return other.form in ("l1", "l2") and other.folder == here.folder and other.group.task == here.group.task


def _better(a: Group, b: Group) -> bool:
    zeros, returns = [group.mean("sparsity") or 0.0 for group in (a, b)], [estimate([g.scores("return_mean")]) for g in (a, b)]
    return zeros[0] > zeros[1] and None not in returns and returns[0].value >= returns[1].value  # type: ignore[union-attr]


def beta(setting: Setting, settings: Sequence[Setting]) -> Cells | None:
    """How many gates closed, where settings of the same table and task differ in beta."""
    same = [other for other in settings if other.has_gates and other.folder == setting.folder]
    values = {other.group.settings.get("beta") for other in same if other.group.task == setting.group.task} - {None}
    return {"sparsity": shown(setting.group.mean("sparsity"), ".1%")} if setting.has_gates and len(values) > 1 else None


CLAIMS = (
    Claim(
        "1. Policies become sparse in training without loss of return",
        "Held where the interval of the IQM of the gain over random, divided by that of dense policies, is at\n"
        f"{NO_LOSS} or above.",
        without_loss,
        {"no loss": "1: no loss"},
    ),
    Claim(
        "2. Sparse policies decompose to a lower rank than dense ones",
        "Compression at the selected rank, of runs that learned, beside dense policies of the same table: by the SVD of the\n"
        "whole matrices, as in the paper, and by that of the network without its dead units. Held where the interval of the\n"
        "difference of means is above 0; of equal compression it did not hold.",
        lower_rank,
        {"SVD alone: lower rank": "2: lower rank, SVD alone", "shrunken: lower rank": "2: lower rank, shrunken"},
    ),
    Claim(
        "3. L0 beats L1 and L2 in sparsity and in return",
        "Every setting of gates beside every setting of L1 and L2 that stands in a table with it: better in both means more\n"
        "zeros in the mean and an IQM of the return that is not lower. Held where it is better in both than each of those it\n"
        "is against; did not hold where one of them is better in both than it.",
        beats,
        {"beats": "3: beats L1 and L2"},
    ),
    Claim(
        "4. beta: too high closes nearly all gates, too low opens nearly all",
        "By the formula of the gate, P(z != 0) at the same log_alpha rises with beta: the opposite. What training does:",
        beta,
        {},
    ),
)
