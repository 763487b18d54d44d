"""Hydra's multiruns from the command line: with our launcher in several processes, with Hydra's own, and with Optuna."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from multiruns import LONG, begin, killed, outcome, sweep, wait_for

from sparserl.runs.files import read_json


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_hydras_other_launchers_give_the_same(launcher: str, tmp_path: Path) -> None:
    jobs = "regularizer=none,l1", "seed=0"
    ours, theirs = sweep(tmp_path / "ours", *jobs), sweep(tmp_path / "theirs", *jobs, f"hydra/launcher={launcher}")
    assert len(outcome(ours)) == 2
    assert outcome(theirs) == outcome(ours)


@pytest.mark.slow
def test_optunas_batches_are_populations(tmp_path: Path) -> None:
    root = sweep(
        tmp_path,
        *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweeper.direction=maximize"),
        *("hydra.sweeper.sampler.seed=1", "regularizer=l1", "regularizer.lambda_c=interval(0.001, 1.0)"),
    )
    results = [read_json(path) for path in root.glob("*/result.json")]
    assert len({result["lambda_c"] for result in results}) == 4
    best = max(result["return_mean"] for result in results)
    found = re.search(r"best_value: (\S+)", (root / "optimization_results.yaml").read_text())
    assert found
    assert float(found[1]) == best


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["retention", "compression", "return_lowrank"])
def test_a_study_of_runs_that_learned_nothing_ends_in_order(objective: str, tmp_path: Path) -> None:
    """No rank is selected for them; told None, Optuna ended with: No trials are completed yet."""
    root = sweep(
        tmp_path,
        *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize"),
        *("regularizer=l1", "regularizer.lambda_c=interval(0.001, 1.0)", f"objective={objective}"),
    )
    results = [read_json(path) for path in root.glob("*/result.json")]
    assert [result["rank_reason"] for result in results] == ["not_learned"] * 2, "so this test shows what it is to show"
    told = max(result["return_mean"] for result in results) if objective == "return_lowrank" else 0.0
    assert f"best_value: {told}" in (root / "optimization_results.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hydra/launcher=joblib", "hydra.launcher.executor=processes"])
def test_an_environment_that_raises_fails_its_own_job_only_wherever_jobs_are_trained(how: str, tmp_path: Path) -> None:
    """What it raises cannot be sent to another process."""
    (tmp_path / "failing.py").write_text(FAILING)
    process = begin(
        tmp_path,
        *("regularizer=none", "environment=mountain_car", "environment.id=failing:Failing-v0", "trainer.total_steps=96", how),
        "+environment.arguments.how=made,stepped,exit,never",
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "OddError: on the moon" in errors
    assert errors.splitlines()[-1].startswith("sparserl: ")
    folders = {read_json(path)["environment"]["arguments"]["how"]: path.parent for path in tmp_path.rglob("config.json")}
    statuses = {how: read_json(folder / "status.json")["status"] for how, folder in folders.items()}
    assert statuses == {"made": "failed", "stepped": "failed", "exit": "failed", "never": "done"}
    logs = {how: (folder / "run.log").read_text() for how, folder in folders.items()}
    assert "failed in step 1 of an episode: failing.OddError: on the moon" in logs["stepped"]
    assert "failed in step 1 of an episode: SystemExit: 0" in logs["exit"]
    assert "failing.py" in logs["made"], "where it was raised"


FAILING = """
import sys, threading
import gymnasium
from gymnasium.envs.classic_control import AcrobotEnv

class OddError(Exception):
    def __init__(self, where, when):
        super().__init__(f"on {where}")
        self.lock = threading.Lock()

class Failing(AcrobotEnv):
    def __init__(self, how, **arguments):
        super().__init__(**arguments)
        self.how = how
        if how == "made":
            raise OddError("the moon", "now")

    def step(self, action):
        if self.how == "stepped":
            raise OddError("the moon", "now")
        if self.how == "exit":
            sys.exit(0)
        return super().step(action)

gymnasium.register("Failing-v0", entry_point=Failing, max_episode_steps=20)
"""


@pytest.mark.slow
def test_processes_give_what_one_gives_also_when_all_is_stopped_in_the_middle(tmp_path: Path) -> None:
    """Two populations, SIGTERM to the one that started them, and the same command again."""
    jobs = "regularizer=none,l1", "seed=0,1", *LONG
    whole = outcome(sweep(tmp_path / "whole", *jobs))
    assert len(whole) == 4
    processes = "hydra.launcher.executor=processes", "hydra.launcher.workers=2"
    process = begin(tmp_path / "stopped", *jobs, *processes)
    root = tmp_path / "stopped/outputs/mine"
    wait_for(root, 4, 4)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command again" in errors
    assert "Traceback" not in errors
    assert {read_json(path)["status"] for path in root.glob("*/status.json")} == {"interrupted"}
    process = begin(tmp_path / "stopped", *jobs, *processes)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(re.findall("going on from step", errors)) == 2
    assert outcome(root) == whole


@pytest.mark.slow
def test_killed_in_the_middle_a_sweep_goes_on_where_each_job_was(tmp_path: Path) -> None:
    """The first job is done, the second under way, the third not begun."""
    jobs = "regularizer=none,l1,l2", "seed=0", "hydra.launcher.max_members=1", *LONG
    whole = outcome(sweep(tmp_path / "whole", *jobs))
    killed(tmp_path / "killed", 24 + 5, *jobs)  # each has 24
    root = tmp_path / "killed/outputs/mine"
    done = {path.parent.name for path in root.glob("*/result.json")}
    assert len(done) == 1
    process = begin(tmp_path / "killed", *jobs)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "2 to train, 1 ended before" in errors
    assert outcome(root) == whole


@pytest.mark.slow  # a minute: four loops of processes
def test_killed_in_a_loop_of_several_regularizers_each_job_goes_on_wherever_it_trains(tmp_path: Path) -> None:
    """In the same loop, and a second time each in one of its own."""
    jobs = "regularizer=none,l0,l1,l2", "seed=0", *LONG
    whole = outcome(sweep(tmp_path / "whole", *jobs))
    root = tmp_path / "killed/outputs/mine"
    for rows in (18, 34):  # each in the middle of its fifth row; begun again after its fourth, in the middle of its thirteenth
        killed(tmp_path / "killed", rows, *jobs)
        assert not list(root.glob("*/result.json"))
    process = begin(tmp_path / "killed", *jobs, "hydra.launcher.max_members=1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(re.findall("going on from step", errors)) == 4
    assert outcome(root) == whole
