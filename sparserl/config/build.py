"""From resolved configs to the parts of a loop: the one user of Hydra's ``instantiate``."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException

from sparserl.algorithms.base import Algorithm
from sparserl.config.identity import _per_member, canonical, populations, shared
from sparserl.config.schema import Config, ConfigError
from sparserl.lowrank.sweep import Sweep
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.runs.files import components, read_policy
from sparserl.tracking.base import Logger
from sparserl.training.trainer import Cohort, Parts, Trainer
from sparserl.types import Weights

# ---------------------------------------------------------------- build: parts from resolved configs


def build(configs: Sequence[Config]) -> tuple[Trainer, Parts]:
    """The trainer and parts of one loop, from the config of each member.

    Neighbours with equal structures are one population. Raises ConfigError where the configs cannot train in one loop.
    """
    if len({canonical(shared(config)) for config in configs}) > 1:
        raise ConfigError(
            "these configs differ in more than their regulariser, seeds and per-member values, so they cannot train in one loop"
        )
    first = configs[0]
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if first["device"] == "auto" else first["device"])
    parts = Parts(
        _members(configs, device),
        _instantiate([first["environment"]], device),
        _instantiate([config["algorithm"] for config in configs], device),
        _instantiate([first["experience"]], device),
        [
            Cohort(
                _members(cohort, device),
                _instantiate([config["algorithm"] for config in cohort], device),
                _instantiate([config["regularizer"] for config in cohort], device),
            )
            for cohort in populations(configs, lambda config: config)
        ],
    )
    return _instantiate([first["trainer"]], device), parts


def _members(configs: Sequence[Config], device: torch.device) -> Population:
    return Population(tuple(config["seed"] for config in configs), device)


def build_sweep(config: Config) -> Sweep:
    """What is done with members after they were trained, from the config of any of one loop."""
    sweep: Sweep = _instantiate([config["lowrank"]], torch.device("cpu"))
    return sweep


def build_logger(config: Config) -> Logger:
    """Where the rows of a loop go besides the disk. Raises ConfigError where they cannot go there."""
    logger: Logger = _instantiate([config["logger"]], torch.device("cpu"))
    return logger


def _instantiate(nodes: Sequence[Config], device: torch.device) -> Any:
    """One object for all members: the fields that may differ hold tensors [member]."""
    cls = hydra.utils.get_class(nodes[0]["_target_"])
    values = {name: torch.tensor([float(node[name]) for node in nodes], device=device) for name in _per_member(cls)}
    try:
        return hydra.utils.instantiate(nodes[0], **values, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):  # what a class says of its values together
            raise ConfigError(str(error.__cause__)) from error
        raise


def build_start(config: Config) -> Weights | None:
    """The weights that a run begins with: those that ``init_from`` names, or None for fresh ones.

    Raises ConfigError where they are not those of one policy that fits.
    """
    pattern = config["init_from"]
    if pattern is None:
        return None
    given = Path(pattern) / "policy.safetensors"
    paths = [given] if given.exists() else glob(str(given))  # noqa: PTH207 (absolute patterns too)
    found = [Path(path).parent for path in paths]
    if len(found) != 1:
        many = f"matches {len(found)} finished runs" if found else "matches no finished run"
        raise ConfigError(f"init_from is {pattern!r}, which {many}; name the folder of one")
    try:
        policy_file, description, tensors = read_policy(found[0])
    except ValueError as error:
        raise ConfigError(f"init_from is {pattern!r}: {error}") from error
    try:
        trained_in = description["config"]["environment"]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"init_from is {pattern!r}: {policy_file} does not say what it was trained with") from error
    if trained_in != config["environment"]:
        raise ConfigError(f"init_from is {pattern!r}, a policy of another environment; choose the one it was trained in")
    algorithm = bound_algorithm(config)
    fresh: Weights = split(algorithm.init(Population((0,))), 0)
    loaded = components(tensors)
    for component in algorithm.policy:
        shapes = [
            {name: tuple(tensor.shape) for name, tensor in weights.get(component, {}).items()} for weights in (loaded, fresh)
        ]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"init_from is {pattern!r}, a policy whose {component} has the tensors {shapes[0]}; "
                f"those of this run are {shapes[1]}"
            )
    return {component: loaded[component] for component in algorithm.policy}


def bound_algorithm(config: Config) -> Algorithm:
    """The algorithm of a run, bound to its environment. Raises ConfigError where the two do not fit."""
    algorithm, environment = (_instantiate([config[group]], torch.device("cpu")) for group in ("algorithm", "environment"))
    bound: Algorithm = algorithm.bind(environment.spec())
    return bound
