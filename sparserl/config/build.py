"""From resolved configs to the parts of a loop."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

import hydra
import torch

from sparserl.algorithms.base import Algorithm
from sparserl.config.identity import _per_member, canonical, parts_in, populations, shared
from sparserl.config.schema import Config, ConfigError, PartError
from sparserl.lowrank.sweep import RankSweep
from sparserl.population.members import Population
from sparserl.runs.files import POLICY, components, read_policy
from sparserl.terminal import describe
from sparserl.tracking.base import Logger
from sparserl.training.loop_parts import LoopParts, PopulationParts
from sparserl.training.trainer import Trainer
from sparserl.types import Weights

CPU = torch.device("cpu")


def build(configs: Sequence[Config]) -> tuple[Trainer, LoopParts]:
    """The trainer and parts of one loop, from the config of each member.

    Neighbours with equal structures are one population. Raises ConfigError where the configs cannot train in one loop.
    """
    if len({canonical(shared(config)) for config in configs}) > 1:
        raise ConfigError(
            "these configs differ in more than their regulariser, seeds and per-member values, so they cannot train in one loop"
        )
    first = configs[0]
    device = device_of(first)
    parts = LoopParts(
        _members(configs, device),
        build_part("environment", [first], device),
        build_part("algorithm", configs, device),
        build_part("experience", [first], device),
        [
            PopulationParts(
                _members(its, device),
                build_part("algorithm", its, device),
                build_part("regularizer", its, device),
            )
            for its in populations(configs, lambda config: config)
        ],
    )
    return build_part("trainer", [first], device), parts


def device_of(config: Config) -> torch.device:
    """Where the tensors of a run are to be, on this machine."""
    chosen = config["device"]
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if chosen == "auto" else chosen)


def _members(configs: Sequence[Config], device: torch.device) -> Population:
    return Population(tuple(config["seed"] for config in configs), device)


def build_rank_sweep(config: Config) -> RankSweep:
    """What is done with members after they were trained, from the config of any of one loop."""
    sweep: RankSweep = build_part("lowrank", [config])
    return sweep


def build_logger(config: Config) -> Logger:
    """Where the rows of a loop go besides the disk. Raises ConfigError where they cannot go there."""
    logger: Logger = build_part("logger", [config])
    return logger


def build_part(group: str, configs: Sequence[Config], device: torch.device = CPU) -> Any:
    """The part that ``group`` chose, one object for all members: the fields that may differ hold tensors [member].

    Raises ConfigError where it cannot be made.
    """
    with errors_of(group, configs[0]):
        return _instance(group, [config[group] for config in configs], device, configs[0]["working_directory"])


def _instance(path: str, nodes: Sequence[Config], device: torch.device, directory: str) -> Any:
    """The part that is at ``path`` of the config; ``nodes`` are those of the members. Its paths start at ``directory``."""
    cls = hydra.utils.get_class(nodes[0]["_target_"])
    names = _per_member(cls)
    values: dict[str, Any] = {name: torch.tensor([_number(node[name]) for node in nodes], device=device) for name in names}
    values |= {
        field.name: _located(nodes[0][field.name], field.metadata["located"], directory)
        for field in dataclasses.fields(cls)
        if "located" in field.metadata
    }
    for key, parts in parts_in(nodes[0]):
        values[key] = {}
        for name in parts:
            with errors_within(path, f"{path}.{key}.{name}"):
                values[key][name] = _instance(f"{path}.{key}.{name}", [node[key][name] for node in nodes], device, directory)
    return _made(nodes[0] | values)


def _made(node: Any) -> Any:
    """What a node of the config describes, an object where it has a ``_target_``.

    ``hydra.utils.instantiate`` gives the same, and copies each node several times: that takes 19 ms for the parts of a job, of
    which a sweep has hundreds.
    """
    if isinstance(node, list):
        return [_made(item) for item in node]
    if not isinstance(node, dict):
        return node
    values = {key: _made(value) for key, value in node.items() if key != "_target_"}
    return hydra.utils.get_object(node["_target_"])(**values) if "_target_" in node else values


def _located(path: str | None, variable: str | None, directory: str) -> str | None:
    """The absolute path that a key of the config names, or where that is null an environment variable."""
    if path is None and variable is not None:
        path, directory = os.environ.get(variable) or None, hydra.utils.to_absolute_path("")
    return None if path is None else absolute(path, directory)


def absolute(path: str, directory: str) -> str:
    """A path of the user's: a relative one starts at ``directory``, and ``~`` is the home."""
    return str(Path(directory, Path(path).expanduser()))


@contextmanager
def errors_within(path: str, inner: str) -> Iterator[None]:
    """A part names its keys as if it were at ``path``; in what it raises, they are named as they are at ``inner``."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(f"{path}.", f"{inner}.")) from error


def _number(value: float | int | None) -> float:
    """A tensor has no null: nan stands for it."""
    return math.nan if value is None else float(value)


@contextmanager
def errors_of(group: str, config: Config) -> Iterator[None]:
    """Turn whatever the code of a part raises, SystemExit too, into a PartError that names the part.

    ValueError and ModuleNotFoundError are what parts raise to tell the user something; of others the type is named as well.
    """
    part = f"{group}={config['names'][group]}" if group in config["names"] else group
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        told = _one_line(str(error)) if isinstance(error, ValueError | ModuleNotFoundError) else describe(error)
        raise PartError(told if told.startswith(f"{group}.") else f"{part}: {told}") from error


def _one_line(text: str) -> str:
    return " ".join(text.split())


def build_start(config: Config) -> Weights | None:
    """The weights that a run begins with: those that ``init_from`` names, or None for fresh ones.

    Raises ConfigError where there is not one policy, of this network and environment.
    """
    pattern = config["init_from"]
    if pattern is None:
        return None
    given = Path(absolute(pattern, config["working_directory"])) / POLICY
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
    return components(tensors)


def bound_algorithm(config: Config) -> Algorithm:
    """The algorithm of a run, bound to its environment. Raises ConfigError where the two do not fit."""
    with errors_of("environment", config):
        spec = build_part("environment", [config]).spec()
    with errors_of("algorithm", config):
        bound: Algorithm = build_part("algorithm", [config]).bind(spec)
    return bound
