"""From a config to the parts of a run: the one place that validates, and the one user of Hydra's ``instantiate``.

A config is first resolved (a plain dictionary, every interpolation done, every value of its declared type and range) and
then built. Everything that can be known before training is said here, in one sentence that names the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from glob import glob
from itertools import groupby
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import hydra
import torch
from annotated_types import Ge
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from sparserl.algorithms.base import Algorithm
from sparserl.environments.base import Environment
from sparserl.experience.base import Experience
from sparserl.lowrank.sweep import Sweep
from sparserl.networks.base import Network
from sparserl.population import Population
from sparserl.records.disk import component, read_json, read_policy
from sparserl.records.logger import Logger
from sparserl.records.schema import Result
from sparserl.regularizers.base import Regularizer
from sparserl.schedules import Constant, Schedule
from sparserl.trainer import Cohort, Parts, Trainer
from sparserl.trust import check
from sparserl.types import Layers

T = TypeVar("T")

Config: TypeAlias = dict[str, Any]
"""A resolved config: plain containers and numbers only."""

_PACKAGE = Path(__file__).parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Inside the package in a wheel, beside it in a checkout."""


class ConfigError(ValueError):
    """What is wrong with a config, in one sentence for its author."""


@dataclasses.dataclass(frozen=True)
class Names:
    """The options chosen from the groups, as columns of a result."""

    algorithm: str
    environment: str
    regularizer: str
    network: str


@dataclasses.dataclass(frozen=True)
class Schema:
    """The top level of a config; described in ``conf/train.yaml``."""

    trainer: Trainer
    network: Network
    environment: Environment
    algorithm: Algorithm
    experience: Experience
    regularizer: Regularizer
    lowrank: Sweep
    logger: Logger
    names: Names
    seed: Annotated[int, Ge(0)]
    device: Literal["auto", "cpu", "cuda"]
    sweep: str
    objective: str
    init_from: str | None
    resume: str | None
    retry_failed: bool
    trust: bool


# ---------------------------------------------------------------- resolve: a checked, plain config


def _of_total(fraction: float, *, _root_: DictConfig) -> int:
    """``${of_total:0.1}``: a tenth of trainer.total_steps."""
    total = _root_.trainer.total_steps
    if not isinstance(total, int | float):
        raise ValueError(f"trainer.total_steps is {total!r}; it must be a number")
    return round(fraction * total)


def _sweep_group(*, _root_: DictConfig) -> str | None:
    """``${sweep_group:}``: the sweep in a multirun, null in a single run."""
    return str(_root_.sweep) if HydraConfig.get().mode is RunMode.MULTIRUN else None


OmegaConf.register_new_resolver("of_total", _of_total, replace=True)
OmegaConf.register_new_resolver("sweep_group", _sweep_group, replace=True)


def compose(*overrides: str) -> Config:
    """The resolved config that ``python -m sparserl.train`` would use with these overrides."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # `names` asks it for the options chosen
    return resolve(without_hydra(config))


def without_hydra(config: DictConfig) -> DictConfig:
    """The job's own part of a config that still has Hydra's node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def resolve(config: DictConfig) -> Config:
    """Do all interpolations and check every key, type and range. Raises ConfigError."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        first_line = str(error).split("\n")[0]
        raise ConfigError(re.sub(r"^\w+ raised while resolving interpolation: ", "", first_line)) from error
    assert isinstance(plain, dict)
    resolved = _check_fields("", Schema, {str(key): value for key, value in plain.items()})
    _check_together(resolved)
    build_start(resolved)
    return resolved


def read_back(path: Path, trust: bool) -> Config:
    """The config that a run was started with, out of its folder; edited or a stranger's, it is checked again.

    Whether it may name what is not sparserl's is for ``trust`` to say: the file's own ``trust`` counts for nothing. Raises
    OSError where it cannot be read, and ConfigError where it is damaged or wrong.
    """
    try:
        config = read_json(path)
        if not isinstance(config, dict):
            raise ConfigError("a config is needed")
        if not trust:
            check("", config)
        config = _check_fields("", Schema, {"trust": False} | config)
        _check_together(config)
    except ValueError as error:
        raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return config


def _check_fields(path: str, cls: type, values: dict[str, Any]) -> Config:
    """The values of one dataclass, checked and in its fields' order."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    prefix = f"{path}." if path else ""
    for key in values:
        if key not in fields and key != "_target_":
            raise ConfigError(f"{prefix}{key} is not a key of {_title(cls)}{_nearest(key, fields)}")
    for name in fields:
        if name not in values:
            raise ConfigError(f"{prefix}{name} is missing; {_title(cls)} needs it")
    hints = get_type_hints(cls, include_extras=True)
    checked = {"_target_": values["_target_"]} if "_target_" in values else {}
    for name, field in fields.items():
        hint = field.metadata.get("per_member", hints[name])
        meaningless = field.metadata.get("meaningless", False)
        checked[name] = None if meaningless else _check_value(f"{prefix}{name}", hint, values[name])
    return checked


def _check_value(path: str, hint: Any, value: Any) -> Any:
    contract = _contract(hint)
    if contract is None:
        return _check_plain(path, hint, value)
    if contract is Schedule and isinstance(value, int | float) and not isinstance(value, bool):
        value = {"_target_": f"{Constant.__module__}.{Constant.__name__}", "value": value}
    if not isinstance(value, dict):
        given = "null" if value is None else repr(value)
        raise ConfigError(f"{path} is {given}; it must be a part of a run, chosen as {path.split('.')[-1]}=OPTION")
    is_section = dataclasses.is_dataclass(contract) and "_target_" not in value
    cls = contract if is_section else _find(path, value, contract)
    checked = _check_fields(path, cls, value)
    if get_origin(hint) is Annotated:  # the range of a schedule is the range of each number it goes through
        for field in dataclasses.fields(cls):
            if field.type in ("float", float):
                _check_plain(f"{path}.{field.name}", Annotated[float, *get_args(hint)[1:]], checked[field.name])
    return checked


