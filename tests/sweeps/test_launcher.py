"""Jobs of a multirun train together, and nobody can tell."""

from __future__ import annotations

import gc
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import pytest
import yaml
from folders import stopping_at_checkpoints
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from hydra_plugins.sparserl_population import PopulationLauncher
from sparserl import terminal
from sparserl.config.schema import Config
from sparserl.experience.selection import Selection
from sparserl.lowrank.sweep import RankSweep
from sparserl.regularizers.l1 import L1
from sparserl.runs.files import read_json
from sparserl.sweeps import launcher
from sparserl.sweeps.launcher import Settings
from sparserl.train import main
from sparserl.training.learner import Learner

# an episode of Acrobot lasts 500 steps, and an evaluation as long as its longest episode
SMOKE = (
    "-m", "trainer=smoke", "logger=disk", "sweep_name=mine", "lowrank.ranks=[2]", "lowrank.episodes=2",
    "environment.max_episode_steps=40",
)  # fmt: skip
MOVING = ("regularizer.delay_steps=0", "regularizer.ramp_steps=0")

Sweep = Callable[..., Path]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """``python -m sparserl.train`` with the smoke settings, in this process and without pictures; the sweep's folder."""
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
    terminal.say_once.cache_clear()

    def start(*overrides: str, folder: str = "here") -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setattr(sys, "argv", ["sparserl-train", *SMOKE, *overrides])
        main()
        return tmp_path / folder / "outputs/mine"

    return start


def jobs(root: Path) -> list[Path]:
    """The folders of the jobs that were run."""
    return sorted(path for path in root.iterdir() if path.is_dir() and "-again-" not in path.name)


OUTCOME = ("metrics.jsonl", "policy.safetensors", "lowrank.csv")


def outcome(root: Path) -> dict[str, tuple[bytes, ...]]:
    """What every job left that does not depend on the clock, byte for byte."""
    return {folder.name: tuple((folder / name).read_bytes() for name in OUTCOME) for folder in jobs(root)}


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


