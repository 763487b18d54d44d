"""The tables that have names: which runs they are of, and what their columns say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from sparserl.report import overview
from sparserl.report.groups import Group, by_task, is_reference, reference
from sparserl.report.settings import joined
from sparserl.report.statistics import CONFIDENCE, Estimate, Scores, estimate, pooled_mean, ratio_of_iqms
from sparserl.report.table import NothingToShowError, Table, Value, of_rows
from sparserl.runs import schema
from sparserl.runs.reader import Row, Run

Builder: TypeAlias = Callable[[Sequence[Group]], Table]

INTERVALS = (
    "Last policies, hardened and without exploration. IQM: interquartile mean over seeds. In brackets "
    f"{CONFIDENCE:.0%} bootstrap intervals over seeds, stratified by task; of fewer than eight seeds they are too narrow. "
)

BUDGETS = (0.5, 0.25, 0.1, 0.05, 0.03, 0.02)
"""Shares of the dense policy's numbers at which forms are compared."""


def _settings(groups: Sequence[Group]) -> dict[str, tuple[str, str]]:
    """The columns that name a row: always the task and the regulariser, and whatever else tells groups apart."""
    first = ("environment", "algorithm", "regularizer")
    return {key: (key, "g") for key in dict.fromkeys((*first, *groups[0].columns))}


def _named(group: Group, groups: Sequence[Group]) -> dict[str, Value]:
    return {key: group.settings.get(key) for key in _settings(groups)} | {"seeds": group.how_many}


def _table(name: str, title: str, groups: Sequence[Group], rows: Sequence[dict[str, Value]],
           columns: Mapping[str, tuple[str, str]], caption: str, notes: Sequence[str] = ()) -> Table:  # fmt: skip
    settings = _settings(groups)
    cells, frame = of_rows(rows, settings | {"seeds": ("seeds", "")} | dict(columns))
    cells = joined(cells, [name for name in settings if name in cells[0]])
    return Table(name, title, cells, frame, caption, [run for group in groups for run in group.runs], list(notes))


def _of_dense(group: Group, groups: Sequence[Group]) -> dict[str, Value]:
    """The return of a group beside that of dense runs: as a quotient, and as the share of what they gained."""
    dense, scores = scores_of(reference(group, groups)), group.scores("return_mean")
    if not len(dense) or not len(scores):
        return {}
    if is_reference(group, groups):
        return dict.fromkeys(OF_DENSE, 1.0)
    # of negative returns the better one has the smaller quotient
    found: dict[str, Value] = {"of_dense": estimate([scores, dense], ratio_of_iqms)} if dense.min() > 0 else {}
    return found | {"gained": gained(group, groups)}


def scores_of(runs: Sequence[Run], field: str = "return_mean") -> Scores:
    """A field of the results of those runs that have it."""
    return np.array([run.result[field] for run in runs if run.result[field] is not None], float)


def gained(group: Group, groups: Sequence[Group]) -> Estimate | None:
    """The IQM of returns above a random policy's, divided by that of the dense runs; None where these gained nothing."""
    runs, scores = reference(group, groups), group.scores("return_mean")
    dense, random = scores_of(runs), scores_of(runs, "return_random")
    if not len(scores) or not len(random) or not random.mean() < dense.mean():
        return None
    return estimate([scores - random.mean(), dense - random.mean()], ratio_of_iqms)


OF_DENSE = {"of_dense": ("return / dense", ".3f"), "gained": ("gain / dense gain", ".3f")}
OF_DENSE_CAPTION = (
    "Return / dense: IQM divided by that of dense policies of the same algorithm and environment, where these are positive. "
    "Gain / dense gain: the same of the returns above a random policy's. "
)


def missing(groups: Sequence[Group]) -> list[str]:
    """What other rows have and these lack: regularisers of a task, and seeds of a group."""
    forms = dict.fromkeys(group.form for group in groups)
    notes = []
    for task, here in by_task(groups).items():
        where = f"{task[1]} on {task[0]}"
        lacking = [form for form in forms if form not in {group.form for group in here if group.done}]
        notes += [f"{where}: no result of {', '.join(lacking)}"] * bool(lacking)
        wanted = set().union(*(group.seeds for group in here))
        absent = {group.label: sorted(wanted - group.seeds) for group in here if group.done}
        notes += [f"{where}, {label}: no result of seed {overview.listed(seeds)}" for label, seeds in absent.items() if seeds]
    return notes


# ---------------------------------------------------------------- the tables


