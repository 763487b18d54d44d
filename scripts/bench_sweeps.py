"""Whole sweeps, wall time from the command to its end, beside Hydra's joblib launcher and Stable-Baselines3.

What `make bench` runs after bench.py; needs the extra `bench`. Two comparisons, all of DQN on CartPole-v1 (network 120-84,
batch 128, one gradient step for ten environment steps) with the same number of environments on both sides:

* 32 jobs (none, l0, l1, l2 x 8 seeds) on two cores: as populations in two processes, as one process a job by
  `hydra/launcher=joblib`, and by Stable-Baselines3 two at a time, of which two are measured and 32 are extrapolated.
* 8 seeds of dense DQN on one core: as one population, and by Stable-Baselines3 one after another, of which one is measured.

Times hold start-up, evaluation, checkpoints and (ours) the rank sweep. Rows and the command go to results/DATE-sweep-speed/.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SEEDS = 8
REGULARIZERS = ("none", "l0", "l1", "l2")

SB3 = """
import sys
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

seed, steps, envs = map(int, sys.argv[1:])
torch.set_num_threads(1)
model = DQN(
    "MlpPolicy", make_vec_env("CartPole-v1", n_envs=envs, seed=seed), seed=seed, device="cpu", learning_rate=2.5e-4,
    buffer_size=500_000, learning_starts=steps // 100, batch_size=128, train_freq=max(1, 10 // envs), gradient_steps=1,
    target_update_interval=1, tau=0.01, exploration_fraction=0.5, policy_kwargs={"net_arch": [120, 84]},
)
model.learn(steps)
print(evaluate_policy(model, make_vec_env("CartPole-v1", n_envs=10, seed=1000 + seed), n_eval_episodes=100)[0])
"""


def seconds(*commands: Sequence[str], cores: Sequence[int]) -> float:
    """Wall time of commands that run at once, each with one thread, on these cores."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        for command in commands
    ]
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(f"{process.args} failed:\n{errors}")
    return time.perf_counter() - started


def sweep(folder: Path, regularizers: Sequence[str], steps: int, envs: int, *more: str) -> list[str]:
    """The command of a sweep into ``folder``."""
    return [
        *(sys.executable, "-m", "sparserl.train", "-m", f"hydra.sweep.dir={folder}", "logger=disk"),
        *(f"regularizer={','.join(regularizers)}", f"seed=range({SEEDS})", f"trainer.total_steps={steps}"),
        *(f"trainer.envs={envs}", *more),
    ]


def sb3(seed: int, steps: int, envs: int) -> list[str]:
    """The command of one run of Stable-Baselines3."""
    return [sys.executable, "-c", SB3, str(seed), str(steps), str(envs)]


def many_jobs(folder: Path, cores: list[int], steps: int, envs: int) -> list[dict[str, Any]]:
    """32 jobs on two cores."""
    jobs, two = len(REGULARIZERS) * SEEDS, cores[-2:]
    ours = sweep(folder / "ours", REGULARIZERS, steps, envs, "hydra.launcher.executor=processes")
    joblib = sweep(folder / "joblib", REGULARIZERS, steps, envs, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    found = {
        "populations, 2 processes": seconds(ours, cores=two),
        "joblib, a process a job": seconds(joblib, cores=two),
        "Stable-Baselines3, two at a time": seconds(sb3(0, steps, envs), sb3(1, steps, envs), cores=two) * jobs / 2,
    }
    return [{"what": f"{jobs} jobs, 2 cores", "by": by, "steps": steps, "envs": envs, "seconds": s} for by, s in found.items()]


def one_population(folder: Path, cores: list[int], steps: int, envs: int) -> list[dict[str, Any]]:
    """8 seeds of dense DQN on one core."""
    one = cores[-1:]
    found = {
        "one population": seconds(sweep(folder / f"dense-{envs}", ["none"], steps, envs), cores=one),
        "Stable-Baselines3, one after another": seconds(sb3(0, steps, envs), cores=one) * SEEDS,
    }
    return [{"what": f"{SEEDS} seeds, 1 core", "by": by, "steps": steps, "envs": envs, "seconds": s} for by, s in found.items()]


def main() -> None:
    """Measure everything, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of each of the 32 jobs")
    parser.add_argument("--dense-steps", type=int, default=500_000, help="environment steps of each of the 8 seeds")
    parser.add_argument("--envs", type=int, default=10, help="environments of each run")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed")
    with tempfile.TemporaryDirectory(dir=".") as root:  # on the disk where runs are kept
        rows = many_jobs(Path(root), cores, options.steps, options.envs)
        rows += one_population(Path(root), cores, options.dense_steps, options.envs)
    table = Table("what", "by", "steps each", "environments each", "seconds", "times as long as ours")
    ours = {row["what"]: row["seconds"] for row in rows if "population" in row["by"]}
    for row in rows:
        row["times"] = row["seconds"] / ours[row["what"]]
        table.add_row(
            row["what"], row["by"], str(row["steps"]), str(row["envs"]), f"{row['seconds']:.0f}", f"{row['times']:.2f}"
        )
    folder = Path("results") / f"{date.today()}-sweep-speed"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    given = f"--steps {options.steps} --dense-steps {options.dense_steps} --envs {options.envs}"
    with (folder / "table.txt").open("w") as file:
        for console in (Console(width=140), Console(file=file, width=140)):
            console.print(f"command: python scripts/bench_sweeps.py {given}")
            console.print(table)
    print(f"rows and table: {folder}")


if __name__ == "__main__":
    main()
