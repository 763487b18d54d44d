"""conf/ and the code agree, every combination composes, and what is wrong with a config is said in one sentence.

What there is to test is found by listing conf/: a new option is tested from the day it is there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from parts import class_of, environment_for

from sparserl.config.schema import CONF, ConfigError, Schema
from sparserl.config.validation import compose, unknown_key
from sparserl.environments.base import Environment
from sparserl.networks.mlp import MLP
from sparserl.train import main
from sparserl.types import Spec

ROOT = Path(__file__).parents[2]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


GROUPS = [field.name for field in dataclasses.fields(Schema) if (CONF / field.name).is_dir()]
"""The groups whose options are parts: others (``experiment``, say) only set keys of these."""

IMAGES = ["environment=gymnasium", "environment.id=probes:Motion-v0"]

NEEDED = {
    ("environment", "gymnasium"): ["environment.id=Acrobot-v1"],
    ("experience", "frames"): IMAGES,
    ("environment", "surrol"): ["environment.task=ECMReach"],
    ("network", "small_dense"): ["network.weights=1000"],
    ("experience", "rollout"): ["algorithm=ppo"],
    ("experience", "hindsight"): ["environment=gymnasium", "environment.id=goals:Line-v0"],
    ("network", "cnn"): [*IMAGES, "network.kernel_sizes=[2,2,2]", "network.strides=[1,1,1]"],
}
"""What some options cannot do without."""

OPTIONS = [(group, option) for group in GROUPS for option in options(group)]


@cache
def composed(*overrides: str) -> DictConfig:
    """The config before anything is resolved or checked."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))


# ---------------------------------------------------------------- keys and fields


