"""Policies as torch modules: what they compute, and which files are refused, without running what these name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import only_policy
from safetensors.torch import load_file, save_file
from torch import nn

import sparserl.networks.mlp
from sparserl import load_policy
from sparserl.config.validation import compose
from sparserl.networks.mlp import MLP
from sparserl.play import load_dense
from sparserl.population.members import Population
from sparserl.runs.files import POLICY_METADATA, read_policy
from sparserl.sweeps.loop import run
from sparserl.types import Layers, Spec

NETWORK = {"_target_": "sparserl.networks.mlp.MLP", "hidden": [5, 4], "activation": "tanh"}
SPEC = Spec(observation_shape=(3,), discrete_actions=2)


def tensors() -> Layers:
    """A sparse policy of 3 inputs and 2 outputs."""
    layers = MLP(hidden=[5, 4], activation="tanh").init((3,), 2, Population((0,)).generators("init"))
    draw = torch.Generator().manual_seed(0)
    return {
        name: tensor[0] * (torch.rand(tensor[0].shape, generator=draw) < 0.5) if name.endswith("weight") else tensor[0]
        for name, tensor in layers.items()
    }


def write(folder: Path, network: Any = NETWORK, given: Layers | None = None, **algorithm: Any) -> Path:
    """A run's folder with nothing in it but a policy."""
    return only_policy(folder, network, SPEC, {"policy": tensors() if given is None else given}, **algorithm)


def describe(folder: Path, change: Callable[[Any], Any]) -> Path:
    """The same policy, whose description was changed."""
    path, description, saved = read_policy(folder)
    save_file(saved, path, {POLICY_METADATA: json.dumps(change(description))})
    return folder


# ---------------------------------------------------------------- what is loaded


def test_the_module_computes_what_the_weights_say(tmp_path: Path) -> None:
    module, saved = load_policy(write(tmp_path)), tensors()
    observation = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    hidden = observation
    for layer in ("0", "1"):
        hidden = torch.tanh(hidden @ saved[f"{layer}.weight"] + saved[f"{layer}.bias"])
    expected = hidden @ saved["2.weight"] + saved["2.bias"]
    torch.testing.assert_close(module(observation), expected)
    assert not module.training


def test_zeros_stay_zeros_in_linear_layers(tmp_path: Path) -> None:
    module, saved = load_policy(str(write(tmp_path))), tensors()
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    assert sum(p.numel() for part in linear for p in part.parameters()) == sum(p.numel() for p in module.parameters())
    for index, part in enumerate(linear):
        weight = saved[f"{index}.weight"]
        assert torch.equal(part.weight.T, weight)
        assert (part.weight == 0).sum() == (weight == 0).sum() > 0


def test_tensors_of_any_layout_are_written(tmp_path: Path) -> None:
    """Slices of a population are neither contiguous nor without gradients."""
    odd = {name: tensor.T.contiguous().T.requires_grad_() for name, tensor in tensors().items()}
    path = write(tmp_path, given=odd) / "policy.safetensors"
    assert all(torch.equal(tensor, odd[name.removeprefix("policy/")]) for name, tensor in load_file(path).items())
    load_policy(tmp_path)


def test_equal_policies_are_equal_files(tmp_path: Path) -> None:
    contents = set()
    for attempt in range(8):
        (tmp_path / str(attempt)).mkdir()
        contents.add((write(tmp_path / str(attempt)) / "policy.safetensors").read_bytes())
    assert len(contents) == 1


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_a_network_of_the_algorithms_own_is_loaded(algorithm: str, tmp_path: Path) -> None:
    """``algorithm.network`` need not be the top-level ``network``; the file said it was, and could not be loaded."""
    raw = "algorithm.normalize_observation=false"
    config = compose(f"algorithm={algorithm}", "trainer=smoke", "network.hidden=[8]", "logger=disk", raw)
    config["algorithm"]["network"] = config["network"] | {"hidden": [5, 4], "activation": "tanh"}
    run([config], [tmp_path], live=False)
    policy, saved = load_policy(tmp_path), load_file(tmp_path / "policy.safetensors")
    assert {name.partition("/")[0] for name in saved} == {"policy"}, "critics and targets are not deployed"
    linear = [part for part in policy.modules() if isinstance(part, nn.Linear)]
    assert [(part.in_features, part.out_features) for part in linear] == [(4, 5), (5, 4), (4, 2)]
    assert all(torch.equal(part.weight.T, saved[f"policy/{index}.weight"]) for index, part in enumerate(linear))
    assert load_dense(tmp_path)(torch.zeros(3, 4)).shape == (3, 2)


