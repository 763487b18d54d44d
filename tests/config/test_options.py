"""How options choose options, and what wins over what: files of one's own beside those of conf/."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import goals
import hydra
import pytest
from parts import environment_for

from sparserl.config.schema import CONF, ConfigError
from sparserl.config.validation import compose
from sparserl.runs.files import read_json
from sparserl.sweeps.loop import run
from sparserl.train import main
from sparserl.training.learner import Learner

FILES = {
    # an algorithm that learns from an experience of its own, in fewer sub-environments
    "algorithm/mine": """
        # @package _global_
        defaults:
          - /algorithm/dqn@algorithm
          - override /experience: mine
        algorithm:
          gamma: 0.5
        trainer:
          total_steps: 1_000_000
          num_envs: 4
        """,
    "experience/mine": "defaults: [replay]\nbatch_size: 16\n",
    # an environment that needs another network
    "environment/mine": """
        # @package _global_
        defaults:
          - /environment/cartpole@environment
          - override /network: mine
        """,
    "network/mine": "defaults: [mlp]\nhidden: [7]\n",
    "tuned/dqn-mountain_car-l0": """
        # @package _global_
        trainer: {total_steps: 1_000_000}
        experience: {learning_starts: 500_000}
        """,
    "experiment/mine": """
        # @package _global_
        sweep_name: long
        trainer:
          total_steps: 1_000_000
          eval_episodes: 1_000
        lowrank:
          ranks: all
        """,
    "limits/smoke-mine": "# @package _global_\nexperience: {train_freq: 3}\n",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of options, as ``--config-dir`` takes it."""
    for name, text in FILES.items():
        path = tmp_path / "options" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")
    return tmp_path / "options"


def composed(files: Path, *overrides: str) -> dict[str, Any]:
    return compose(f"hydra.searchpath=[file://{files}]", *overrides)


Sweep = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def sweep(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A multirun of which nothing is trained; the configs of its jobs."""

    def start(*overrides: str) -> list[dict[str, Any]]:
        monkeypatch.setattr("sparserl.sweeps.launcher.Launch.train", lambda *_: None)
        monkeypatch.setattr("sparserl.sweeps.launcher.Launch.copy_duplicates", lambda *_: None)
        monkeypatch.setattr("sparserl.sweeps.launcher.Launch.print", lambda *_: None)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["sparserl-train", "--config-dir", str(files), "-m", "logger=disk", *overrides])
        with pytest.raises(IndexError):  # a job that was not trained has no return
            main()
        return [read_json(path) for path in sorted((tmp_path / "outputs").glob("*/*/config.json"))]

    return start


# ---------------------------------------------------------------- options that choose options


def test_an_algorithm_chooses_its_experience_and_sets_the_trainer(files: Path) -> None:
    """Needs `experience`, `network` and `trainer` before `algorithm` in the defaults list: else Hydra could not override."""
    config = composed(files, "algorithm=mine", "trainer.total_steps=40")
    assert config["experience"]["batch_size"] == 16
    assert config["trainer"]["num_envs"] == 4
    assert config["algorithm"]["gamma"] == 0.5
    assert config["names"]["algorithm"] == "mine"


def test_an_environment_chooses_its_network_also_beside_an_algorithm_that_chooses(files: Path) -> None:
    config = composed(files, "environment=mine", "algorithm=mine")
    assert config["network"]["hidden"] == config["algorithm"]["network"]["hidden"] == [7]
    assert config["experience"]["batch_size"] == 16
    assert config["names"] == {"algorithm": "mine", "environment": "mine", "regularizer": "l0", "network": "mine"}


def test_the_command_line_wins_over_what_an_option_chooses(files: Path) -> None:
    given = "experience=replay", "network=mlp", "trainer.num_envs=8"
    config = composed(files, "environment=mine", "algorithm=mine", *given)
    assert config["experience"]["batch_size"] == 128
    assert config["network"]["hidden"] == [120, 84]
    assert config["trainer"]["num_envs"] == 8
    assert config["names"]["network"] == "mlp"


def test_each_job_of_a_multirun_has_what_its_own_options_choose(sweep: Sweep) -> None:
    configs = sweep("algorithm=dqn,mine", "environment=cartpole,mine", "trainer.total_steps=40")
    found = {
        (c["names"]["algorithm"], c["names"]["environment"]): (
            c["experience"]["batch_size"], c["trainer"]["num_envs"], c["network"]["hidden"], c["names"]["network"]
        )
        for c in configs
    }  # fmt: skip
    assert found == {
        ("dqn", "cartpole"): (128, 10, [120, 84], "mlp"),
        ("mine", "cartpole"): (16, 4, [120, 84], "mlp"),
        ("dqn", "mine"): (128, 10, [7], "mine"),
        ("mine", "mine"): (16, 4, [7], "mine"),
    }


# ---------------------------------------------------------------- environments with goals


def unresolved(*overrides: str) -> Any:
    """The experience that these overrides choose, also where the algorithm is not for the environment's actions."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))["experience"]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["environment=fetch_reach"], "Hindsight"),
        (["environment=fetch_reach", "trainer=smoke"], "Hindsight"),
        # both choose: PPO learns from rollouts wherever it acts
        (["environment=fetch_reach", "algorithm=ppo"], "Rollout"),
        (["algorithm=ppo", "environment=fetch_reach"], "Rollout"),
        (["environment=fetch_reach", "experience=replay"], "Replay"),
        (["experience=replay", "environment=fetch_reach"], "Replay"),
        (["environment=fetch_reach", "algorithm=ppo", "experience=hindsight"], "Hindsight"),
        (["environment=cartpole"], "Replay"),
    ],
    ids=" ".join,
)
def test_goals_choose_hindsight_unless_the_algorithm_or_the_command_line_chooses(overrides: list[str], kind: str) -> None:
    """Needs `environment` before `algorithm` in the defaults list: of two overrides the later option's holds."""
    assert unresolved(*overrides)["_target_"].endswith(f".{kind}")