def parts(path: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part in a part, by its path: what has a ``_target_``."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from parts(f"{path}.{key}", value)


def test_the_groups_are_found() -> None:
    assert {"algorithm", "environment", "network", "experience", "regularizer", "trainer", "lowrank"} <= set(GROUPS)
    assert all(options(group) for group in GROUPS)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_keys_are_the_fields_of_the_target(group: str, option: str) -> None:
    node = OmegaConf.to_container(composed(f"{group}={option}", *NEEDED.get((group, option), []))[group])
    found = dict(parts(group, node))
    assert group in found, f"{group}={option} has no _target_"
    for path, part in found.items():
        cls = hydra.utils.get_class(part["_target_"])
        assert dataclasses.is_dataclass(cls), f"{path}: {cls} is no dataclass"
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        keys = part.keys() - {"_target_"}
        if path == group:  # in a part's own file nothing is left to a default
            assert keys == fields.keys(), path
        else:
            assert keys <= fields.keys(), path


def test_keys_of_the_top_are_the_fields_of_the_schema() -> None:
    assert {str(key) for key in composed()} == {field.name for field in dataclasses.fields(Schema)}


# ---------------------------------------------------------------- comments


def undescribed(path: Path) -> list[str]:
    """The keys of a YAML file that have no sentence above them.

    A key within another is described with it, one that an inherited option has is described there, and keys that are
    null one below the other may share a sentence. Of an option that changes other groups, only its own group is meant: the
    keys of the others are described there.
    """
    lines = path.read_text().splitlines()
    if lines[0] == "# @package _global_":
        own = takewhile(lambda line: line[:1] in ("", " "), lines[lines.index(f"{path.relative_to(CONF).parts[0]}:") + 1 :])
        lines = textwrap.dedent("\n".join(own)).splitlines()
    content = yaml.safe_load("\n".join(lines))
    inherited = {key for parent in parents(path) for key in keys_of(parent)}
    found = []
    comment, shared = "", False
    for line in lines:
        if line.startswith("#"):
            comment = f"{comment} {line.removeprefix('#').strip()}"
        elif match := re.match(r"(\w+):", line):
            key = match[1]
            null = content[key] is None
            if key not in {"_target_", "defaults"} | inherited and not is_sentence(comment) and not (null and shared):
                found.append(key)
            shared = null and (shared or is_sentence(comment))
            comment = ""
        elif not line.strip():
            comment, shared = "", False
    return found


def is_sentence(comment: str) -> bool:
    return len(comment.split()) > 2 and comment.endswith(".")


def parents(path: Path) -> list[Path]:
    """The files of the same group that a file inherits from: options, and what several of them share."""
    if path.parent == CONF:  # there the defaults list chooses groups
        return []
    defaults = (yaml.safe_load(path.read_text()) or {}).get("defaults", [])
    return [
        path.parent / f"{entry.partition('@')[0]}.yaml" for entry in defaults if isinstance(entry, str) and entry != "_self_"
    ]


def keys_of(path: Path) -> set[str]:
    return set(yaml.safe_load(path.read_text())).union(*(keys_of(parent) for parent in parents(path)))


def test_every_key_is_described_by_a_sentence() -> None:
    files = [CONF / "train.yaml", *(path for group in GROUPS for path in (CONF / group).rglob("*.yaml"))]
    assert CONF / "algorithm/shared/on_policy.yaml" in files
    missing = {str(path.relative_to(CONF)): undescribed(path) for path in files}
    assert {path: keys for path, keys in missing.items() if keys} == {}


def test_a_key_without_a_sentence_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "option.yaml"
    path.write_text(
        "_target_: x\n# What it is, in words.\none: 1\ntwo: 2\n# todo\nthree: null\n"
        "# Both are null.\nfour: null\nfive: null\nsix: 6\n"
    )
    assert undescribed(path) == ["two", "three", "six"]


# ---------------------------------------------------------------- combinations


@cache
def spec(environment: str) -> Spec | None:
    """What an environment shows and accepts; None where a package that it needs is not installed."""
    overrides = f"environment={environment}", *NEEDED.get(("environment", environment), [])
    made: Environment = hydra.utils.instantiate(composed(*overrides).environment, _convert_="all")
    try:
        return made.spec()
    except ModuleNotFoundError:
        return None


def environment_pairs() -> list[Any]:
    """Every algorithm with every environment.

    Quick are those that have settings of their own (``conf/tuned``), every environment with PPO, which has actions of both
    kinds, and every algorithm with an environment of each kind: each option is seen to compose, and each algorithm to refuse.
    """
    tuned = {path.stem for path in (CONF / "tuned").glob("*.yaml")}
    quick = {"ppo"}, {"cartpole", "pendulum"}
    return [
        pytest.param(
            algorithm,
            environment,
            marks=()
            if f"{algorithm}-{environment}" in tuned or algorithm in quick[0] or environment in quick[1]
            else pytest.mark.slow,
        )
        for algorithm in options("algorithm")
        for environment in options("environment")
    ]


@pytest.mark.parametrize(("algorithm", "environment"), environment_pairs())
def test_every_algorithm_composes_with_every_environment_or_says_why_not(algorithm: str, environment: str) -> None:
    overrides = [f"algorithm={algorithm}", f"environment={environment}", *NEEDED.get(("environment", environment), [])]
    shown = spec(environment)
    if shown is None:
        with pytest.raises(ConfigError, match=rf"environment={environment}\b.*(pip install|git clone|make install)"):
            compose(*overrides)
    elif ("continuous" if shown.discrete_actions is None else "discrete") not in class_of("algorithm", algorithm).actions:
        with pytest.raises(ConfigError, match=rf"algorithm={algorithm}\b.*environment={environment}\b"):
            compose(*overrides)
    else:
        names = compose(*overrides)["names"]
        assert (names["algorithm"], names["environment"]) == (algorithm, environment)


@pytest.mark.parametrize(
    ("algorithm", "regularizer"),
    [
        # quick: one algorithm with all regularisers, and one regulariser with all algorithms. Neither file sets what the other
        # does, but for those of pairs in conf/tuned, of which DQN has the most
        pytest.param(algorithm, regularizer, marks=() if algorithm == "dqn" or regularizer == "l0" else pytest.mark.slow)
        for algorithm in options("algorithm")
        for regularizer in options("regularizer")
    ],
)
def test_every_algorithm_composes_with_every_regularizer(algorithm: str, regularizer: str) -> None:
    chosen = {"algorithm": algorithm, "regularizer": regularizer, "environment": environment_for(algorithm)}
    config = compose(*(f"{group}={option}" for group, option in chosen.items()))
    assert {group: config["names"][group] for group in chosen} == chosen
    assert json.loads(json.dumps(config)) == config, "a resolved config holds plain values only"


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] not in ("algorithm", "environment")])
def test_every_other_option_composes(group: str, option: str) -> None:
    overrides = f"{group}={option}", *NEEDED.get((group, option), [])
    cls = class_of(group, option)
    assert compose(*overrides)[group]["_target_"] == f"{cls.__module__}.{cls.__qualname__}"


