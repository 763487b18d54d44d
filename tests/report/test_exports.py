"""Exports that other programs plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from folders import made_up

from sparserl.report import exports
from sparserl.report.groups import Group, grouped
from sparserl.report.writer import write_exports
from sparserl.runs import reader


def groups(folder: Path) -> list[Group]:
    for seed in (0, 1):
        made_up(folder / f"a{seed}", seed=seed, raw=None, success_rate=0.5)
        made_up(folder / f"b{seed}", seed=seed, raw=None, regularizer="none", lambda_c=None)
    return grouped(reader.find([folder]))


def test_the_long_table_has_a_line_for_each_number(tmp_path: Path) -> None:
    table = exports.long(groups(tmp_path))
    assert [*table.columns] == ["exp_name", "env_name", "seed", "metric", "env_step", "value"]
    one = table[(table["exp_name"] == "dqn, l0, lambda_c 60") & (table["seed"] == 1)]
    assert set(one["env_name"]) == {"cartpole"}
    curve = one[one["metric"] == "eval/return_mean"]
    assert curve[["env_step", "value"]].to_numpy().tolist() == [[10, 50], [20, 100]]
    assert one[one["metric"] == "result/sparsity"]["value"].tolist() == [0.75]
    assert set(table["exp_name"]) == {"dqn, l0, lambda_c 60", "dqn, none"}


def check(data: Any) -> None:
    """The structure that marl-eval's README asks for: names down to runs, then steps, then lists of numbers."""
    for environments in data.values():
        for algorithms in environments.values():
            for runs in algorithms.values():
                assert runs
                for steps in runs.values():
                    assert [*steps] == [*(f"step_{index}" for index in range(1, len(steps))), "absolute_metrics"]
                    counts = [step["step_count"] for name, step in steps.items() if name != "absolute_metrics"]
                    assert counts
                    assert all(type(count) is int for count in counts)
                    assert counts == sorted(set(counts))
                    metrics = set(steps["absolute_metrics"])
                    for name, step in steps.items():
                        assert set(step) == (metrics if name == "absolute_metrics" else metrics | {"step_count"})
                        assert all(type(v) is float for metric in metrics for v in step[metric])
                        assert all(len(step[metric]) == 1 for metric in metrics)


def test_the_file_for_marl_eval_has_its_structure(tmp_path: Path) -> None:
    assert write_exports(groups(tmp_path), tmp_path) == ["long.csv", "marl_eval.json"]
    data = json.loads((tmp_path / "marl_eval.json").read_text())
    check(data)
    assert {*data["sparserl"]} == {"cartpole"}
    run = data["sparserl"]["cartpole"]["dqn, none"]["seed_1"]
    assert run["step_1"] == {"step_count": 10, "return": [50.0]}
    assert run["absolute_metrics"] == {"return": [100.0]}


def test_runs_without_curves_have_one_step(tmp_path: Path) -> None:
    made_up(tmp_path / "a", env_steps=7, success_rate=0.5)
    (tmp_path / "a" / "metrics.jsonl").unlink()
    data = exports.marl_eval(grouped(reader.find([tmp_path])))
    check(data)
    run = data["sparserl"]["cartpole"]["dqn, l0"]["seed_0"]
    assert run["step_1"] == {"step_count": 7, "return": [100.0], "success_rate": [0.5]}
