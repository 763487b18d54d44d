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
from collections.abc import Collection, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from sparserl.config.build import _instantiate, build_start
from sparserl.config.schema import CONF, Config, ConfigError, Schema
from sparserl.loading import check
from sparserl.runs.files import read_json
from sparserl.runs.schema import Result
from sparserl.schedules import Constant, Schedule

# ---------------------------------------------------------------- resolve: a checked, plain config


def _of_total(fraction: float, *, _root_: DictConfig) -> int:
    """``${of_total:0.1}``: a tenth of trainer.total_steps."""
    total = _root_.trainer.total_steps
    if not isinstance(total, int | float):
        raise ValueError(f"trainer.total_steps is {total!r}; it must be a number")
    return round(fraction * total)


def _sweep_group(*, _root_: DictConfig) -> str | None:
    """``${sweep_group:}``: the sweep in a multirun, null in a single run."""
    return str(_root_.sweep_name) if HydraConfig.get().mode is RunMode.MULTIRUN else None


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