def main(groups: Sequence[Group]) -> Table:
    """Environments x algorithms x regularisers: return and sparsity."""
    rows = []
    for group in groups:
        scores = group.scores("return_mean")
        rows.append(
            _named(group, groups)
            | {"return_mean": estimate([scores], pooled_mean), "return_iqm": estimate([scores])}
            | {"return_random": group.mean("return_random")}
            | _of_dense(group, groups)
            | {"sparsity": group.mean("sparsity"), "nonzero_weights": group.mean("nonzero_weights")}
            | {"policy_weights": group.mean("policy_weights"), "alive_units": group.mean("alive_units")}
        )
    columns = {
        "return_mean": ("return: mean", ".1f"),
        "return_iqm": ("return: IQM", ".1f"),
        "return_random": ("random", ".1f"),
        **OF_DENSE,
        "sparsity": ("sparsity", ".1%"),
        "nonzero_weights": ("weights left", ".0f"),
        "policy_weights": ("of", ".0f"),
        "alive_units": ("units alive", ".0f"),
    }
    caption = INTERVALS + OF_DENSE_CAPTION + "Sparsity, weights and units: means over seeds."
    return _table("main", "Return and sparsity", groups, rows, columns, caption, missing(groups))


def ranks(groups: Sequence[Group]) -> Table:
    """The selected ranks: what is kept and what is saved at them."""
    kept = [group for group in groups if any(run.is_swept for run in group.done)]
    if not kept:
        raise NothingToShowError("no run has been swept by rank")
    rows = []
    for group in kept:
        row = _named(group, kept)
        learned = [run.learned for run in group.done if run.learned is not None]
        row["learned"] = f"{sum(learned)} of {len(learned)}"
        for prefix, score, form in (("", "return_lowrank", ""), ("shrunken_", "shrunken_return_mean", "shrunken_")):
            row |= {
                f"{form}ranks": overview.ranks(group.done, f"{prefix}rank"),
                f"{form}return_iqm": estimate([group.scores(score)]),
                f"{form}compression": estimate([group.scores(f"{prefix}compression")], pooled_mean),
                f"{form}retention": group.mean(f"{prefix}retention"),
            }
        row["full_iqm"] = estimate([group.scores("return_mean")])
        rows.append(row)
    columns = {"learned": ("learned", ""), "full_iqm": ("return: IQM", ".1f")}
    for form, label in (("", ""), ("shrunken_", "shrunken: ")):
        columns |= {
            f"{form}ranks": (f"{label}ranks", ""),
            f"{form}return_iqm": (f"{label}IQM at them", ".1f"),
            f"{form}compression": (f"{label}compression", ".1%"),
            f"{form}retention": (f"{label}retention", ".1%"),
        }
    caption = (
        INTERVALS + "Ranks: the selected one of each run that learned; compression, 1 - stored / dense numbers, and retention: "
        "means. Shrunken: without the hidden units that nothing enters or leaves."
    )
    return _table("ranks", "Selected ranks", kept, rows, columns, caption)


def rank_sweep(groups: Sequence[Group]) -> Table:
    """Return and compression at every rank."""
    kept = [group for group in groups if any(run.lowrank for run in group.done)]
    if not kept:
        raise NothingToShowError("it needs lowrank.csv, which only folders of runs have, and none of these has one")
    rows = []
    for group in kept:
        cut = [row for run in group.done for row in run.lowrank if math.isfinite(row["return_mean"])]
        for rank in sorted({row["rank"] for row in cut}):
            here = [row for row in cut if row["rank"] == rank]
            rows.append(
                _named(group, kept)
                | {"rank": f"{rank:g}" if math.isfinite(rank) else "full", "return_iqm": _iqm(here, "return_mean")}
                | {"retention": _iqm(here, "retention"), "compression": _mean(here, "compression")}
                | {"energy": _mean(here, "energy"), "shrunken_return_iqm": _iqm(here, "shrunken_return_mean")}
                | {"shrunken_compression": _mean(here, "shrunken_compression"), "n": len(here)}
            )
    columns = {
        "rank": ("rank", ""),
        "n": ("n", "d"),
        "return_iqm": ("return: IQM", ".1f"),
        "retention": ("retention: IQM", ".1%"),
        "compression": ("compression", ".1%"),
        "energy": ("energy", ".1%"),
        "shrunken_return_iqm": ("shrunken: IQM", ".1f"),
        "shrunken_compression": ("shrunken: compression", ".1%"),
    }
    caption = INTERVALS + "One rank for all layers; n: runs that were evaluated at it. Compression and energy: means over them."
    return _table("rank_sweep", "Return by rank", kept, rows, columns, caption)


