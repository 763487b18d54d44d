"""The numbers of a report in the forms that other programs of the field plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from sparserl.report.groups import Group
from sparserl.runs.reader import Run
from sparserl.runs.schema import MEASURES

LONG = ("exp_name", "env_name", "seed", "metric", "env_step", "value")

EVALUATIONS = ("eval/return_mean", *(f"eval/{measure}" for measure in MEASURES), "sparsity/exact")
CURVES = ("train/return", *EVALUATIONS)
"""The metrics of metrics.jsonl that are exported; those of single layers would be most of the file."""

RESULTS = ("return_mean", "return_random", *MEASURES, "sparsity", "nonzero_weights", "policy_weights", "alive_units",
           "compression", "return_lowrank", "shrunken_compression", "shrunken_return_mean", "wall_seconds")  # fmt: skip
"""The fields of a result that are exported, as ``result/NAME`` at the last step."""


def long(groups: Sequence[Group]) -> pd.DataFrame:
    """A line for each number: of all runs that count, at every step that has it."""
    lines = [line for group in groups for run in group.done for line in _lines(group, run)]
    return pd.DataFrame(lines, columns=LONG)


def _lines(group: Group, run: Run) -> Iterator[tuple[Any, ...]]:
    who = name(group), group.task[0], run.seed
    for metric in CURVES:
        for step, value in zip(*run.curve(metric), strict=True):
            yield *who, metric, step, value
    for field in RESULTS:
        if run.result[field] is not None:
            yield *who, f"result/{field}", run.result["env_steps"], run.result[field]


def rank_selection(groups: Sequence[Group]) -> pd.DataFrame:
    """Every line of the runs' layer_ranks.csv, after what tells the run."""
    return pd.DataFrame(
        {"exp_name": name(group), "env_name": group.task[0], "seed": run.seed} | row
        for group in groups
        for run in group.done
        for row in run.layer_ranks
    ).convert_dtypes()


def name(group: Group) -> str:
    """What other programs call the algorithm."""
    return f"{group.task[1]}, {group.label}" if group.label != group.task[1] else group.label


def marl_eval(groups: Sequence[Group]) -> dict[str, Any]:
    """What marl-eval reads: environment, task, algorithm, run, step (Gorsane et al. 2022, arXiv 2209.10485).

    The environment is ``sparserl``, its tasks are our environments. Each list has one element, the mean over the evaluation
    episodes, as marl-eval allows: runs keep no single episodes. ``absolute_metrics`` are of the last policy, not of the best
    one. marl-eval itself asks for the same runs and steps everywhere: its ``DiagnoseData`` names what differs.
    """
    tasks: dict[str, Any] = {}
    for group in groups:
        runs = {f"seed_{run.seed}": _steps(run) for run in group.done if run.result["return_mean"] is not None}
        if runs:
            tasks.setdefault(group.task[0], {})[name(group)] = runs
    return {"sparserl": tasks}


def _steps(run: Run) -> dict[str, Any]:
    last = {"return": [run.result["return_mean"]]}
    last |= {measure: [run.result[measure]] for measure in MEASURES if run.result[measure] is not None}
    curves = {"return": "eval/return_mean"} | {measure: f"eval/{measure}" for measure in last if measure != "return"}
    found = {metric: dict(zip(*run.curve(key), strict=True)) for metric, key in curves.items()}
    steps = [step for step in found["return"] if all(step in values for values in found.values())]
    rows = [{"step_count": step} | {metric: [values[step]] for metric, values in found.items()} for step in steps]
    rows = rows or [{"step_count": run.result["env_steps"]} | last]
    return {f"step_{index}": row for index, row in enumerate(rows, start=1)} | {"absolute_metrics": last}