@pytest.mark.parametrize("regularizer", options("regularizer"))
def test_values_given_for_unused_keys_are_dropped(regularizer: str) -> None:
    fields = dataclasses.fields(class_of("regularizer", regularizer))  # type: ignore[arg-type]
    null = [field.name for field in fields if field.metadata.get("unused")]
    given = compose(f"regularizer={regularizer}", *(f"regularizer.{key}=1" for key in null))
    assert [given["regularizer"][key] for key in null] == [None] * len(null)
    assert given == compose(f"regularizer={regularizer}"), "so these two are seen to be one and the same job"


def test_lambda_c_and_beta_can_be_swept_over_all_regularizers() -> None:
    both = ("regularizer.lambda_c=1", "regularizer.beta=1")
    values = {name: compose(f"regularizer={name}", *both)["regularizer"] for name in options("regularizer")}
    assert all({"lambda_c", "beta"} <= value.keys() for value in values.values())
    assert values["none"]["lambda_c"] is None
    assert values["l0"]["lambda_c"] == values["l0"]["beta"] == 1


# ---------------------------------------------------------------- errors

WRONG = [
    # overrides, and what the sentence has to hold: the key, and the value or what is allowed
    (["regularizer.lamda_c=1"], ["regularizer.lamda_c"]),
    (["+regularizer.lamda_c=1"], ["regularizer.lamda_c", "did you mean lambda_c"]),
    (["+trainer.typo=1"], ["trainer.typo"]),
    (["+typo=1"], ["typo"]),
    (["+algorithm.epsilon.stop=1"], ["algorithm.epsilon.stop"]),
    (["algorithm=dqm"], ["algorithm/dqm", "double_dqn"]),
    (["environment=nowhere"], ["environment/nowhere", "cartpole"]),
    (["trainer.total_steps=many"], ["trainer.total_steps", "many", "number"]),
    (["trainer.total_steps=1.5"], ["trainer.total_steps", "1.5", "integer"]),
    (["trainer.compile=1"], ["trainer.compile", "1", "boolean", "auto"]),
    (["seed=true"], ["seed", "True", "integer"]),
    (["seed=-1"], ["seed", "-1", "greater than or equal to 0"]),
    (["seed=null"], ["seed", "integer"]),
    (["device=gpu"], ["device", "gpu", "cuda"]),
    (["trainer.total_steps=-5"], ["trainer.total_steps", "-5", "greater than or equal to 1"]),
    (["trainer.num_envs=0"], ["trainer.num_envs", "0", "greater than or equal to 1"]),
    (["regularizer.beta=0"], ["regularizer.beta", "0", "greater than 0"]),
    (["regularizer.beta=-0.5"], ["regularizer.beta", "-0.5", "greater than 0"]),
    (["regularizer.lambda_c=nan"], ["regularizer.lambda_c", "nan", "finite"]),
    (["regularizer.lambda_c=inf"], ["regularizer.lambda_c", "inf", "finite"]),
    (["regularizer.lambda_c=-1"], ["regularizer.lambda_c", "-1", "greater than or equal to 0"]),
    (["regularizer=l1", "regularizer.zero_threshold=-1"], ["regularizer.zero_threshold", "-1", "greater than or equal to 0"]),
    (["regularizer.scope=critic"], ["regularizer.scope", "critic", "policy", "all"]),
    (["regularizer.initial_open=1"], ["regularizer.initial_open", "less than 1"]),
    (["regularizer.delay_steps=-1"], ["regularizer.delay_steps", "-1", "greater than or equal to 0"]),
    (["algorithm.gamma=1.01"], ["algorithm.gamma", "1.01", "less than or equal to 1"]),
    (["algorithm.epsilon=2"], ["algorithm.epsilon", "2", "less than or equal to 1"]),
    (["algorithm.epsilon.start=2"], ["algorithm.epsilon.start", "2", "less than or equal to 1"]),
    (["algorithm.learning_rate=-1"], ["algorithm.learning_rate", "-1", "greater than or equal to 0"]),
    (["algorithm.network=null"], ["algorithm.network"]),
    (["network.hidden=[0]"], ["network.hidden", "0", "greater than or equal to 1"]),
    (["network.hidden=64"], ["network.hidden", "64"]),
    (["network=cnn"], ["algorithm=dqn", "network=cnn", "images", "[4]", "network=mlp"]),
    (["network=cnn", "network.strides=[1]"], ["network.strides", "[1]", "network.channels", "[32, 64, 64]"]),
    (["network=cnn", "network.channels=[]"], ["network.channels", "[]", "one or more"]),
    (["network=cnn", *IMAGES], ["36 x 36 pixels", "[2, 4, 4]", "network.kernel_sizes"]),
    (["experience.buffer_size=0"], ["experience.buffer_size", "0", "greater than or equal to 1"]),
    (["experience.buffer_size=5"], ["experience.buffer_size is 5", "trainer.num_envs, 10"]),
    (["trainer.total_steps=25"], ["trainer.total_steps is 25", "trainer.num_envs, 10", "20 and 30"]),
    (["trainer.total_steps=5"], ["trainer.total_steps is 5", "trainer.num_envs, 10", "nearest: 10"]),
    (["trainer=smoke", "trainer.num_envs=many"], ["trainer.num_envs", "many", "integer"]),
    (["sweep_name=true"], ["sweep_name", "True", "string"]),
    (["sweep_name=null"], ["sweep_name", "None", "string"]),
    (["lowrank.ranks=[0]"], ["lowrank.ranks", "[0]", "greater than or equal to 1", "'all' or 'ladder'"]),
    (["lowrank.ranks=[4,-1]"], ["lowrank.ranks", "-1", "greater than or equal to 1"]),
    (["lowrank.ranks=[1.5]"], ["lowrank.ranks", "1.5", "integer"]),
    (["lowrank.ranks=some"], ["lowrank.ranks", "some", "'all' or 'ladder'"]),
    (["lowrank.ranks=4"], ["lowrank.ranks", "4", "'ladder', or it must be a list in brackets"]),
    (["lowrank.retention=0"], ["lowrank.retention", "0", "greater than 0"]),
    (["lowrank.retention=1.01"], ["lowrank.retention", "1.01", "less than or equal to 1"]),
    (["lowrank.episodes=0"], ["lowrank.episodes", "0", "greater than or equal to 1"]),
    (["logger.mode=sometimes"], ["logger.mode", "sometimes", "auto", "offline"]),
    (["logger.tags=one"], ["logger.tags", "one"]),
    (["objective=speed"], ["objective", "speed", "return_mean"]),
    (["environment._target_=sparserl.environments.gymnasium.Gymnasia"], ["environment._target_", "Gymnasia"]),
    (["environment._target_=os.system"], ["environment._target_", "os.system"]),
    (["environment=mountain_car", "environment.id=Acrobat-v1"], ["environment=mountain_car", "Acrobat-v1"]),
    (["environment=mountain_car", "+environment.arguments.typo=1"], ["environment=mountain_car", "typo"]),
]


