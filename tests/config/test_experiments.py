"""Every experiment runs as it is typed, in the order in which its files say; here with a few steps and little networks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sparserl.config.schema import CONF
from sparserl.config.validation import compose

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_says_how_it_is_run_and_keeps_its_runs_in_one_folder(name: str) -> None:
    assert f"python -m sparserl.train -m experiment={name}" in (CONF / "experiment" / f"{name}.yaml").read_text()
    assert compose(f"experiment={name}", "init_from=null", "trainer=smoke")["sweep_name"] not in ("sweep", None)


@pytest.mark.parametrize("name", ["first_steps", "first_steps_from_dense"])
def test_the_first_steps_are_factored_at_ranks_1_to_10(name: str) -> None:
    assert compose(f"experiment={name}", "init_from=null")["lowrank"]["ranks"] == [*range(1, 11)]


def test_settings_of_a_pair_give_way_to_experiments_and_those_to_the_command_line(tmp_path: Path) -> None:
    for name, text in {
        "tuned/dqn-mountain_car-l0": "device: cpu\nseed: 1\nobjective: sparsity",  # train.yaml: auto, 0, return_mean
        "experiment/mine": "seed: 2\nobjective: sparsity",
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir()
        path.write_text(f"# @package _global_\n{text}\n")
    config = compose(
        f"hydra.searchpath=[file://{tmp_path}]", "environment=mountain_car", "experiment=mine", "objective=return_std"
    )
    assert (config["device"], config["seed"], config["objective"]) == ("cpu", 2, "return_std")


@pytest.mark.slow  # eight jobs, each a small training with its ranks and its picture
def test_the_first_steps_are_trained_dense_sparse_and_from_dense(tmp_path: Path) -> None:
    for name in ("first_steps", "first_steps_from_dense"):
        command = [sys.executable, "-m", "sparserl.train", "-m", f"experiment={name}"]
        overrides = "trainer=smoke", "network.hidden=[16,16]", "seed=0", "lowrank.ranks=[1,3]"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [*command, *overrides], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    folders = [path.parent for path in (tmp_path / "outputs" / "first_steps").glob("*/result.json")]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    found = Counter(
        (result["regularizer"], result["reduction"], config["init_from"] is not None)
        for result, config in zip(results, configs, strict=True)
    )
    # dense once: a reduction means nothing to it
    sparse = [("l0", "mean", False), ("l0", "sum", False), ("l1", "mean", False), ("l1", "sum", False)]
    assert found == Counter([("none", None, False), *sparse, ("l0", "mean", True), ("l0", "sum", True)])
    assert all(result["lambda_c"] == (None if result["regularizer"] == "none" else 1e-3) for result in results)
    for folder in folders:
        ranks = [line.split(",")[0] for line in (folder / "lowrank.csv").read_text().splitlines()[1:]]
        assert ranks == ["1", "3", "full"]