def _check_plain(path: str, hint: Any, value: Any) -> Any:
    whole = isinstance(value, float) and value.is_integer() and _is_integer(hint)  # 1e6 is written for a million
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
        return adapter.validate_json(json.dumps(int(value) if whole else value), strict=True)
    except ValidationError as error:
        # one for each kind of value that is allowed, each item of a list
        reasons = dict.fromkeys(found["msg"].replace("Input should", "it must") for found in error.errors())
        raise ConfigError(f"{path} is {value!r}; {', or '.join(r[0].lower() + r[1:] for r in reasons)}") from error


def _contract(hint: Any) -> Any:
    """The class that a node with a ``_target_`` must be of, or None where the hint is of plain values."""
    return next((o for o in _options(hint) if isinstance(o, type) and o.__module__.startswith("sparserl.")), None)


def _is_integer(hint: Any) -> bool:
    return int in _options(hint)


def _options(hint: Any) -> list[Any]:
    """The types that a hint allows, without unions and annotations."""
    if get_origin(hint) is Annotated:
        return _options(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [option for part in get_args(hint) for option in _options(part)]
    return [hint]


def _find(path: str, node: dict[str, Any], contract: Any) -> type:
    target = node.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"{path}._target_ is missing; it names the class to build")
    try:
        cls = hydra.utils.get_class(target)
    except (ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}._target_ is {target!r}, which cannot be imported: {error.__cause__ or error}") from error
    if not (dataclasses.is_dataclass(cls) and issubclass(cls, contract)):
        raise ConfigError(f"{path}._target_ is {target!r}, which is not a dataclass that is {_article(contract.__name__)}")
    return cls


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"


def _title(cls: type) -> str:
    return "the config" if cls is Schema else cls.__name__


def _nearest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; python -m sparserl.train --cfg job shows all keys"


def nearest_key(path: str) -> str:
    """What a mistyped key may have been meant to be: the end of a sentence."""
    return _nearest(path, list(_paths("", compose())))


def _paths(prefix: str, config: Config) -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(f"{prefix}{key}.", value)


def _check_together(config: Config) -> None:
    """What no single key shows: combinations that cannot work, and what this machine lacks."""
    if config["device"] == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch sees no CUDA device here; use device=auto or device=cpu")
    numeric = [f.name for f in dataclasses.fields(Result) if f.type in ("float", "int", "float | None", "int | None")]
    if config["objective"] not in numeric:
        raise ConfigError(f"objective is {config['objective']!r}; it must be one of {', '.join(numeric)}")
    algorithm, _ = (_instantiate([config[group]], torch.device("cpu")) for group in ("algorithm", "regularizer"))
    try:
        spec = _instantiate([config["environment"]], torch.device("cpu")).spec()
    except (ValueError, ModuleNotFoundError) as error:
        raise ConfigError(f"environment={config['names']['environment']}: {error}") from error
    kind = "continuous" if spec.discrete_actions is None else "discrete"
    if algorithm.actions != kind:
        raise ConfigError(
            f"algorithm={config['names']['algorithm']} is for {algorithm.actions} actions, "
            f"but those of environment={config['names']['environment']} are {kind}"
        )
    if config["trainer"]["compile"] and not _has_compiler():
        raise ConfigError("trainer.compile is true, but no C++ compiler (g++ or clang++, or $CXX) is found; set it to false")


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


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


def _per_member(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if "per_member" in field.metadata]


def build_start(config: Config) -> Layers | None:
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
        path, description, tensors = read_policy(found[0])
    except ValueError as error:
        raise ConfigError(f"init_from is {pattern!r}: {error}") from error
    try:
        trained_with = description["network"], description["config"]["environment"]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"init_from is {pattern!r}: {path} does not say what it was trained with") from error
    if trained_with != (config["network"], config["environment"]):
        raise ConfigError(
            f"init_from is {pattern!r}, a policy of another network or environment; choose those it was trained with"
        )
    return component(tensors, "policy")


def structure(config: Config) -> Config:
    """A config without what may differ between the members of one population."""
    common = {key: value for key, value in identity(config).items() if key not in ("seed", "init_from")}
    common["logger"] = config["logger"]
    for group in ("algorithm", "regularizer"):
        varying = _per_member(hydra.utils.get_class(config[group]["_target_"]))
        common[group] = {key: value for key, value in config[group].items() if key not in varying}
    return common


def shared(config: Config) -> Config:
    """A config without what may differ between the members of one loop, which need not be one population."""
    common = structure(config)
    names = {group: name for group, name in common["names"].items() if group != "regularizer"}
    return {key: value for key, value in common.items() if key != "regularizer"} | {"names": names}


def populations(items: Sequence[T], config_of: Callable[[T], Config]) -> list[list[T]]:
    """What has configs, cut wherever the structures of two neighbours differ."""
    return [list(alike) for _, alike in groupby(items, key=lambda item: canonical(structure(config_of(item))))]


def canonical(config: Config) -> str:
    """A text that is the same for equal configs only."""
    return json.dumps(config, sort_keys=True)


def identity(config: Config) -> Config:
    """What makes two runs the same run: everything but where it is kept and what is reported of it."""
    elsewhere = "sweep", "objective", "resume", "retry_failed", "trust", "logger"
    return {key: value for key, value in config.items() if key not in elsewhere}
