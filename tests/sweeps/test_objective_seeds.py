"""A job of several seeds: trained as one population, and one number for a sweeper."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from multiruns import sweep as typed

from sparserl.config.schema import Config
from sparserl.report.statistics import iqm
from sparserl.runs.files import read_json
from sparserl.runs.schema import Result
from sparserl.sweeps import launcher
from sparserl.sweeps.jobs import Job, JobError, objective
from sparserl.train import main

SMOKE = ("-m", "trainer=smoke", "logger=disk", "sweep_name=mine")
SHORT = ("trainer.total_steps=100", "network.hidden=[8]", "regularizer=none", "objective_seeds=5")

Start = Callable[..., list[JobReturn]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """``python -m sparserl.train -m`` in this process and without pictures; what the launcher gave the sweeper."""
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
    monkeypatch.chdir(tmp_path)
    launch = launcher.launch
    given: list[JobReturn] = []

    def keep(*arguments: Any) -> list[JobReturn]:
        returns = launch(*arguments)
        given.extend(returns)
        return returns

    monkeypatch.setattr(launcher, "launch", keep)

    def run(*overrides: str) -> list[JobReturn]:
        given.clear()
        monkeypatch.setattr(sys, "argv", ["sparserl-train", *SMOKE, *overrides])
        main()
        return list(given)

    return run


def results(root: Path = Path("outputs/mine")) -> list[dict[str, Any]]:
    return [read_json(path) for path in sorted(root.glob("*/result.json"))]


def test_each_job_is_a_run_for_each_seed_and_a_sweeper_is_told_their_iqm(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loops: list[int] = []
    train = launcher.run

    def count(configs: Sequence[Config], *arguments: Any) -> Any:
        loops.append(len(configs))
        return train(configs, *arguments)

    monkeypatch.setattr(launcher, "run", count)
    returns = start(*SHORT, "regularizer=l1", "objective=sparsity", "regularizer.zero_threshold=0.1,0.3", "seed=3")
    assert loops == [10], "all seeds of both jobs train at once"
    assert [its.overrides[-2:] for its in returns] == [
        ["regularizer.zero_threshold=0.1", "seed=3"],
        ["regularizer.zero_threshold=0.3", "seed=3"],
    ]
    found = results()
    assert sorted((row["zero_threshold"], row["seed"]) for row in found) == [(t, s) for t in (0.1, 0.3) for s in range(3, 8)]
    for its, threshold in zip(returns, (0.1, 0.3), strict=True):
        values = [row["sparsity"] for row in found if row["zero_threshold"] == threshold]
        assert its.return_value == iqm(values) != fmean(values), "or any mean would be theirs"
    assert "the IQM of seeds 3 to 7" in capsys.readouterr().err


def test_each_seed_has_the_folder_of_the_same_run_without_them(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """So a search trains nothing that another sweep has trained, and says of each run how it was composed."""
    start("trainer.total_steps=100", "network.hidden=[8]", "regularizer=none", "seed=0,1")
    capsys.readouterr()
    start(*SHORT[:-1], "objective_seeds=3")
    assert "3 jobs: 1 to train, 2 ended before" in capsys.readouterr().err
    assert [row["seed"] for row in results()] == [0, 1, 2]
    for path in Path("outputs/mine").glob("*/.hydra/overrides.yaml"):
        given = [each for each in yaml.safe_load(path.read_text()) if each.startswith("seed=")]
        assert given == [f"seed={read_json(path.parents[1] / 'config.json')['seed']}"]
    numbers = [
        yaml.safe_load(path.read_text())["hydra"]["job"]["num"] for path in Path("outputs/mine").glob("*/.hydra/hydra.yaml")
    ]
    assert sorted(numbers) == [0, 1, 2]


def test_seeds_that_learned_nothing_count_as_their_whole_policies(start: Start) -> None:
    (its,) = start(*SHORT, "objective=return_lowrank")
    found = results()
    lost = [row["rank_reason"] == "not_learned" for row in found]
    assert any(lost)
    assert all((row["return_lowrank"] is None) == nothing for row, nothing in zip(found, lost, strict=True))
    counted = [row["return_mean" if nothing else "return_lowrank"] for row, nothing in zip(found, lost, strict=True)]
    assert its.return_value == pytest.approx(iqm(counted))


def test_a_job_of_which_one_seed_diverged_has_failed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(job: Job, result: Result) -> float | None:
        if job.config["seed"] == 2:
            raise JobError(job.folder.name, "its loss was not finite")
        return objective(job, result)

    returns: list[JobReturn] = []
    joined = launcher._joined
    monkeypatch.setattr(launcher, "objective", told)
    monkeypatch.setattr(launcher, "_joined", lambda *its: returns.append(joined(*its)) or returns[-1])
    with pytest.raises(SystemExit, match=r"seed2-.* failed: its loss was not finite"):
        start(*SHORT)
    assert [(its.status, its.overrides[-1]) for its in returns] == [(JobStatus.FAILED, "objective_seeds=5")]
    assert len(results()) == 5, "the others are trained all the same"


@pytest.mark.parametrize("count", ["0", "-1", "2.5", "many"])
def test_what_is_no_number_of_seeds_is_refused(count: str, start: Start) -> None:
    with pytest.raises(SystemExit, match=f"objective_seeds is .*{count}"):
        start(*SHORT[:-1], f"objective_seeds={count}")
    assert not results()


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [(("hydra.run.dir=single",), "start a sweep with -m"), (("-m", "hydra/launcher=basic"), "hydra/launcher=population")],
    ids=["one run", "another launcher"],
)
def test_where_nothing_makes_runs_of_the_seeds_it_is_refused(
    arguments: tuple[str, ...], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparserl-train", *arguments, "trainer=smoke", "logger=disk", "objective_seeds=8"])
    with pytest.raises(SystemExit, match=f"objective_seeds is 8; .*{re.escape(remedy)}"):
        main()


@pytest.mark.slow  # Optuna, and a process of its own
def test_optuna_searches_over_the_iqm_of_several_seeds(tmp_path: Path) -> None:
    root = typed(
        tmp_path,
        *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2", "hydra.sweeper.direction=maximize"),
        *("hydra.sweeper.sampler.seed=1", "regularizer=l1", "regularizer.lambda_c=interval(0.001, 1.0)"),
        *("objective_seeds=4", "network.hidden=[8]"),
    )
    trials: dict[float, list[float]] = {}
    for row in results(root):
        trials.setdefault(row["lambda_c"], []).append(row["return_mean"])
    assert [len(values) for values in trials.values()] == [4] * 3
    best = re.search(r"best_value: (\S+)", (root / "optimization_results.yaml").read_text())
    assert best
    assert float(best[1]) == max(map(iqm, trials.values()))
