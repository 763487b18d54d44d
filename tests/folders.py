"""Made-up run folders with known numbers, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparserl.runs import checkpoint
from sparserl.runs.files import write_json

RAW = {"0.weight": torch.diag(torch.tensor([8.0, 4.0, 2.0])), "0.bias": torch.ones(1, 3)}
"""A policy whose singular values can be read off."""


def made_up(folder: Path, *, raw: dict[str, Tensor] | None = RAW, gates: bool = True, sweep: bool = True, **given: Any) -> Path:
    """A finished run of two evaluations. ``given`` replaces values of result.json, and of the config where it has them too."""
    folder.mkdir(parents=True)
    result: dict[str, Any] = {
        "algorithm": "dqn", "environment": "cartpole", "regularizer": "l0", "network": "mlp", "lambda_c": 60.0, "beta": 0.5,
        "seed": 0, "return_mean": 100.0, "return_std": 10.0, "return_random": 20.0, "episodes": 4, "sparsity": 0.75,
        "nonzero_weights": 3, "policy_weights": 12, "warnings": [], "status": "done", "rank": 2, "rank_reason": None,
        "compression": 0.5, "return_lowrank": 96.0, "retention": 0.95,
        "commit": "abc", "command": "typed", "versions": "torch 2",
    }  # fmt: skip
    result |= {key: value for key, value in given.items() if key != "config"}
    names = {key: result[key] for key in ("algorithm", "environment", "regularizer", "network")}
    regularizer = {"lambda_c": result["lambda_c"], "beta": result["beta"], "reduction": "mean"}
    config = {"names": names, "regularizer": regularizer, "seed": result["seed"], "lowrank": {"retention": 0.9}, "sweep": "any"}
    write_json(folder / "config.json", config | given.get("config", {}))
    write_json(folder / "status.json", {"status": "done", "env_step": 20, "total_steps": 20, "error": None})
    write_json(folder / "result.json", result)
    with (folder / "metrics.jsonl").open("w") as file:
        for step, share in ((10, 0.25), (15, 0.5), (20, 0.75)):
            row = {"env_step": step, "train/return": None if step == 10 else 3.0 * step, "sparsity/exact": share}
            if gates:
                row |= {"sparsity/expected": share, "gates/open": 1 - share, "gates/closed": share, "gates/undecided": 0.0}
            if step != 15:
                row |= {"eval/return_mean": result["return_mean"] * step / 20}
            file.write(json.dumps(row) + "\n")
    if sweep:
        header = "rank,return_mean,return_std,episodes,retention,compression"
        lines = ["1,40.0,8.0,4,0.25,0.8", "2,96.0,4.0,4,0.95,0.5", f"full,{result['return_mean']},10.0,4,1.0,0.0"]
        (folder / "lowrank.csv").write_text("\n".join([header, *lines]) + "\n")
        values = ["layer,index,singular_value,effective_rank,dead_units", "0,1,6.0,1.5,1", "0,2,3.0,1.5,1", "0,3,0.0,1.5,1"]
        (folder / "spectrum.csv").write_text("\n".join(values) + "\n")
    if raw is not None:
        checkpoint.save([folder], 20, [{"trainer": {"learner": {"weights": {"policy": raw}}}}])
    return folder


def unfinished(folder: Path, status: str, error: str | None = None, **given: Any) -> Path:
    """A run that left no result."""
    made_up(folder, raw=None, sweep=False, **given)
    (folder / "result.json").unlink()
    write_json(folder / "status.json", {"status": status, "env_step": 7, "total_steps": 20, "error": error})
    return folder