@pytest.mark.parametrize(("overrides", "words"), WRONG, ids=[" ".join(overrides) for overrides, _ in WRONG])
def test_what_is_wrong_is_said_before_training(overrides: list[str], words: list[str]) -> None:
    with pytest.raises((ConfigError, HydraException)) as caught:
        compose(*overrides)
    sentence = str(caught.value)
    assert [word for word in words if word not in sentence] == [], sentence
    if isinstance(caught.value, ConfigError):  # what Hydra says in many lines, the command says in one: see below
        assert len(sentence.splitlines()) == 1


def test_relative_paths_start_at_an_absolute_one() -> None:
    """Or a run that is resumed from another folder would find others."""
    with pytest.raises(ConfigError, match=r"^working_directory is 'here'; it must be an absolute path$"):
        compose("working_directory=here")


@pytest.mark.parametrize(
    ("device", "asked", "refused"),
    [("cuda", "true", True), ("auto", "true", True), ("cpu", "true", False), ("cuda", "auto", False), ("cuda", "false", False)],
)
def test_compiled_steps_are_for_a_cpu(device: str, asked: str, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    given = f"trainer.compile={asked}", f"device={device}"
    if not refused:
        assert compose(*given)["device"] == device
        return
    with pytest.raises(ConfigError, match=rf"^trainer.compile is true, .*{device}.*set trainer.compile=auto, or device=cpu$"):
        compose(*given)


@dataclass(frozen=True)
class Unbuildable(MLP):
    """What is wrong with it only shows when it is made."""

    def __post_init__(self) -> None:
        match self.activation:
            case "relu":
                raise ValueError("activation is no good")
            case "tanh":
                raise AssertionError("only without\nlayers")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ((), "activation is no good"),  # said by the class itself, as text for the user
        (("network.activation=tanh",), "AssertionError: only without layers"),
    ],
)
def test_whatever_a_constructor_raises_is_one_sentence_that_names_the_part(overrides: tuple[str, ...], sentence: str) -> None:
    """Anything but ValueError used to end the command with Hydra's traceback."""
    with pytest.raises(ConfigError) as caught:
        compose(f"network._target_={__name__}.Unbuildable", *overrides)
    assert str(caught.value).endswith(sentence)
    assert "=" in str(caught.value).removesuffix(sentence)  # network=mlp, or algorithm=dqn, which holds the same network
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "overrides", "sentence"),
    [
        (
            "algorithm.network.hidden",
            [],
            "algorithm.network.hidden cannot be set by itself, since algorithm.network is ${network}; set network.hidden",
        ),
        ("regularizer.lamda_c", [], "regularizer.lamda_c is not a key of the config; did you mean regularizer.lambda_c?"),
        ("learning_rate", [], "learning_rate is not a key of the config; did you mean algorithm.learning_rate?"),
        # experience.gamma, which has only the group in common, was proposed
        (
            "experience.capacity",
            [],
            "experience.capacity is not a key of the config; python -m sparserl.train --cfg job shows all keys",
        ),
        (
            "environment.arguments.gravity",
            ["environment=mountain_car"],
            "environment.arguments.gravity is new: put a + before it to add it",
        ),
        (
            "regularizer.initial_open",
            ["regularizer=none,l0,l2"],
            "regularizer.initial_open is not a key where regularizer is none or l2; sweep over the others by themselves",
        ),
        ("typo", ["algorithm=nowhere"], "typo is not a key of the config; python -m sparserl.train --cfg job shows all keys"),
    ],
)
def test_what_is_said_of_an_unknown_key_is_true(key: str, overrides: list[str], sentence: str) -> None:
    """algorithm.network.hidden was answered with: is not a key; did you mean algorithm.network.hidden?"""
    assert unknown_key(key, [*overrides, f"{key}=1"]) == sentence