def test_hindsight_without_goals_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"experience is Hindsight.*environment=cartpole has none; choose experience=replay"):
        compose("experience=hindsight")


def test_hindsight_over_several_steps_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"experience\.n_step is 3, but goals are exchanged of single steps; set it to 1"):
        compose("experience=hindsight", "environment=gymnasium", "environment.id=goals:Line-v0", "experience.n_step=3")


def test_an_environment_that_cannot_relabel_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute_reward(*_: Any) -> float:
        raise KeyError("needs its info")

    monkeypatch.setattr(goals.Line, "compute_reward", compute_reward)
    with pytest.raises(ConfigError, match="environment=gymnasium: KeyError: 'needs its info'"):
        compose("experience=hindsight", "environment=gymnasium", "environment.id=goals:Line-v0")


# ---------------------------------------------------------------- any environment


def test_an_environment_without_its_id_fails_by_itself_in_one_sentence(sweep: Sweep) -> None:
    sentence = "environment.id is missing and has no default; set it with environment.id=VALUE"
    with pytest.raises(ConfigError) as caught:
        compose("environment=gymnasium")
    assert str(caught.value) == sentence
    configs = sweep("environment=gymnasium,cartpole", "trainer=smoke")
    assert [config["names"]["environment"] for config in configs] == ["cartpole"]


# ---------------------------------------------------------------- trainer=smoke


@pytest.mark.parametrize(
    "overrides",
    [["environment=mountain_car"], ["experiment=mine"], ["algorithm=mine"], ["algorithm=mine", "experiment=mine"]],
    ids=["tuned", "experiment", "algorithm", "algorithm and experiment"],
)
def test_smoke_wins_over_files_that_ask_for_a_million_steps(files: Path, overrides: list[str]) -> None:
    long, short = composed(files, *overrides), composed(files, "trainer=smoke", *overrides)
    assert long["trainer"]["total_steps"] == 1_000_000
    assert short["trainer"]["total_steps"] == 400
    assert short["trainer"]["eval_episodes"] == short["lowrank"]["episodes"] == 2
    assert short["lowrank"]["ranks"] == [2]
    assert short["experience"]["learning_starts"] < 100
    assert short["experience"]["train_freq"] == (3 if "algorithm=mine" in overrides else 10)


def test_smoke_loses_to_the_command_line(files: Path) -> None:
    given = "trainer.total_steps=80", "lowrank.ranks=[1,3]", "experience.train_freq=5", "trainer.eval_episodes=3"
    config = composed(files, "trainer=smoke", "algorithm=mine", "experiment=mine", *given)
    assert config["trainer"]["total_steps"] == 80
    assert config["lowrank"]["ranks"] == [1, 3]
    assert config["experience"]["train_freq"] == 5
    assert config["trainer"]["eval_episodes"] == config["lowrank"]["episodes"] == 3


def test_smoke_limits_each_job_of_a_multirun_by_the_experience_that_its_algorithm_chose(sweep: Sweep) -> None:
    configs = sweep("algorithm=dqn,mine", "trainer=smoke", "experiment=mine")
    assert {c["names"]["algorithm"]: c["experience"]["train_freq"] for c in configs} == {"dqn": 10, "mine": 3}
    assert {c["trainer"]["total_steps"] for c in configs} == {400}
    assert {c["sweep_name"] for c in configs} == {"long"}


@pytest.mark.parametrize(("envs", "total"), [(1, 400), (3, 402), (4, 400), (10, 400), (64, 2560)])
def test_smoke_is_a_multiple_of_the_sub_environments(envs: int, total: int) -> None:
    """400 steps are none of 3 or 64: a tuned file that asks for so many made a smoke run impossible."""
    assert compose("trainer=smoke", f"trainer.num_envs={envs}")["trainer"]["total_steps"] == total


@pytest.mark.parametrize("experience", sorted(path.stem for path in (CONF / "experience").glob("*.yaml")))
def test_every_experience_has_limits(experience: str) -> None:
    long, short = unresolved(f"experience={experience}"), unresolved(f"experience={experience}", "trainer=smoke")
    assert short.keys() == long.keys()
    size = "n_steps" if "n_steps" in long else "batch_size"
    assert short[size] < long[size]


@pytest.mark.parametrize("envs", [1, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml")))
def test_a_smoke_run_learns_and_evaluates_one_rank(
    algorithm: str, envs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = []
    update = Learner.update

    def count(*arguments: Any) -> Any:
        updates.append(1)
        return update(*arguments)

    monkeypatch.setattr(Learner, "update", count)
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}"
    overrides = "trainer=smoke", "logger=disk", *chosen, f"trainer.num_envs={envs}", "network.hidden=[16,16]"
    run([compose(*overrides)], [tmp_path], live=False)
    assert len(updates) >= 2
    ranks = [line.split(",")[0] for line in (tmp_path / "lowrank.csv").read_text().splitlines()[1:]]
    assert ranks == ["2", "full"]