def rank_selection(groups: Sequence[Group]) -> Table:
    """Return of each way of choosing the ranks of layers, at equal stored numbers."""
    kept = [group for group in groups if any(run.layer_ranks for run in group.done)]
    if not kept:
        raise NothingToShowError("it needs layer_ranks.csv, which python -m sparserl.select writes, and no run has one")
    rows = []
    for group in kept:
        found: dict[tuple[int, float, int], list[Row]] = {}
        for row in (row for run in group.done for row in run.layer_ranks):
            found.setdefault((schema.FORMS.index(row["form"]), row["budget"], schema.WAYS.index(row["way"])), []).append(row)
        for (form, budget, way), here in sorted(found.items()):
            rows.append(
                _named(group, kept)
                | {"form": schema.FORMS[form], "budget": int(budget), "way": schema.WAYS[way], "n": len(here)}
                | {"return_mean": estimate([_known(here, "return_mean")], pooled_mean)}
                | {"return_iqm": _iqm(here, "return_mean"), "parameters": _mean(here, "parameters")}
                | {"ranks": _ranges([row["ranks"].split() for row in here]), "energy": _mean(here, "energy")}
            )
    columns = {
        "form": ("policy", ""),
        "budget": ("budget", "d"),
        "way": ("ranks by", ""),
        "n": ("n", "d"),
        "return_mean": ("return: mean", ".1f"),
        "return_iqm": ("return: IQM", ".1f"),
        "parameters": ("stored", ".0f"),
        "ranks": ("ranks of layers", ""),
        "energy": ("energy", ".1%"),
    }
    caption = (
        INTERVALS
        + "Budget: numbers that may be stored at most; n: runs that were evaluated. Ranks by: uniform, one rank for all "
        "layers; energy, the same share of each layer's energy; budget, greedily the direction of most energy of its layer per "
        "number; return, greedily the layer whose lowering costs the least return, on other episodes than these. Stored and "
        "energy: means; ranks: from the lowest to the highest of the runs, full where a layer stays whole. Shrunken: without "
        "the hidden units that nothing enters or leaves."
    )
    return _table("rank_selection", "Return at equal stored numbers, by how ranks are chosen", kept, rows, columns, caption)


def _ranges(ranks: Sequence[Sequence[str]]) -> str:
    """For each layer its lowest and highest rank of several runs: ``4, 12-16, full``."""
    ends = [
        sorted(set(layer), key=lambda rank: math.inf if rank == "full" else int(rank)) for layer in zip(*ranks, strict=True)
    ]
    return ", ".join("-".join(dict.fromkeys((layer[0], layer[-1]))) for layer in ends)


def stored(groups: Sequence[Group]) -> Table:
    """Every form at the same numbers stored."""
    kept = [group for group in groups if any(forms_of(run) for run in group.done)]
    if not kept:
        raise NothingToShowError("no run says how many numbers its policy stores")
    rows = []
    for group in kept:
        row = _named(group, kept)
        for form in FORMS:
            numbers = [found[form][0] for run in group.done if form in (found := forms_of(run))]
            row[form] = float(np.mean(numbers)) if numbers else None
        dense = [run.result["policy_weights"] for run in reference(group, groups)]
        for budget in BUDGETS:
            row[f"within_{budget:g}"] = _within(group, budget * dense[0]) if dense else None
        rows.append(row)
    columns = {form: (f"stored: {form}", ".0f") for form in FORMS}
    columns |= {f"within_{budget:g}": (f"return within {budget:.0%}", ".1f") for budget in BUDGETS}
    caption = (
        INTERVALS + "Stored: numbers of 4 bytes, means over seeds. Sparse: values, and where they stand in the form that takes "
        "the fewest bytes (sparse_bytes / 4); shrunken: without the hidden units that nothing enters or leaves; factored: at "
        "the selected rank. Return within a share of the dense policy's numbers: IQM in the form, named in parentheses, that "
        "is best for the group, each run at the largest rank that fits; where not all runs fit, it is said how many do."
    )
    lost = sum(run.is_swept and not run.lowrank for group in kept for run in group.done)
    notes = [f"of {lost} runs only the selected ranks are kept, so that no other can fit"] * (lost > 0)
    return _table("stored", "Return at equal stored numbers", kept, rows, columns, caption, notes)


FORMS = ("sparse", "shrunken", "factored", "shrunken and factored")


