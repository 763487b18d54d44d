"""The main job on CartPole: dense and L0 policies, trained for real and cut to every rank. What `make demo` runs.

Each regulariser trains its seeds as one population, in a process of its own, with the shipped settings.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from statistics import fmean

import torch
from rich.table import Table

from sparserl import load_policy
from sparserl.build import compose
from sparserl.records.console import print_results, print_table
from sparserl.records.schema import Result
from sparserl.report.figures import compare
from sparserl.train import run

REGULARIZERS = ("none", "l0")
SEEDS = (0, 1, 2)


def folder(root: Path, regularizer: str, seed: int) -> Path:
    """Where one policy goes."""
    return root / f"{regularizer}-seed{seed}"


def train(root: Path, regularizer: str, overrides: list[str]) -> list[Result]:
    """One population: a regulariser's seeds."""
    configs = [compose(f"regularizer={regularizer}", f"seed={seed}", "logger=disk", *overrides) for seed in SEEDS]
    return run(configs, [folder(root, regularizer, seed) for seed in SEEDS], live=False)


def compare_results(results: dict[str, list[Result]]) -> Table:
    """A row for each regulariser: means over the seeds, with the lowest and the highest."""
    columns = (
        "regularizer",
        "seeds",
        "return",
        "sparsity",
        "weights left",
        "selected rank of each",
        "compression at it",
        "return at it",
    )
    table = Table(*columns, title="CartPole-v1, DQN, last policy, greedy")
    for regularizer, rows in results.items():
        left = [row.nonzero_weights for row in rows]
        table.add_row(
            regularizer,
            str(len(rows)),
            spread([row.return_mean for row in rows]),
            f"{fmean(row.sparsity for row in rows):.1%}",
            f"{fmean(left):.0f} of {rows[0].policy_weights} [{min(left)}, {max(left)}]",
            ", ".join("-" if row.rank is None else str(row.rank) for row in rows),
            spread([100 * row.compression for row in rows if row.compression is not None], " %"),
            spread([row.return_lowrank for row in rows if row.return_lowrank is not None]),
        )
    return table


def spread(values: list[float], unit: str = "") -> str:
    """Mean, lowest and highest; a dash where there is nothing."""
    return f"{fmean(values):.1f}{unit} [{min(values):.1f}, {max(values):.1f}]" if values else "-"


def main(overrides: list[str]) -> None:
    """Train, compare, and use a trained policy. Overrides hold for both regularisers."""
    started = time.perf_counter()
    root = Path("outputs") / "demo" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    with ProcessPoolExecutor(len(REGULARIZERS), multiprocessing.get_context("spawn")) as pool:
        jobs = {regularizer: pool.submit(train, root, regularizer, overrides) for regularizer in REGULARIZERS}
        results = {regularizer: job.result() for regularizer, job in jobs.items()}
    print_results([row for rows in results.values() for row in rows])
    print_table(compare_results(results))
    sparse = folder(root, REGULARIZERS[-1], SEEDS[0])
    values = load_policy(sparse)(torch.zeros(1, 4))[0].tolist()
    print(f"sparserl.load_policy({str(sparse)!r}) at the origin: action values {values[0]:.2f} (left), {values[1]:.2f} (right)")
    print(f"watch it where there is a display: python -m sparserl.play {sparse}")
    print(f"rows, results, policies and a figure of each: {root} ({time.perf_counter() - started:.0f} s)")
    print(f"figure: {compare([root], root / 'comparison.png')}")


if __name__ == "__main__":
    main(sys.argv[1:])