@pytest.mark.parametrize(
    ("starts", "steps"),
    [
        # half of the steps pass before learning begins, so four tenths of the others are over at 5,000 + 2,000
        (5_000, {"delay_steps": 7_000, "ramp_steps": 500, "freeze_at_step": 8_000, "rate": (5_000, 5_000)}),
        # a tenth counts as none, and so does what is never reached
        (1_000, {"delay_steps": 4_000, "ramp_steps": 1_000, "freeze_at_step": 6_000, "rate": (10_000, 0)}),
        (10_000, {"delay_steps": 4_000, "ramp_steps": 1_000, "freeze_at_step": 6_000, "rate": (10_000, 0)}),
    ],
)
def test_gates_close_while_there_is_learning(starts: int, steps: dict[str, Any]) -> None:
    """With DDPG on Pendulum, which learns from the middle on, they had closed before anything was learned."""
    short = "trainer.total_steps=10_000", f"experience.learning_starts={starts}"
    gates = compose("algorithm=ddpg", "environment=pendulum", "regularizer=l0", *short)["regularizer"]
    rate = gates["gate_learning_rate"]
    found = {key: gates[key] for key in ("delay_steps", "ramp_steps", "freeze_at_step")}
    assert found | {"rate": (rate["steps"], rate["delay_steps"])} == steps


