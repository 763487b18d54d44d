from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sparserl.networks.mlp
from sparserl import load_policy
from sparserl.networks.mlp import MLP
from sparserl.population.members import Population
from sparserl.runs.folder import RunFolder

NETWORK = {"_target_": "sparserl.networks.mlp.MLP", "hidden": [5, 4], "activation": "tanh"}


def tensors() -> dict[str, Tensor]:
    """A policy of 3 inputs and 2 outputs that is sparse, with a target network of other weights beside it."""
    layers = MLP(hidden=[5, 4], activation="tanh").init((3,), 2, Population((0,)).generators("init"))
    draw = torch.Generator().manual_seed(0)
    policy = {
        name: tensor[0] * (torch.rand(tensor[0].shape, generator=draw) < 0.5) if name.endswith("weight") else tensor[0]
        for name, tensor in layers.items()
    }
    return {f"policy/{name}": tensor for name, tensor in policy.items()} | {
        f"target_policy/{name}": tensor + 1 for name, tensor in policy.items()
    }


def write(folder: Path, network: Any = NETWORK, given: Mapping[str, Tensor] | None = None, **more: Any) -> Path:
    """A run's folder with nothing in it but a policy."""
    run = RunFolder(folder, total_steps=1)
    run.policy(tensors() if given is None else given, {"network": network} | more)
    run.close()
    return folder


# ---------------------------------------------------------------- what is loaded


def test_the_module_computes_what_the_weights_say(tmp_path: Path) -> None:
    module, saved = load_policy(write(tmp_path)), tensors()
    observation = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    hidden = observation
    for layer in ("0", "1"):
        hidden = torch.tanh(hidden @ saved[f"policy/{layer}.weight"] + saved[f"policy/{layer}.bias"])
    expected = hidden @ saved["policy/2.weight"] + saved["policy/2.bias"]
    torch.testing.assert_close(module(observation), expected)
    assert not module.training


def test_zeros_stay_zeros_in_linear_layers(tmp_path: Path) -> None:
    module, saved = load_policy(str(write(tmp_path))), tensors()
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    assert sum(p.numel() for part in linear for p in part.parameters()) == sum(p.numel() for p in module.parameters())
    for index, part in enumerate(linear):
        weight = saved[f"policy/{index}.weight"]
        assert torch.equal(part.weight.T, weight)
        assert (part.weight == 0).sum() == (weight == 0).sum() > 0


def test_tensors_of_any_layout_are_written(tmp_path: Path) -> None:
    """Slices of a population are neither contiguous nor without gradients."""
    odd = {name: tensor.T.contiguous().T.requires_grad_() for name, tensor in tensors().items()}
    write(tmp_path, given=odd)
    assert all(torch.equal(tensor, odd[name]) for name, tensor in load_file(tmp_path / "policy.safetensors").items())
    load_policy(tmp_path)


def test_equal_policies_are_equal_files(tmp_path: Path) -> None:
    contents = set()
    for attempt in range(8):
        (tmp_path / str(attempt)).mkdir()
        folder = write(tmp_path / str(attempt), config={"seed": 1}, versions="1", more={"a": [1, 2]})
        contents.add((folder / "policy.safetensors").read_bytes())
    assert len(contents) == 1


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


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors().items() if key != name}


@pytest.mark.parametrize(
    "given",
    [
        {},
        without("policy/1.weight"),
        tensors() | {"policy/0.weight": torch.zeros(3, 6)},
    ],
    ids=["no tensors", "a layer is missing", "a layer is too wide"],
)
def test_tensors_that_do_not_make_the_network_are_refused(tmp_path: Path, given: Mapping[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(write(tmp_path, given=given))


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"network": "{"}, {"sparserl": "{"}])
def test_a_safetensors_file_of_something_else_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(tensors(), tmp_path / "policy.safetensors", metadata)
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    "network",
    [
        {},
        NETWORK | {"_target_": "sparserl.networks.nothing.MLP"},
        NETWORK | {"_target_": "sparserl.networks.mlp.Nothing"},
        NETWORK | {"_target_": "sparserl.networks.base.Network"},
        NETWORK | {"_target_": "sparserl.networks.mlp.math"},
        NETWORK | {"width": 3},
        {"_target_": NETWORK["_target_"]},
    ],
    ids=[
        "nothing",
        "unknown module",
        "unknown name",
        "abstract",
        "a module",
        "unknown key",
        "missing key",
    ],
)
def test_a_description_that_names_no_network_is_refused(tmp_path: Path, network: Any) -> None:
    with pytest.raises(ValueError, match=r"policy\.safetensors is not a whole policy"):
        load_policy(write(tmp_path, network=network))


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
def test_a_file_from_a_stranger_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    """The stranger's modules lie on the path, and importing them leaves a trace."""
    trace = tmp_path / "trace"
    package = tmp_path / "path"
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = package.joinpath(*parts[:depth])
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"open({str(trace)!r}, 'w')")
    monkeypatch.syspath_prepend(package)
    with pytest.raises(ValueError, match=said):
        load_policy(write(tmp_path, network=NETWORK | {"_target_": name}))
    assert not trace.exists()


def test_a_file_from_a_stranger_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's module holds more than networks: whatever it imports. None of that may be called either."""
    calls = []
    monkeypatch.setattr(sparserl.networks.mlp, "Generators", lambda **given: calls.append(given))
    network = {"_target_": "sparserl.networks.mlp.Generators", "seeds": [1], "stream": "", "device": "cpu"}
    with pytest.raises(ValueError, match="not a network"):
        load_policy(write(tmp_path, network=network))
    assert calls == []
