"""Jobs of a multirun train together, and nobody can tell."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from launching import MOVING, Sweep, jobs, outcome
from omegaconf import DictConfig

from hydra_plugins.sparserl_population import PopulationLauncher
from sparserl.runs.files import read_json
from sparserl.sweeps.launcher import Settings


@pytest.mark.slow  # the next test has groups of two sizes, and tests/population has members whose gates move
def test_results_do_not_depend_on_how_jobs_were_grouped(sweep: Sweep) -> None:
    values = "regularizer.lambda_c=1,100,1000", "regularizer.beta=0.5,0.9", "seed=3,7"
    together, *others = (
        outcome(sweep(*values, *MOVING, f"hydra.launcher.max_members={size}", folder=f"at most {size}")) for size in (12, 4, 1)
    )
    assert len(set(together.values())) == len(together) == 12, "jobs that are all alike would show nothing"
    assert all(other == together for other in others)


def test_results_do_not_depend_on_which_regularizers_share_a_loop(sweep: Sweep) -> None:
    together, *others = (
        outcome(sweep("regularizer=none,l0,l1", "seed=3,7", f"hydra.launcher.max_members={size}", folder=f"at most {size}"))
        for size in (6, 4)  # 4: two loops of three, and in each one member of l0
    )
    assert len(set(together.values())) == len(together) == 6, "jobs that are all alike would show nothing"
    assert all(other == together for other in others)


def test_it_gives_what_hydras_own_launcher_gives(sweep: Sweep) -> None:
    two = "regularizer=none,l1", "seed=0"
    assert outcome(sweep(*two, folder="ours")) == outcome(sweep(*two, "hydra/launcher=basic", folder="basic"))


def test_every_job_has_a_folder_like_that_of_a_run_of_its_own(sweep: Sweep) -> None:
    for folder in jobs(sweep("regularizer=none,l1", "regularizer.lambda_c=1e-2", "seed=0,1")):
        config = read_json(folder / "config.json")
        given = yaml.safe_load((folder / ".hydra/overrides.yaml").read_text())
        assert {f"seed={config['seed']}", f"regularizer={config['names']['regularizer']}"} <= set(given)
        assert read_json(folder / "status.json")["status"] == "done"
        assert read_json(folder / "result.json")["seed"] == config["seed"]


class Witness(Callback):  # type: ignore[misc]
    """Notes what Hydra tells a callback."""

    seen: ClassVar[list[tuple[str, Any]]] = []

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self.seen.append(("start", config.seed))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        self.seen.append(("end", (config.seed, job_return.status, job_return.return_value)))


def test_callbacks_and_sweepers_see_every_job_with_its_own_objective(sweep: Sweep) -> None:
    Witness.seen.clear()
    root = sweep(
        "regularizer=none", "seed=0,1,2", f"+hydra.callbacks.witness._target_={__name__}.Witness", "objective=csr_bytes"
    )
    assert [seed for what, seed in Witness.seen[:3] if what == "start"] == [0, 1, 2], "all begin before the population trains"
    ends = sorted(value for what, value in Witness.seen if what == "end")
    assert ends == [
        (seed, JobStatus.COMPLETED, float(read_json(folder / "result.json")["csr_bytes"]))
        for seed, folder in enumerate(jobs(root))
    ]


def test_batches_of_a_sweeper_are_launched_one_after_another(sweep: Sweep) -> None:
    root = sweep("regularizer=none", "seed=0,1,2", "hydra.sweeper.max_batch_size=2")
    assert [read_json(folder / "result.json")["seed"] for folder in jobs(root)] == [0, 1, 2]
    numbers = [yaml.safe_load((folder / ".hydra/hydra.yaml").read_text())["hydra"]["job"]["num"] for folder in jobs(root)]
    assert numbers == [0, 1, 2]


def test_jobs_that_are_the_same_run_are_trained_once(sweep: Sweep) -> None:
    """``none`` has no lambda_c: two of its three jobs are one run."""
    root = sweep("regularizer=none,l1", "regularizer.lambda_c=1e-3,1e-2", "seed=0")
    assert len(jobs(root)) == 3
    (again,) = root.glob("*-again-*")
    status = read_json(again / "status.json")
    assert status["status"] == "duplicate"
    assert read_json(root / status["of"] / "status.json")["status"] == "done"
    assert not (again / "metrics.jsonl").exists()


SUBDIR = "hydra.sweep.subdir=seed${seed}"


@pytest.mark.parametrize("launcher", ["population", "basic"])
def test_two_configs_in_one_folder_are_refused_and_not_taken_for_one_run(
    launcher: str, sweep: Sweep, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second of them used to be called a duplicate: it was not trained, and the exit code was 0."""
    with pytest.raises(SystemExit) as ended:
        sweep("regularizer=l1,none", "seed=0,1", SUBDIR, f"hydra/launcher={launcher}")
    printed = capfd.readouterr().out
    for seed in (0, 1):
        folder = tmp_path / f"here/outputs/mine/seed{seed}"
        assert read_json(folder / "result.json")["regularizer"] == "l1"
        if launcher == "population":  # Hydra's own launchers write there before anything can be said
            assert "regularizer=l1" in yaml.safe_load((folder / ".hydra/overrides.yaml").read_text())
            assert f"dqn-cartpole-l1-lambda0.01-seed{seed} and dqn-cartpole-none-seed{seed} are two" in printed
    assert "seed0" in str(ended.value)
    assert "regularizer._target_" in str(ended.value)