def forms_of(run: Run) -> dict[str, tuple[float, float]]:
    """How many numbers each form of a run's policy stores, and its return; forms that are not known are left out."""
    row = run.result
    sparse = row["csr_bytes"] if row["sparse_bytes"] is None else row["sparse_bytes"]  # rows of before have the first only
    sizes = {
        "sparse": (sparse and sparse / 4, row["return_mean"]),
        "shrunken": (row["shrunken_weights"], row["return_mean"]),
        "factored": (_left(row, "compression"), row["return_lowrank"]),
        "shrunken and factored": (_left(row, "shrunken_compression"), row["shrunken_return_mean"]),
    }
    return {form: (float(size), score) for form, (size, score) in sizes.items() if size is not None and score is not None}


def _left(row: Row, compression: str) -> float | None:
    return None if row[compression] is None else (1 - row[compression]) * float(row["policy_weights"])


CUT = {
    "factored": ("parameters", "return_mean"),
    "shrunken and factored": ("shrunken_parameters", "shrunken_return_mean"),
}
"""The columns of lowrank.csv that say how many numbers a form stores, and its return."""


def _stored_by(run: Run, form: str) -> list[tuple[float, float]]:
    """How many numbers a form of a run's policy stores and its return, at every rank where these are known."""
    known = [forms_of(run)[form]] if form in forms_of(run) else []
    size, score = CUT.get(form, ("", ""))
    cut = [(row[size], row[score]) for row in run.lowrank if size and math.isfinite(row[size]) and math.isfinite(row[score])]
    return known + cut


def _within(group: Group, most: float) -> Value:
    """The returns that so many numbers allow, in the form that is best for the group.

    Of each run it is the largest rank of the form that fits: to choose ranks by return would flatter.
    The form is chosen for all runs of the group together: the one that fits most of them, then the one of the highest IQM.
    """
    estimates = []
    for form in FORMS:
        fitting = [[point for point in _stored_by(run, form) if point[0] <= most] for run in group.done]
        value = estimate([[max(points)[1] for points in fitting if points]])
        if value is not None:
            part = f", {value.n} of {len(group.done)}" * (value.n < len(group.done))
            estimates.append(replace(value, note=f"{form}{part}"))
    return max(estimates, key=lambda value: (value.n, value.value), default=None)


def surgical(groups: Sequence[Group]) -> Table:
    """Tasks with goals, surgical ones among them: success rate."""
    return _measured("surgical", "Success rate of tasks with goals", groups, {"success_rate": ("success", ".1%")})


def mario(groups: Sequence[Group]) -> Table:
    """Games with levels: how far to the right, and how often at the flag."""
    columns = {"x_pos": ("x", ".0f"), "flag_rate": ("flag", ".1%")}
    return _measured("mario", "Super Mario Bros: distance and flag rate", groups, columns)


def _measured(name: str, title: str, groups: Sequence[Group], measures: Mapping[str, tuple[str, str]]) -> Table:
    """The groups whose environments give some measure."""
    kept = [group for group in groups if any(len(group.scores(measure)) for measure in measures)]
    if not kept:
        raise NothingToShowError(f"no run has {' or '.join(measures)}")
    rows = []
    columns: dict[str, tuple[str, str]] = {}
    for measure, (header, form) in measures.items():
        columns |= {f"{measure}_mean": (f"{header}: mean", form), f"{measure}_iqm": (f"{header}: IQM", form)}
    for group in kept:
        row = _named(group, kept)
        for measure in measures:
            scores = group.scores(measure)
            row |= {f"{measure}_mean": estimate([scores], pooled_mean), f"{measure}_iqm": estimate([scores])}
        rows.append(
            row
            | {"return_iqm": estimate([group.scores("return_mean")]), "return_lowrank": group.mean("return_lowrank")}
            | _of_dense(group, kept)
            | {"sparsity": group.mean("sparsity"), "ranks": overview.ranks(group.done, "rank")}
            | {"compression": group.mean("compression")}
        )
    columns |= {
        "return_iqm": ("return: IQM", ".1f"),
        **OF_DENSE,
        "sparsity": ("sparsity", ".1%"),
        "ranks": ("ranks", ""),
        "return_lowrank": ("return at them", ".1f"),
        "compression": ("compression", ".1%"),
    }
    caption = INTERVALS + OF_DENSE_CAPTION + "Sparsity, compression and the return at the selected ranks: means over seeds."
    return _table(name, title, kept, rows, columns, caption, missing(kept))


def _known(rows: Sequence[Row], key: str) -> Scores:
    values = np.array([row[key] for row in rows], float)
    known: Scores = values[np.isfinite(values)]
    return known


def _iqm(rows: Sequence[Row], key: str) -> Estimate | None:
    return estimate([_known(rows, key)])


def _mean(rows: Sequence[Row], key: str) -> float | None:
    return float(values.mean()) if len(values := _known(rows, key)) else None
