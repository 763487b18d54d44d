"""A folder from a stranger runs no code of theirs, whichever of its files is loaded; what one trusts does."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from sparserl import load_policy, play
from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import compose, read_back
from sparserl.loading import UntrustedError, check
from sparserl.runs import checkpoint
from sparserl.runs.files import POLICY_METADATA, read_json, read_policy, write_json
from sparserl.sweeps.loop import run

ROOT = Path(__file__).parents[1]

STRANGER = """
import os
from dataclasses import dataclass
from sparserl.environments.cartpole import CartPole
from sparserl.networks.mlp import MLP
from sparserl.schedules import Constant

os.makedirs({trace!r}, exist_ok=True)

@dataclass(frozen=True)
class Schedule(Constant): ...

@dataclass(frozen=True)
class Net(MLP): ...

@dataclass(frozen=True)
class World(CartPole): ...
"""
"""A module that leaves a trace when it is imported, with a part of each kind."""


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What is there once code of the stranger, whose module lies on the path, has run."""
    path = tmp_path / "trace"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "stranger.py").write_text(STRANGER.format(trace=str(path)))
    monkeypatch.syspath_prepend(tmp_path / "path")
    yield path
    sys.modules.pop("stranger", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few hundred steps, with nothing strange in it."""
    folder = tmp_path_factory.mktemp("run")
    run([compose("trainer=smoke", "network.hidden=[8]", "lowrank.ranks=[]", "logger=disk")], [folder], live=False)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be tampered with."""
    return shutil.copytree(trained, tmp_path / "run")


# ---------------------------------------------------------------- a config to go on with

NET = {"_target_": "stranger.Net", "hidden": [8], "activation": "relu"}
WORLD = {"_target_": "stranger.World", "max_episode_steps": 5}
GYMNASIUM = {
    "_target_": "sparserl.environments.gymnasium.Gymnasium",
    "id": "CartPole-v1",
    "extra": None,
    "max_episode_steps": None,
    "vectorization": "sync",
    "at_once": 256,
}


def given(**arguments: Any) -> Config:
    """An environment of Gymnasium's that is made with these."""
    return GYMNASIUM | {"arguments": arguments}


def at(key: str, value: Any) -> Callable[[Config, Path], None]:
    """Puts the value where the dotted key says."""

    def change(config: Config, trace: Path) -> None:
        *groups, last = key.split(".")
        for group in groups:
            config = config[group]
        config[last] = json.loads(json.dumps(value).replace("TRACE", str(trace)))

    return change


STRANGE = {
    "an environment": at("environment._target_", "stranger.World"),
    "a network": at("network._target_", "stranger.Net"),
    "a network in an algorithm": at("algorithm.network._target_", "stranger.Net"),
    "a schedule": at("algorithm.epsilon", {"_target_": "stranger.Schedule", "value": 0.1}),
    "a schedule of gates": at("regularizer.gate_learning_rate", {"_target_": "stranger.Schedule", "value": 0.1}),
    "a logger": at("logger._target_", "stranger.Schedule"),
    "names": at("names._target_", "stranger.Schedule"),
    "an argument": at("environment", given(wheels=WORLD)),
    "deep in arguments": at("environment", given(wheels=[{"left": [WORLD]}])),
    "an id with a module": at("environment", given() | {"id": "stranger:World-v0"}),
    "a function": at("environment", given(wheels={"_target_": "sparserl.tracking.wandb.os.mkdir", "path": "TRACE"})),
}
"""Each of these would run the stranger's code, or the machine's."""


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_a_config_from_a_stranger_runs_nothing_unless_it_is_trusted(
    folder: Path, trace: Path, change: Callable[[Config, Path], None]
) -> None:
    path = folder / "config.json"
    config = read_json(path)
    change(config, trace)
    write_json(path, config | {"trust": True})  # for whoever resumes to say, not for the stranger
    with pytest.raises(ConfigError, match=r"run code that is not sparserl's.*trust=true|cannot be imported") as caught:
        read_back(path, trust=False)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not trace.exists()
    with suppress(ConfigError):  # what comes of it is another question
        read_back(path, trust=True)
    assert trace.exists(), "nothing would have run anyway, so this shows nothing"


@pytest.mark.parametrize(
    "change",
    [
        at("_target_", "stranger.World"),
        at("network.hidden", [{"_target_": "stranger.World"}]),
        # what is installed may open other packages by name, as shimmy does here
        at("environment", given(env_id="stranger:World-v0") | {"id": "GymV26Environment-v0"}),
        # W&B would be told
        at("logger", {"_target_": "sparserl.tracking.base.Disk", "project": "${oc.env:HOME}"}),
        # nothing resolves it today
        at("environment", given(wheels="${oc.create:'{_target_: stranger.Schedule, value: 1}'}")),
        # no part, and building it is calling it
        at("environment", given(wheels={"_target_": "sparserl.runs.folder.RunFolder", "path": "TRACE", "total_steps": 1})),
        at("environment", given(wheels={"_target_": "sparserl.loading.load_policy", "folder": "TRACE"})),
    ],
)
def test_so_does_what_might(folder: Path, trace: Path, change: Callable[[Config, Path], None]) -> None:
    path = folder / "config.json"
    config = read_json(path)
    change(config, trace)
    write_json(path, config)
    with pytest.raises(ConfigError, match=r"run code that is not sparserl's.*trust=true|is not a dataclass"):
        read_back(path, trust=False)
    assert not trace.exists()


def test_a_config_of_sparserls_parts_needs_no_trust(folder: Path) -> None:
    written = read_json(folder / "config.json")
    assert read_back(folder / "config.json", trust=False) == written


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m sparserl.train``, with the stranger's module on the path."""
    path = os.pathsep.join([str(ROOT), str(folder / "path")])
    line = [sys.executable, "-m", "sparserl.train", *arguments]
    return subprocess.run(line, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "is_trusted"),
    [
        ("gymnasium_robotics:FetchReach-v4", True),
        ("gymnasium_robotics:evil:FetchReach-v4", False),
        ("gymnasium_robotics.evil:FetchReach-v4", False),
        ("evil:FetchReach-v4", False),
    ],
)
def test_of_modules_that_register_environments_only_that_of_an_extra_needs_no_trust(name: str, is_trusted: bool) -> None:
    """Without it a run of environment=fetch_reach could not be resumed or played."""
    config = {"environment": {"id": name}}
    if is_trusted:
        check("", config)
    else:
        with pytest.raises(UntrustedError, match=r"environment\.id is"):
            check("", config)