# ---------------------------------------------------------------- what is refused


def test_a_folder_without_a_policy_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not finished"):
        load_policy(tmp_path)
    with pytest.raises(FileNotFoundError, match="not finished"):
        load_policy(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["empty", "a byte", "half", "last byte", "text", "zeros"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path) / "policy.safetensors"
    whole = path.stat().st_size
    if damage in ("text", "zeros"):
        path.write_bytes(b"this is no policy" if damage == "text" else b"\x00" * whole)
    else:
        os.truncate(path, {"empty": 0, "a byte": 1, "half": whole // 2, "last byte": whole - 1}[damage])
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(tmp_path)


UNBOUNDED = (
    {"action_low": [-1.0]},
    {"action_low": [-1.0], "action_high": [1.0, 2.0]},
    {"action_low": [-1.0, -1.0], "action_high": [1.0, math.inf]},
    {"action_low": [-1.0, -1.0], "action_high": 1.0},
)
"""Of vectors of actions: no upper bound, one for another number of dimensions, none that is finite, and a single number."""


def without(name: str) -> Layers:
    return {key: tensor for key, tensor in tensors().items() if key != name}


@pytest.mark.parametrize(
    "given",
    [
        {},
        without("1.weight"),
        tensors() | {"3.weight": torch.zeros(2, 2)},
        tensors() | {"0.weight": torch.zeros(3, 6)},
        tensors() | {"0.weight": tensors()["0.weight"].unsqueeze(0)},
        # these would broadcast: copied into a layer, every unit would have the same bias
        tensors() | {"0.bias": torch.ones(1, 1)},
        tensors() | {"0.bias": torch.ones(5)},
        tensors() | {"0.weight": tensors()["0.weight"].long()},
    ],
    ids=[
        *(
            "none",
            "a layer is missing",
            "one too many",
            "too wide",
            "of a population",
            "one bias for all",
            "a bias of one axis",
        ),
        "whole numbers",
    ],
)
def test_tensors_that_do_not_make_the_network_are_refused(tmp_path: Path, given: Layers) -> None:
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(write(tmp_path, given=given))


@pytest.mark.parametrize("components", [("target_policy",), ("policy", "target_policy"), ("encoder", "policy")])
def test_other_components_than_the_deployed_ones_are_refused(tmp_path: Path, components: tuple[str, ...]) -> None:
    folder = only_policy(tmp_path, NETWORK, SPEC, {component: tensors() for component in components})
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(folder)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"config": "{"}, {"sparserl": "{"}])
def test_a_safetensors_file_of_something_else_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(tensors(), tmp_path / "policy.safetensors", metadata)
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        lambda _: [],
        lambda _: "config",
        lambda its: {"config": its["config"]},
        lambda its: {"spec": its["spec"]},
        lambda its: its | {"config": None},
        lambda its: its | {"config": {}},
        lambda its: its | {"config": {"algorithm": []}},
        lambda its: its | {"spec": None},
        lambda its: its | {"spec": {}},
        lambda its: its | {"spec": its["spec"] | {"wheels": 4}},
        lambda its: its | {"spec": its["spec"] | {"observation_shape": [7]}},
        lambda its: its | {"spec": its["spec"] | {"observation_shape": "ab"}},
        lambda its: its | {"spec": its["spec"] | {"discrete_actions": None}},
        lambda its: its | {"spec": its["spec"] | {"discrete_actions": "2"}},
        lambda its: its | {"spec": its["spec"] | {"discrete_actions": -1}},
        lambda its: its | {"spec": its["spec"] | {"observation_dtype": "float8"}},
        *(lambda its, of=of: its | {"spec": its["spec"] | {"discrete_actions": None} | of} for of in UNBOUNDED),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(describe(write(tmp_path), change))


