"""The jobs of experiment=first_steps and first_steps_from_dense, three seeds at once; then their table. What is in the README.

The same folders, configs and results as by `python -m sparserl.train -m experiment=...`, but the seeds of each setting train
as one population, two populations at a time. Started again, it goes on where it was. Table, rows and figure go to
results/DATE-first-steps/.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

from sparserl.build import compose
from sparserl.train import job_name, run

SEEDS = (0, 1, 2)
FIRST = [("none", "mean"), *((regularizer, reduction) for regularizer in ("l1", "l0") for reduction in ("mean", "sum"))]
"""Dense once: a reduction means nothing to it."""
FROM_DENSE = [("l0", "mean"), ("l0", "sum")]


def train(experiment: str, regularizer: str, reduction: str) -> None:
    """One setting, its seeds as one population."""
    chosen = f"experiment={experiment}", f"regularizer={regularizer}", f"regularizer.reduction={reduction}", "logger=disk"
    configs = [compose(*chosen, f"seed={seed}") for seed in SEEDS]
    run(configs, [Path("outputs") / config["sweep"] / job_name(config) for config in configs], live=False)


def main() -> None:
    """Train what is not there yet, and report."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for experiment, settings in (("first_steps", FIRST), ("first_steps_from_dense", FROM_DENSE)):
            jobs = [pool.submit(train, experiment, *setting) for setting in settings]
            for job in jobs:
                job.result()
    to = f"results/{date.today()}-first-steps"
    subprocess.run([sys.executable, "-m", "sparserl.report", "outputs/first_steps", "--to", to], check=True)


if __name__ == "__main__":
    main()