def test_a_part_of_ones_own_needs_no_trust_on_the_command_line(trace: Path) -> None:
    assert compose("trainer=smoke", "environment._target_=stranger.World")["trust"] is False
    assert trace.exists()


def test_resume_builds_what_is_not_sparserls_only_with_trust(folder: Path, tmp_path: Path, trace: Path) -> None:
    """And what Hydra left in the folder is not read back."""
    before = (folder / "metrics.jsonl").read_bytes()
    config = read_json(folder / "config.json")
    at("environment._target_", "stranger.World")(config, trace)
    write_json(folder / "config.json", config)
    (folder / ".hydra").mkdir()
    unpickled = tmp_path / "made from YAML"
    for name in ("config", "hydra", "overrides"):
        (folder / ".hydra" / f"{name}.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{unpickled}']")

    refused = command(tmp_path, "resume=run")
    assert refused.returncode == 1
    assert "run/config.json: environment._target_ is 'stranger.World', which may run code" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not trace.exists()
    trusted = command(tmp_path, "resume=run", "trust=true")
    assert trusted.returncode == 0, trusted.stderr
    assert trace.exists()
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert not unpickled.exists()
    yaml.unsafe_load(f"a: !!python/object/apply:os.mkdir ['{unpickled}']")
    assert unpickled.exists(), "who reads such a file may be caught by it"


# ---------------------------------------------------------------- a checkpoint