def test_a_subdir_of_ones_own_that_tells_configs_apart_holds_them(sweep: Sweep) -> None:
    root = sweep("regularizer=l1,none", "seed=0", "hydra.sweep.subdir=${names.regularizer}/seed${seed}")
    assert {path.parent.parent.name for path in root.glob("*/seed0/result.json")} == {"l1", "none"}


def test_a_subdir_that_a_config_has_no_values_for_is_an_error_of_that_job(sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"hydra\.sweep\.subdir: .*initial_open"):
        sweep("regularizer=l1,l0", "seed=0", "hydra.sweep.subdir=open${regularizer.initial_open}")
    (trained,) = (tmp_path / "here/outputs/mine").glob("*/result.json")
    assert trained.parent.name == "open0.99"


def test_one_config_in_two_folders_is_trained_once(sweep: Sweep) -> None:
    """Configs alone decide what is the same run."""
    root = sweep("regularizer=none", "regularizer.lambda_c=1,2", "seed=0", "hydra.sweep.subdir=${hydra.job.num}")
    assert len(list(root.glob("*/result.json"))) == 1
    (again,) = root.glob("*-again-*")
    assert read_json(again / "status.json")["of"] == "0"


@pytest.mark.parametrize("launcher", ["population", "basic"])
def test_a_working_directory_for_each_job_leaves_folders_and_starts_where_they_belong(launcher: str, sweep: Sweep) -> None:
    """With several jobs in a loop each one's folder used to be looked for in that of the job before."""
    own = "hydra.job.chdir=true", f"hydra/launcher={launcher}", "regularizer=none"
    root = sweep(*own, "seed=0,1,2")
    assert len(jobs(root)) == 3
    assert sorted(root.rglob(".hydra")) == [folder / ".hydra" for folder in jobs(root)]
    assert sorted(root.rglob("run.log")) == [folder / "run.log" for folder in jobs(root)]
    sweep(*own, "seed=0,1", "init_from=outputs/mine/*-none-seed${seed}-*", "sweep_name=started")
    started = jobs(root.with_name("started"))
    assert [read_json(folder / "status.json")["status"] for folder in started] == ["done", "done"]


def test_the_same_sweep_trains_only_what_is_new(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    root = sweep("regularizer=none", "seed=0,1")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.glob("*/**/*") if path.is_file()}
    sweep("regularizer=none", "seed=0,1,2", "regularizer.lambda_c=5")  # null for none, so no new setting
    assert "1 to train, 2 ended before" in capsys.readouterr().err
    assert len(jobs(root)) == 3
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("max_members=0", "hydra.launcher.max_members is 0; it must be 1 or more"),
        ("workers=0", "hydra.launcher.workers is 0; it must be 1 or more, or null"),
        ("executor=magic", "hydra.launcher.executor is 'magic'; it must be inline, processes or slurm"),
    ],
)
def test_a_wrong_setting_is_one_sentence(sweep: Sweep, setting: str, sentence: str) -> None:
    with pytest.raises(SystemExit) as ended:
        sweep("seed=0,1", f"hydra.launcher.{setting}")
    assert str(ended.value) == f"sparserl: {sentence}"


def test_the_settings_are_the_keys_of_the_yaml() -> None:
    path = Path(__file__).parents[2] / "conf/hydra/launcher/population.yaml"
    settings = yaml.safe_load(path.read_text())
    del settings["_convert_"]
    assert settings.pop("_target_") == f"{PopulationLauncher.__module__}.{PopulationLauncher.__name__}"
    assert asdict(Settings(**settings)) == settings