def test_rollouts_are_learned_from_from_the_first_on() -> None:
    gates = compose("algorithm=ppo", "trainer.total_steps=10_000", "regularizer=magnitude")["regularizer"]
    assert (gates["start_step"], gates["end_step"]) == (2_000, 7_500)


def test_the_key_that_was_given_is_never_proposed() -> None:
    """Hydra may refuse a key that the config has for another reason than its name."""
    assert "did you mean" not in unknown_key("regularizer.beta", ["regularizer.beta=0.5"])


def test_the_options_that_were_chosen_decide_which_key_may_be_meant() -> None:
    assert "did you mean regularizer.initial_open?" in unknown_key("regularizer.initial_opn")
    assert "initial_open?" not in unknown_key("regularizer.initial_opn", ["regularizer=l1"])


@pytest.mark.parametrize(("given", "name"), [("2026", "2026"), ("2026-11-28", "2026-11-28"), ("1.5", "1.5"), ("mine", "mine")])
def test_a_number_is_a_name_too(given: str, name: str) -> None:
    assert compose(f"sweep_name={given}")["sweep_name"] == name


def test_right_values_at_the_ends_of_their_ranges_pass() -> None:
    ends = ["seed=0", "regularizer.lambda_c=0", "algorithm.epsilon=1", "algorithm.gamma=0", "network.hidden=[]"]
    ends += ["lowrank.ranks=[]", "lowrank.retention=1", "lowrank.episodes=1"]
    config = compose(*ends, "trainer.total_steps=1e6", "trainer.num_envs=1", "algorithm.tau=1")
    assert config["trainer"]["total_steps"] == 1_000_000
    assert config["network"]["hidden"] == []
    assert compose("experience.buffer_size=10")["trainer"]["num_envs"] == 10


MISTAKES = {
    "mistyped key": (["regularizer.lamda_c=1"], ["regularizer.lamda_c", "lambda_c"]),
    "unknown option": (["algorithm=dqm"], ["algorithm=dqm", "dqn", "double_dqn"]),
    "missing package": (["environment=lunar_lander"], ["environment=lunar_lander", "pip install 'sparserl[box2d]'"]),
    "missing key": (["environment=gymnasium"], ["environment.id is missing", "environment.id=VALUE"]),
}
"""What a user may type, and what the sentence has to hold."""


def check_sentence(sentence: str, words: list[str], folder: Path) -> None:
    assert len(sentence.splitlines()) == 1, sentence
    assert sentence.startswith("sparserl: ")
    assert [word for word in words if word not in sentence] == [], sentence
    assert not list(folder.rglob("*.jsonl")), "rows of a run that never was"


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name != "missing package"])
def test_the_command_says_it_in_one_line(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides, words = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as main sets it, but not for the tests that follow
    monkeypatch.setattr(sys, "argv", ["sparserl-train", *overrides])
    with pytest.raises(SystemExit) as ended:
        main()
    # a process that exits with a text prints it, and has the code 1
    assert capfd.readouterr().err == ""
    check_sentence(str(ended.value.code), words, tmp_path)


def test_the_command_says_it_in_one_line_and_has_the_code_1(tmp_path: Path) -> None:
    """The one of them that is a process of its own: where a package is missing."""
    (tmp_path / "Box2D.py").write_text("raise ImportError('not installed')")  # found before the one that may be installed
    overrides, words = MISTAKES["missing package"]
    done = subprocess.run(
        [sys.executable, "-m", "sparserl.train", *overrides],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    check_sentence(done.stderr.rstrip("\n"), words, tmp_path)


# ---------------------------------------------------------------- loading


def test_loading_a_policy_needs_no_hydra_and_no_wandb() -> None:
    code = "import sys, sparserl; sparserl.load_policy; print(*{'hydra', 'omegaconf', 'wandb'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