class Malicious:
    """Unpickled, it makes a folder: code of a stranger has run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def poison(folder: Path, trace: Path, by: str) -> Path:
    """Put the stranger's object into every checkpoint of a folder; returns one of them."""
    for path in folder.glob("checkpoint-*.pt"):
        if by == "torch":
            torch.save({"trainer": Malicious(trace)}, path)
        else:
            path.write_bytes(pickle.dumps({"trainer": Malicious(trace)}))
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_a_checkpoint_from_a_stranger_is_one_sentence_to_whoever_reads_it(
    folder: Path, trace: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trust does not open it either: no checkpoint of ours needs that."""
    path = poison(folder, trace, by)
    sentence = "no checkpoint .*can be read: take the damaged folders away"
    with pytest.raises(ValueError, match=sentence):
        checkpoint.load([folder])
    for trust in (False, True):
        with pytest.raises(ConfigError, match=sentence):
            run([read_back(folder / "config.json", trust)], [folder], live=False)
        options = ["--dense", "--video", str(folder / "film.gif"), *["--trust"] * trust]
        monkeypatch.setattr(sys, "argv", ["sparserl-play", str(folder), *options])
        with pytest.raises(SystemExit, match=f"^sparserl: {sentence}"):
            play.main()
    assert not trace.exists()
    # this file would have done it
    if by == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert trace.exists()


# ---------------------------------------------------------------- a policy


def describe(folder: Path, description: Any) -> Path:
    """The same policy, said to be something else."""
    path = folder / "policy.safetensors"
    save_file(load_file(path), path, {POLICY_METADATA: json.dumps(description)})
    return folder


def said(folder: Path, key: str, value: Any) -> Path:
    """The same policy, a part of its config said to be another."""
    _, description, _ = read_policy(folder)
    at(key, value)(description["config"], folder)
    return describe(folder, description)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("algorithm._target_", "stranger.Net"),
        ("algorithm.network", NET),
        ("algorithm.network.hidden", [8, {"_target_": "stranger.Net"}]),
        ("algorithm.epsilon", {"_target_": "stranger.Schedule", "value": 0.1}),
        ("algorithm.optimizer._target_", "stranger.Schedule"),
        ("algorithm.gamma", "${oc.create:'{_target_: stranger.Schedule, value: 1}'}"),
    ],
)
def test_a_policy_from_a_stranger_runs_nothing(folder: Path, trace: Path, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"policy\.safetensors: {key}.* may run code that is not sparserl's.*trust=true"):
        load_policy(said(folder, key, value))
    assert not trace.exists()


def test_a_network_of_ones_own_is_built_with_trust(folder: Path, trace: Path) -> None:
    observation = torch.ones(2, 4)
    values = load_policy(folder)(observation)
    assert torch.equal(load_policy(said(folder, "algorithm.network", NET), trust=True)(observation), values)
    assert trace.exists()


def test_trust_does_not_help_what_is_not_there(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"not a whole policy.*'nowhere\.Net' cannot be imported"):
        load_policy(said(folder, "algorithm.network", NET | {"_target_": "nowhere.Net"}), trust=True)
    constant = {"_target_": "sparserl.schedules.Constant", "value": 1.0}
    with pytest.raises(ValueError, match=r"not a whole policy.*Constant is no algorithm"):
        load_policy(said(folder, "algorithm", constant), trust=True)


def test_an_environment_of_ones_own_is_played_with_trust(
    folder: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said(folder, "environment", WORLD)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    arguments = ["sparserl-play", str(folder), "--video", str(folder / "film.gif")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"^sparserl: .*environment\._target_ is 'stranger\.World'.*--trust"):
        play.main()
    assert not trace.exists()
    monkeypatch.setattr(sys, "argv", [*arguments, "--trust"])
    play.main()
    assert trace.exists()
    assert "steps 5" in capsys.readouterr().out


# ---------------------------------------------------------------- a policy to start from


def test_a_start_is_tensors_and_an_environment_that_are_compared(folder: Path, trace: Path) -> None:
    """Which network the file says it is of does not matter: the tensors fit, or they do not."""
    start = "trainer=smoke", "network.hidden=[8]", f"init_from={folder}"
    said(folder, "algorithm.network", NET)
    assert compose(*start)["init_from"] == str(folder)
    said(folder, "environment", WORLD)
    with pytest.raises(ConfigError, match="another environment"):
        compose(*start)
    assert not trace.exists()


@pytest.mark.parametrize(
    "description", [None, [], {}, "stranger.Net", {"config": None}, {"config": {}}, {"config": "environment"}]
)
def test_a_start_that_says_nothing_of_itself_is_one_sentence(folder: Path, description: Any) -> None:
    with pytest.raises(ConfigError, match="does not say what it was trained with"):
        compose(f"init_from={describe(folder, description)}")


def test_a_pickle_in_a_policys_place_is_not_opened(folder: Path, trace: Path) -> None:
    path = folder / "policy.safetensors"
    torch.save({"policy/0.weight": Malicious(trace)}, path)
    with pytest.raises(ValueError, match="not a whole policy"):
        load_policy(folder, trust=True)
    with pytest.raises(ConfigError, match="not a whole policy"):
        compose(f"init_from={folder}", "trust=true")
    assert not trace.exists()
    torch.load(BytesIO(path.read_bytes()), weights_only=False)  # by its name it would be taken for what it is not
    assert trace.exists()