OTHERS = {
    "nothing": {},
    "unknown module": {"_target_": "sparserl.networks.nothing.MLP"},
    "unknown name": {"_target_": "sparserl.networks.mlp.Nothing"},
    "abstract": {"_target_": "sparserl.networks.base.Network"},
    "a module": {"_target_": "sparserl.networks.mlp.math"},
    "a schedule": {"_target_": "sparserl.schedules.Constant", "value": 1.0},
    "unknown key": NETWORK | {"width": 3},
    "missing key": {"_target_": NETWORK["_target_"]},
}


@pytest.mark.parametrize("network", OTHERS.values(), ids=OTHERS)
def test_a_description_that_names_no_network_is_refused(tmp_path: Path, network: Any) -> None:
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(write(tmp_path, network=network))


@pytest.mark.parametrize(
    "algorithm",
    [
        {"_target_": "sparserl.algorithms.nothing.DQN"},
        {"_target_": "sparserl.algorithms.base.Algorithm"},
        {"_target_": "sparserl.algorithms.ppo.PPO"},  # with the keys of DQN
        {"_target_": "sparserl.networks.mlp.MLP"},
        {"width": 3},
    ],
)
def test_a_description_that_names_no_algorithm_is_refused(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy: its algorithm cannot be built"):
        load_policy(write(tmp_path, **algorithm))


def test_a_part_in_the_place_of_the_algorithm_is_refused(tmp_path: Path) -> None:
    folder = describe(write(tmp_path), lambda its: its | {"config": {"algorithm": NETWORK}})
    with pytest.raises(ValueError, match="MLP is no algorithm"):
        load_policy(folder)


# ---------------------------------------------------------------- what a stranger's file may do

PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "_target_": lambda target: {"_target_": target},
    "network._target_": lambda target: {"network": NETWORK | {"_target_": target}},
    "network.hidden.1._target_": lambda target: {"network": NETWORK | {"hidden": [5, {"_target_": target}]}},
    "epsilon._target_": lambda target: {"epsilon": {"_target_": target, "value": 0.1}},
    "optimizer._target_": lambda target: {"optimizer": {"_target_": target}},
    "optimizer.betas.0.1._target_": lambda target: {"optimizer": {"_target_": OURS, "betas": [[0.9, {"_target_": target}]]}},
}
"""Keys below ``algorithm`` at which a class may be named, however deep."""
OURS = "sparserl.optimizers.Adam"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MLP", "code that is not sparserl's"),
        ("stranger.Network", "code that is not sparserl's"),
        ("stranger.sparserl.networks.mlp.MLP", "code that is not sparserl's"),
        ("sparserl_of.stranger.MLP", "code that is not sparserl's"),
        ("sparserl.networks_of.stranger.MLP", "cannot be imported"),
    ],
)
def test_a_file_from_a_stranger_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str, said: str
) -> None:
    """The stranger's modules lie on the path, and importing them leaves a trace."""
    trace = tmp_path / "trace"
    package = tmp_path / "path"
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = package.joinpath(*parts[:depth])
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"open({str(trace)!r}, 'w')")
    monkeypatch.syspath_prepend(package)
    with pytest.raises(ValueError, match=said) as refused:
        load_policy(write(tmp_path, **{"network": NETWORK} | PLACES[place](name)))
    assert "imported" in said or f"algorithm.{place} is {name!r}" in str(refused.value)
    assert not trace.exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_file_from_a_stranger_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A network's module holds more than networks: whatever it imports. None of that may be called either."""
    calls = []
    monkeypatch.setattr(sparserl.networks.mlp, "Generators", lambda **given: calls.append(given))
    with pytest.raises(ValueError, match="not a dataclass"):
        load_policy(write(tmp_path, **{"network": NETWORK} | PLACES[place]("sparserl.networks.mlp.Generators")))
    assert calls == []


def test_metadata_that_is_nested_too_deeply_is_no_policy(tmp_path: Path) -> None:
    """Python's parser of JSON calls itself for each bracket."""
    save_file({"policy/0.weight": torch.zeros(1, 1)}, tmp_path / "policy.safetensors", {POLICY_METADATA: "[" * 100_000})
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        read_policy(tmp_path)
