"""Whole sweeps, wall time from the command to its end, beside Hydra's joblib launcher and Stable-Baselines3.

What `make bench` runs after bench.py; needs the extra `bench`. Two comparisons, all of DQN on CartPole-v1 (network 120-84,
batch 128, one gradient step for ten environment steps) with the same number of environments on both sides:

* 32 jobs (none, l0, l1, l2 x 8 seeds) on two cores: as populations in two processes; as one process a job by
  `hydra/launcher=joblib`, measured on 8 of them and extrapolated; and by Stable-Baselines3 two at a time, of which two are
  measured and 32 are extrapolated.
* 8 seeds of dense DQN on one core: as one population, and by Stable-Baselines3 one after another, of which one is measured.

Times hold start-up, evaluation, checkpoints and (ours) compiling, the sweep of all ranks and a figure of every run. How long
the 32 take with one rank and `full` only is a row of its own, since Stable-Baselines3 sweeps none. Extrapolated is all but the
import of the command. Rows with their command, and a table for docs/benchmarks.md, go to results/sweep-speed/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import pin
from measurements import Measurements, folder_of

from sparserl.sweeps.executors.processes import usable_cores

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
    "MlpPolicy", make_vec_env("CartPole-v1", n_envs=envs, seed=seed), seed=seed, device="cpu",
    learning_rate=lambda left: 1e-3 * left, buffer_size=500_000, learning_starts=steps // 100, batch_size=128,
    train_freq=max(1, 10 // envs), gradient_steps=1,  # counted in steps of the vector: ten environment steps
    target_update_interval=10, tau=0.01,  # counted in environment steps: once a gradient step
    exploration_fraction=0.1, exploration_final_eps=0.1, max_grad_norm=float("inf"), policy_kwargs={"net_arch": [120, 84]},
)
model.learn(steps)
print(evaluate_policy(model, make_vec_env("CartPole-v1", n_envs=10, seed=1000 + seed), n_eval_episodes=100)[0])
"""


def run(*commands: Sequence[str], cores: Sequence[int]) -> tuple[float, list[str]]:
    """Wall time of commands that run at once, each with one thread, on these cores; and what each printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: pin(cores),
        )
        for command in commands
    ]
    printed = []
    for process in running:
        output, errors = process.communicate()
        if process.returncode:
            sys.exit(f"{process.args} failed:\n{errors}")
        printed.append(output)
    return time.perf_counter() - started, printed


def sweep(folder: Path, regularizers: Sequence[str], seeds: int, steps: int, envs: int, *more: str) -> list[str]:
    """The command of a sweep into ``folder``."""
    return [
        *(sys.executable, "-m", "sparserl.train", "-m", f"hydra.sweep.dir={folder}", "logger=disk"),
        *(f"regularizer={','.join(regularizers)}", f"seed=range({seeds})", f"trainer.total_steps={steps}"),
        *(f"trainer.num_envs={envs}", *more),
    ]


def sb3(seed: int, steps: int, envs: int) -> list[str]:
    """The command of one run of Stable-Baselines3, which prints its return."""
    return [sys.executable, "-c", SB3, str(seed), str(steps), str(envs)]


def returns(folder: Path) -> str:
    """The evaluated returns of a sweep's runs."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
    return " ".join(f"{result['return_mean']:.0f}" for result in results)


def many_jobs(
    folder: Path, cores: list[int], steps: int, envs: int, with_one_rank: bool, with_joblib: bool
) -> list[dict[str, Any]]:
    """32 jobs on two cores."""
    jobs, two = len(REGULARIZERS) * SEEDS, cores[-2:]
    ours = "hydra.launcher.executor=processes"
    whole, _ = run(sweep(folder / "ours", REGULARIZERS, SEEDS, steps, envs, ours), cores=two)
    pair, _ = run(sb3(0, steps, envs), sb3(1, steps, envs), cores=two)
    found = {
        "populations, 2 processes": whole,
        "Stable-Baselines3, two at a time": pair * jobs / 2,
    }
    if with_one_rank:
        found["populations, one rank and full"], _ = run(
            sweep(folder / "few", REGULARIZERS, SEEDS, steps, envs, ours, "lowrank.ranks=[1]"), cores=two
        )
    if with_joblib:
        start, _ = run([sys.executable, "-c", "import sparserl.train"], cores=two)
        joblib = "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"
        eight, _ = run(sweep(folder / "joblib", REGULARIZERS, 2, steps, envs, *joblib), cores=two)
        found["joblib, a process a job"] = start + (eight - start) * SEEDS / 2
    common = {"what": f"{jobs} jobs, 2 cores", "steps": steps, "envs": envs, "returns": ""}
    return [common | {"by": by, "seconds": s, "times": s / whole} for by, s in found.items()]


def one_population(folder: Path, cores: list[int], steps: int, envs: int) -> list[dict[str, Any]]:
    """8 seeds of dense DQN on one core."""
    one, dense = cores[-1:], folder / f"dense-{envs}"
    ours, _ = run(sweep(dense, ["none"], SEEDS, steps, envs), cores=one)
    alone, printed = run(sb3(0, steps, envs), cores=one)
    common = {"what": f"{SEEDS} seeds, 1 core", "steps": steps, "envs": envs}
    theirs = alone * SEEDS
    return [
        common | {"by": "one population", "seconds": ours, "times": 1.0, "returns": returns(dense)},
        common
        | {
            "by": "Stable-Baselines3, one after another",
            "seconds": theirs,
            "times": theirs / ours,
            "returns": f"{float(printed[0]):.0f}",
        },
    ]


MEASUREMENTS = Measurements(
    {
        "what": "what",
        "by": "by",
        "steps": "steps each",
        "envs": "environments each",
        "seconds": "seconds",
        "times": "times as long as ours",
        "returns": "returns",
        "date": "date",
    },
    key=("what", "by", "steps", "envs"),
    readable=lambda row: {
        "steps": f"{int(row['steps']):,}",
        "seconds": f"{float(row['seconds']):,.0f}",
        "times": f"{float(row['times']):.2f}",
    },
    order=lambda row: (row["what"], int(row["steps"]), int(row["envs"])),
)


def main() -> None:
    """Measure everything, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=100_000, help="environment steps of each of the 32 jobs; 0 leaves them out"
    )
    parser.add_argument(
        "--dense-steps", type=int, default=500_000, help="environment steps of each of the 8 seeds; 0 leaves them out"
    )
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 10], help="environments of each run")
    choice = argparse.BooleanOptionalAction
    parser.add_argument("--joblib", action=choice, default=True, help="whether the launcher joblib is measured")
    parser.add_argument("--one-rank", action=choice, default=True, help="whether populations are measured with one rank too")
    options = parser.parse_args()
    cores = usable_cores()
    if len(cores) < 2:
        sys.exit("two cores are needed")
    folder = folder_of("sweep-speed")
    for envs in options.envs:
        with tempfile.TemporaryDirectory(dir=".") as root:  # on the disk where runs are kept
            os.environ["XDG_CACHE_HOME"] = str(Path(root, "cache").resolve())  # so that compiling is part of the time
            if options.steps:
                print(
                    MEASUREMENTS.add(
                        folder, many_jobs(Path(root), cores, options.steps, envs, options.one_rank, options.joblib)
                    )
                )
            if options.dense_steps:
                print(MEASUREMENTS.add(folder, one_population(Path(root), cores, options.dense_steps, envs)))
    print(f"rows and table: {folder}")


if __name__ == "__main__":
    main()
