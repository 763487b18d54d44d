"""Made-up run folders with known numbers, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from sparserl.population.state import State
from sparserl.runs import checkpoint
from sparserl.runs.files import joined, write_json
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import RankRow, Result, SingularValue, Status, StatusName
from sparserl.types import Spec, Weights

RAW = {"0.weight": torch.diag(torch.tensor([8.0, 4.0, 2.0])), "0.bias": torch.ones(1, 3)}
"""A policy whose singular values can be read off."""


ALGORITHM: dict[str, Any] = {
    "_target_": "sparserl.algorithms.dqn.DQN",
    "gamma": 0.99,
    "learning_rate": {"_target_": "sparserl.schedules.Constant", "value": 1e-3},
    "loss": "mse",
    "epsilon": {"_target_": "sparserl.schedules.Constant", "value": 0.1},
    "target_update_interval": 10,
    "tau": 0.01,
    "max_grad_norm": None,
    "optimizer": {"_target_": "sparserl.optimizers.Adam", "betas": [0.9, 0.999], "eps": 1e-8},
}
"""As a resolved config has it, but for the network."""


def only_policy(folder: Path, network: Any, spec: Spec, weights: Weights, **algorithm: Any) -> Path:
    """A run's folder with nothing in it but a policy of DQN. ``algorithm`` replaces keys of it."""
    config = {"algorithm": ALGORITHM | {"network": network} | algorithm}
    with closing(RunFolder(folder, 1)) as run:
        run.policy(joined(weights, tuple(weights)), {"config": config, "spec": spec.as_json()})
    return folder


def result(**given: Any) -> Result:
    """Of a finished run; ``given`` replaces what it says."""
    known: dict[str, Any] = {
        "algorithm": "dqn", "environment": "cartpole", "regularizer": "l0", "network": "mlp", "lambda_c": 60.0, "beta": 0.5,
        "seed": 0, "return_mean": 100.0, "return_std": 10.0, "return_random": 20.0, "episodes": 4, "sparsity": 0.75,
        "nonzero_weights": 3, "policy_weights": 12, "warnings": [], "status": "done", "rank": 2, "rank_reason": None,
        "compression": 0.5, "return_lowrank": 96.0, "retention": 0.95, "train_seconds": 3.0, "expected_sparsity": 0.7,
        "reduction": "mean", "scope": None, "commit": "abc", "command": "typed", "versions": "torch 2",
    }  # fmt: skip
    return Result(**filled(Result, known | given))


def filled(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a row: those that are not ``given`` are empty, or 0 or a word where they cannot be."""
    hints = get_type_hints(cls)
    some = {str: "any", float: 0.0}
    empty = {name: None if NoneType in get_args(hint) else some.get(hint, 0) for name, hint in hints.items()}
    return empty | dict(given)


def made_up(folder: Path, *, raw: dict[str, Tensor] | None = RAW, gates: bool = True, sweep: bool = True, **given: Any) -> Path:
    """A finished run of two evaluations. ``given`` replaces values of result.json, and of the config where it has them too."""
    folder.mkdir(parents=True)
    row = vars(result(**{key: value for key, value in given.items() if key != "config"}))
    names = {key: row[key] for key in ("algorithm", "environment", "regularizer", "network")}
    regularizer = {"lambda_c": row["lambda_c"], "beta": row["beta"], "reduction": "mean"}
    regularizer["zero_threshold"] = row["zero_threshold"]
    config = {"names": names, "regularizer": regularizer, "seed": row["seed"], "lowrank": {"retention": 0.9}}
    config |= {"trainer": {"total_steps": 20}, "sweep_name": "any"}
    write_json(folder / "config.json", config | given.get("config", {}))
    write_json(folder / "status.json", Status("done", 20, 20, 1, "elsewhere"))
    write_json(folder / "result.json", row)
    with (folder / "metrics.jsonl").open("w") as file:
        for step, share in ((10, 0.25), (15, 0.5), (20, 0.75)):
            line = {"env_step": step, "train/return": None if step == 10 else 3.0 * step, "sparsity/exact": share}
            if gates:
                line |= {"sparsity/expected": share, "gates/open": 1 - share, "gates/closed": share, "gates/undecided": 0.0}
            if step != 15:
                line |= {"eval/return_mean": (row["return_mean"] or 0.0) * step / 20}
            file.write(json.dumps(line) + "\n")
    if sweep:
        ranks = [(1, 40.0, 8.0, 0.25, 0.8), (2, 96.0, 4.0, 0.95, 0.5), ("full", row["return_mean"], 10.0, 1.0, 0.0)]
        names = "rank", "return_mean", "return_std", "retention", "compression"
        table(folder, RankRow, [{"episodes": 4} | dict(zip(names, values, strict=True)) for values in ranks])
        of_layer = {"layer": "policy/0", "effective_rank": 1.5, "dead_units": 1}
        values = [(1, 6.0), (2, 3.0), (3, 0.0)]
        table(folder, SingularValue, [of_layer | {"index": index, "singular_value": value} for index, value in values])
    if raw is not None:
        checkpoint.save([folder], 20, [{"trainer": {"learner": {"weights": {"policy": raw}}}}])
    return folder


def table(folder: Path, cls: type[RankRow | SingularValue], rows: Sequence[Mapping[str, Any]]) -> None:
    """lowrank.csv or spectrum.csv with these values."""
    with closing(RunFolder(folder, 20)) as run:
        run.table("lowrank" if cls is RankRow else "spectrum", [cls(**filled(cls, row)) for row in rows])


def unfinished(folder: Path, status: StatusName, error: str | None = None, **given: Any) -> Path:
    """A run that left no result."""
    made_up(folder, raw=None, sweep=False, **given)
    (folder / "result.json").unlink()
    write_json(folder / "status.json", Status(status, 7, 20, 1, "elsewhere", error))
    return folder


NASTY = {
    "markup": "[red]x[/red] [/nothing] [bold",
    "emoji code": ":smile:",
    "lines": "two\nlines\r\nand\ta tab",
    "table": "a|b \\| `c` *d* <e>",
    "csv": "comma, \"quotes\"; 'more', =1+1",
    "letters": "naïve 日本 🎉",
    "surrogate": "of a name \udcff of a file",
    "escape": "\x1b[2J\x07\x00",
    "formula": "$x$ $\\bad{$",
    "underscore": "_hidden",
    "format": "{0} %s %(x)d",
    "long": "Ж" * 5000,
}
"""Texts that some output takes for more than text."""


@contextmanager
def stopping_at_checkpoints(patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Within, training is interrupted right after each checkpoint; gives the steps of those that were made."""
    save, steps = checkpoint.save, []

    def save_and_stop(folders: Sequence[Path], step: int, states: Sequence[State], run_by: Sequence[Any]) -> None:
        save(folders, step, states, run_by)
        steps.append(step)
        raise KeyboardInterrupt

    with patch.context() as patched:
        patched.setattr(checkpoint, "save", save_and_stop)
        yield steps
