"""Trained policies as ordinary torch modules. Needs neither Hydra nor whatever trained them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from sparserl.networks.base import Network
from sparserl.records.disk import POLICY_METADATA
from sparserl.types import Layers


def load_policy(folder: str | Path) -> nn.Module:
    """The policy of a finished run, hardened: its zeros are zeros.

    Called with observations ``[batch, *obs]`` it returns what the algorithm acts by (action values for DQN). Weights live
    in ``nn.Linear`` only. Raises FileNotFoundError where the run left no policy and ValueError where the file is damaged or
    names a class that is not sparserl's: a file from a stranger runs no code.
    """
    path = Path(folder) / "policy.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: the run has not finished, or this is not a run's folder")
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[POLICY_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is not a whole policy: {error}") from error
    return _network(description["network"]).module(_component(tensors, "policy")).eval()


def _component(tensors: Layers, component: str) -> Layers:
    return {name.removeprefix(f"{component}/"): t for name, t in tensors.items() if name.startswith(f"{component}/")}


def _network(description: dict[str, Any]) -> Network:
    module, _, name = description["_target_"].rpartition(".")
    if not module.startswith("sparserl.networks."):
        raise ValueError(f"the policy's network is {description['_target_']!r}, which is not one of sparserl's")
    fields = {key: value for key, value in description.items() if key != "_target_"}
    network = getattr(importlib.import_module(module), name)(**fields)
    if not isinstance(network, Network):
        raise ValueError(f"the policy's network is {description['_target_']!r}, which is not a network")
    return network