BROKEN = """
import sys
import gymnasium
from gymnasium.envs.classic_control import AcrobotEnv

class Broken(AcrobotEnv):
    def __init__(self, how="", **arguments):
        super().__init__(**arguments)
        if how == "assertion":
            assert not how, "gravity must be positive"
        elif how == "key":
            {}["robot"]
        elif how == "value":
            raise ValueError("gravity must be positive")
        elif how == "exit":
            sys.exit(0)
        self.how = how

    def step(self, action):
        if self.how == "step":
            sys.exit(0)
        return super().step(action)

gymnasium.register("Broken-v0", entry_point=Broken, max_episode_steps=20)
"""
TOLD = {
    "assertion": "AssertionError: gravity must be positive",
    "key": "KeyError: 'robot'",
    "value": "gravity must be positive",
    "exit": "SystemExit: 0",
    "step": "SystemExit: 0",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that registers an environment which can fail."""
    (tmp_path / "failing.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "failing"
    sys.modules.pop("failing")
    gymnasium.registry.pop("Broken-v0")


@pytest.mark.parametrize(
    ("launcher", "how"),
    [
        # an AssertionError and a KeyError are like any Exception but ValueError, and under Hydra's launcher the worst is enough
        pytest.param(launcher, how, marks=pytest.mark.slow if how == "key" or (launcher == "basic" and how != "exit") else ())
        for launcher in ("population", "basic")
        for how in TOLD
    ],
)
def test_an_environment_that_raises_fails_its_own_job_only(
    launcher: str, how: str, module: str, sweep: Sweep, tmp_path: Path
) -> None:
    """Whatever is not a ValueError used to end the sweep before anything was trained; SystemExit even with exit code 0."""
    environment = "environment=mountain_car", f"environment.id={module}:Broken-v0", f"+environment.arguments.how={how},none"
    with pytest.raises(SystemExit) as ended:
        sweep(*environment, "regularizer=none", "trainer.total_steps=100", "trainer.num_envs=10", f"hydra/launcher={launcher}")
    assert TOLD[how] in str(ended.value)
    assert len(str(ended.value).splitlines()) == 1
    root = tmp_path / "here/outputs/mine"
    (trained,) = (path.parent for path in root.glob("*/result.json") if read_json(path)["status"] == "done")
    assert read_json(trained / "config.json")["environment"]["arguments"] == {"how": "none"}
    (failed,) = (folder for folder in root.glob("dqn-*") if folder != trained)
    log = (failed / "run.log").read_text()
    if how == "step":  # that fails one member, as a loss that is not finite does
        assert "failed in step 1 of an episode: SystemExit: 0: stopped at step 10" in log
        assert "the loss" not in log
    else:
        assert "Traceback" in log
        assert "failing.py" in log
    if how != "value":  # with that it is a config that is refused, as any other
        assert read_json(failed / "status.json")["status"] == "failed"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("assert False, 'no robot'", "AssertionError: no robot"),
        ("import os; os.environ['ROBOT_HOME']", "KeyError: 'ROBOT_HOME'"),
        ("def (", "SyntaxError: invalid syntax"),
        ("from os import robot", "ImportError: cannot import name 'robot'"),
        ("raise SystemExit('no robot')", "SystemExit: no robot"),
    ],
)
def test_an_environments_module_that_cannot_be_imported_is_one_sentence(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unimportable.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = "environment=mountain_car", "environment.id=unimportable:Any-v0", "logger=disk", "hydra.run.dir=single"
    monkeypatch.setattr(sys, "argv", ["sparserl-train", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert re.match(
        rf"sparserl: environment=mountain_car: (Gymnasium cannot make 'unimportable:Any-v0': )?{told}", str(ended.value)
    )
    assert len(str(ended.value).splitlines()) == 1
    assert "Traceback" in (tmp_path / "single/run.log").read_text()


def test_an_environments_module_that_ends_the_program_does_not_end_the_sweep(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unimportable.py").write_text("raise SystemExit('no robot')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match="environment=mountain_car"):
        sweep("environment=mountain_car", "environment.id=unimportable:Any-v0,Acrobot-v1", "regularizer=none")
    (trained,) = (tmp_path / "here/outputs/mine").glob("*/result.json")
    assert read_json(trained.parent / "config.json")["environment"]["id"] == "Acrobot-v1"


def test_a_job_whose_environment_is_mended_is_tried_again_when_that_is_asked_for(
    module: str, sweep: Sweep, tmp_path: Path
) -> None:
    jobs = "environment=mountain_car", f"environment.id={module}:Broken-v0", "+environment.arguments.how=assertion", "seed=0"
    with pytest.raises(SystemExit, match="gravity must be positive"):
        sweep(*jobs)
    (tmp_path / "failing.py").write_text(BROKEN.replace("assert not how", "assert how"))
    sys.modules.pop(module)
    gymnasium.registry.pop("Broken-v0")
    with pytest.raises(SystemExit, match="retry_failed=true"):
        sweep(*jobs)
    sweep(*jobs, "retry_failed=true")
    assert statuses(tmp_path / "here/outputs/mine") == ["done"]


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


def test_a_key_that_some_options_of_a_sweep_have_is_set_where_they_are_chosen(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only l0 has gates that can be open at first; what differs in that alone is one run under none."""
    root = sweep("regularizer=none,l0", "regularizer.initial_open=0.7,0.8", "network.hidden=[8]", "trainer.eval_episodes=1")
    configs = [read_json(folder / "config.json") for folder in jobs(root)]
    assert {config["regularizer"].get("initial_open") for config in configs} == {0.7, 0.8, None}
    assert len(configs) == 3
    assert "4 jobs: 3 to train, 1 the same as another" in (said := capsys.readouterr().err)
    assert said.count("regularizer.initial_open is left out of the jobs with regularizer=none, which have no such key") == 1
    (folder,) = root.glob("*-none-seed0-??????????")
    assert yaml.safe_load((folder / ".hydra/overrides.yaml").read_text())[-1] == "trainer.eval_episodes=1"
    assert "initial_open" not in (folder / ".hydra/overrides.yaml").read_text()


def test_a_key_that_the_default_option_lacks_is_set_where_it_can_be(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of docs/sweeps.md, which was refused: Hydra composes single values with the default algorithm, dqn, first."""
    root = sweep("algorithm=dqn,ppo", "algorithm.target_kl=0.01", "network.hidden=[8]", "trainer.eval_episodes=1")
    found = {config["names"]["algorithm"]: config for config in (read_json(job / "config.json") for job in jobs(root))}
    assert found["ppo"]["algorithm"]["target_kl"] == 0.01
    assert "target_kl" not in found["dqn"]["algorithm"]
    assert "algorithm.target_kl is left out of the jobs with algorithm=dqn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["seed=range(0)"], "the sweep has no jobs: a list of values is empty"),
        (["algorithm=dqn,ppo", "algorithm.target_kll=0.01"], "algorithm.target_kll is not a key"),
        (["algorithm=dqn,pppo", "algorithm.target_kl=0.01"], "algorithm=pppo is not there to be chosen"),
        (["regularizer=none,l1", "regularizer.initial_open=0.7"], "regularizer.initial_open is not a key"),
        (["regularizer=none,l0", "regularizer.initial_opn=0.7"], "regularizer.initial_opn is not a key"),
        (["regularizer=none,l0", "algorithm.gama=0.7"], "algorithm.gama is not a key of the config; did you mean"),
    ],
)
def test_what_no_job_of_a_sweep_can_have_is_refused(overrides: list[str], sentence: str, sweep: Sweep) -> None:
    with pytest.raises(SystemExit, match=f"^sparserl: {sentence}"):
        sweep(*overrides)


def test_the_same_sweep_trains_only_what_is_new(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    root = sweep("regularizer=none", "seed=0,1")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.glob("*/**/*") if path.is_file()}
    sweep("regularizer=none", "seed=0,1,2", "regularizer.lambda_c=5")  # null for none, so no new setting
    assert "1 to train, 2 ended before" in capsys.readouterr().err
    assert len(jobs(root)) == 3
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """L1 cannot be trained; called, it can again."""
    update = Learner.update

    def fail(learner: Learner, *arguments: Any) -> Any:
        if isinstance(learner.regularizer, L1):
            raise RuntimeError("made to fail")
        return update(learner, *arguments)

    monkeypatch.setattr(Learner, "update", fail)
    return lambda: monkeypatch.setattr(Learner, "update", update)


@pytest.fixture
def broken_late(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Learner]]:
    """L1 cannot be trained beyond its 30th gradient step, which is after a checkpoint. Those that tried."""
    update = Learner.update
    tried: list[weakref.ref[Learner]] = []

    def fail(learner: Learner, *arguments: Any) -> Any:
        if isinstance(learner.regularizer, L1) and learner.state.weights["policy"].moments["step"] == 30:
            tried.append(weakref.ref(learner))
            gc.collect()
            raise RuntimeError("made to fail")
        return update(learner, *arguments)

    monkeypatch.setattr(Learner, "update", fail)
    return tried


def statuses(root: Path) -> list[str]:
    return [read_json(folder / "status.json")["status"] for folder in jobs(root)]


BOTH = ("regularizer=l1,none", "seed=0,1", "trainer.total_steps=600", "trainer.checkpoint_every=100")


def test_who_shares_a_loop_with_a_failure_goes_on_as_if_nothing_had_been(
    sweep: Sweep, broken_late: list[weakref.ref[Learner]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = outcome(sweep("regularizer=none", *BOTH[1:], folder="whole"))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="made to fail"):
        sweep(*BOTH)
    said = capsys.readouterr().err
    assert said.count("warning: RuntimeError: made to fail; each population goes on by itself") == 1
    assert said.count("going on from step") == 2
    root = tmp_path / "here/outputs/mine"
    assert statuses(root) == ["failed", "failed", "done", "done"]
    for folder in jobs(root)[2:]:
        assert tuple((folder / name).read_bytes() for name in OUTCOME) == whole[folder.name]
    for folder in jobs(root)[:2]:
        assert "During handling" not in read_json(folder / "status.json")["error"]
    first, _ = broken_late
    assert first() is None, "what was trained in one loop must not stay beside what is trained after it"


def test_ctrl_c_while_one_population_fails_again_leaves_the_others_to_be_trained(
    sweep: Sweep, broken_late: list[weakref.ref[Learner]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = launcher.run

    def interrupted(configs: list[Config], *arguments: Any) -> Any:
        if len(configs) == 2:
            raise KeyboardInterrupt
        return real(configs, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(launcher, "run", interrupted)
        with pytest.raises(SystemExit):
            sweep(*BOTH)
    root = tmp_path / "here/outputs/mine"
    assert statuses(root) == ["waiting"] * 4
    with pytest.raises(SystemExit, match="made to fail"):
        sweep(*BOTH)
    assert statuses(root) == ["failed", "failed", "done", "done"]


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [(KeyboardInterrupt(), "interrupted", ()), (RuntimeError("the ranks broke"), "failed", ("retry_failed=true",))],
    ids=["Ctrl-C", "an error"],
)
def test_what_ends_while_ranks_are_evaluated_is_completed_without_training(
    error: BaseException, status: str, again: tuple[str, ...], sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every job has its policy and its result by then; neither makes it done."""
    jobs_of_it = "regularizer=l1", "seed=0,1"
    whole = outcome(sweep(*jobs_of_it, folder="whole"))

    def end(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(RankSweep, "__call__", end)
        with pytest.raises(SystemExit):
            sweep(*jobs_of_it)
    root = tmp_path / "here/outputs/mine"
    assert statuses(root) == [status] * 2
    assert [read_json(folder / "result.json")["rank_reason"] for folder in jobs(root)] == ["not_swept"] * 2
    monkeypatch.setattr(Learner, "update", None)
    assert outcome(sweep(*jobs_of_it, *again)) == whole
    assert statuses(root) == ["done"] * 2
    assert "not_swept" not in [read_json(folder / "result.json")["rank_reason"] for folder in jobs(root)]


def test_one_damaged_folder_stops_its_own_population_only(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with stopping_at_checkpoints(monkeypatch), pytest.raises(SystemExit):
        sweep(*BOTH)
    root = tmp_path / "here/outputs/mine"
    (jobs(root)[0] / "metrics.jsonl").write_text("")
    with pytest.raises(SystemExit, match="has lost rows"):
        sweep(*BOTH)
    assert statuses(root) == ["interrupted", "interrupted", "done", "done"]


def test_a_failure_stays_where_it_happened(
    sweep: Sweep, broken: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = "regularizer=l1,none", "seed=0,1"
    with pytest.raises(SystemExit) as ended:
        sweep(*both)
    assert "made to fail" in str(ended.value)
    assert "\n" not in str(ended.value)
    *failed, first, second = jobs(tmp_path / "here/outputs/mine")
    printed = capsys.readouterr().out
    for folder in failed:
        assert folder.name in printed
        assert "made to fail" in read_json(folder / "status.json")["error"]
        assert "Traceback" in (folder / "run.log").read_text()
    assert [read_json(folder / "status.json")["status"] for folder in (first, second)] == ["done", "done"]

    broken()
    with pytest.raises(SystemExit, match="retry_failed=true"):
        sweep(*both)
    sweep(*both, "retry_failed=true")
    assert all(read_json(folder / "status.json")["status"] == "done" for folder in failed)


def test_a_diverged_member_is_a_failed_job_and_is_not_tried_again(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are deterministic: retry_failed=true used to train it for as long again, and it diverged at the same step."""
    update = Learner.update

    def poison(learner: Learner, selection: Selection, env_step: int) -> Any:
        batch = selection.batch()
        batch["reward"] = batch["reward"].clone()
        batch["reward"][1] = float("nan")
        return update(learner, batch, env_step)

    monkeypatch.setattr(Learner, "update", poison)
    with pytest.raises(SystemExit, match="not finite"):
        sweep("regularizer=none", "seed=0,1,2")
    root = tmp_path / "here/outputs/mine"
    assert statuses(root) == ["done", "failed", "done"]
    before = outcome(root)
    with pytest.raises(SystemExit, match="a second attempt gives the same"):
        sweep("regularizer=none", "seed=0,1,2", "retry_failed=true")
    assert statuses(root) == ["done", "failed", "done"]
    assert outcome(root) == before


def test_a_job_that_cannot_be_is_one_sentence_and_the_others_go_on(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"regularizer\.beta is 0"):
        sweep("regularizer.beta=0,0.5", "seed=0")
    assert "2 jobs: 1 to train, 1 refused" in capsys.readouterr().err, "it was said to have ended before"
    (whole,) = (folder for folder in jobs(tmp_path / "here/outputs/mine") if not folder.name.startswith("invalid"))
    assert read_json(whole / "status.json")["status"] == "done"


def test_a_sweep_is_not_resumed_but_started_again(sweep: Sweep) -> None:
    with pytest.raises(SystemExit, match="the same sweep started again goes on by itself"):
        sweep("seed=0,1", "resume=somewhere")


def test_a_file_in_the_place_of_a_folder_stops_that_job_only(sweep: Sweep, tmp_path: Path) -> None:
    root = sweep("regularizer=none", "seed=0,1")
    taken, kept = jobs(root)
    for path in sorted(taken.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    taken.rmdir()
    taken.write_text("mine")
    with pytest.raises(SystemExit, match="cannot be used"):
        sweep("regularizer=none", "seed=0,1,2")
    assert taken.read_text() == "mine"
    assert kept in jobs(root)
    assert [read_json(folder / "status.json")["status"] for folder in jobs(root)] == ["done", "done"]


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


def test_every_job_is_composed_once_and_has_a_config_of_its_own(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[str] = []
    original = ConfigLoaderImpl.load_sweep_config

    def load(self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        composed.append(sweep_overrides[-1])
        return original(self, master_config, sweep_overrides)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", load)
    root = sweep("regularizer=none", "seed=3,3,4")
    # of the two that are given alike, the second needs another one: the job number is in it
    assert sorted(composed) == ["seed=3", "seed=3", "seed=3", "seed=4"]
    assert len(jobs(root)) == 2
    numbers = [
        yaml.safe_load((folder / ".hydra/hydra.yaml").read_text())["hydra"]["job"]["num"]
        for folder in root.iterdir()
        if folder.is_dir()
    ]
    assert sorted(numbers) == [0, 1, 2]
