"""From what a user chose to a checked, plain config.

Everything that can be known before training is checked here, and said in one sentence that names the key.

pydantic checks single values, and the functions below walk the dataclasses. Its own walk over nested dataclasses was tried.
It cannot take them as they are: ``_target_`` chooses the class, a per-member field is declared as a tensor and given as a
number, and the result is a config, not objects. With a TypedDict made of each class it gives all sentences but two, in 112
lines for 93: a number of a schedule that is out of range lost its key, and a part that is missing the option to choose. Each
part still needs a validator that finds its class. And a sentence needs another walk by the error's ``loc``, which also holds
names of types, to find the class whose keys are meant.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import RLock
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sparserl.algorithms.base import Algorithm
from sparserl.config.build import CPU, bound_algorithm, build_part, build_start, device_of, errors_of, errors_within
from sparserl.config.schema import CONF, Config, ConfigError, PartError, Schema
from sparserl.environments.base import Environment
from sparserl.experience.base import Experience
from sparserl.loading import check as check_untrusted
from sparserl.loading import find_class
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.regularizers.base import Regularizer
from sparserl.runs.files import misfit, read_json
from sparserl.runs.schema import MEASURES, Result
from sparserl.schedules import Constant, Schedule
from sparserl.terminal import describe
from sparserl.types import Spec, Weights

# ---------------------------------------------------------------- resolve: a checked, plain config


def _of_total(fraction: float, *, _root_: DictConfig) -> int:
    """``${of_total:0.1}``: a tenth of trainer.total_steps, and 1 or more."""
    return _share(fraction, _total(_root_))


def _share_of_learning(fraction: int | float, *, _root_: DictConfig) -> int:
    """``${share_of_learning:0.1}``: a tenth of the environment steps in which is learned, and 1 or more.

    These are trainer.total_steps, without those before experience.learning_starts where they are more than a tenth of all.
    """
    return _share(fraction, _total(_root_) - _begin(_root_))


def _step_of_learning(fraction: int | float, *, _root_: DictConfig) -> int:
    """``${step_of_learning:0.4}``: the step after which four tenths of those in which is learned are over."""
    return _begin(_root_) + (_share_of_learning(fraction, _root_=_root_) if fraction else 0)


def _share(fraction: int | float, steps: int | float) -> int:
    return max(1, round(fraction * steps))


def _total(root: DictConfig) -> int | float:
    total = root.trainer.total_steps
    if not isinstance(total, int | float):
        raise ValueError(f"trainer.total_steps is {total!r}; it must be a number")
    return total


def _begin(root: DictConfig) -> int:
    """Where learning begins, as far as schedules mind: a tenth of all steps, or fewer, is as none."""
    begin = root.experience.get("learning_starts", 0)
    return begin if isinstance(begin, int) and _total(root) / 10 < begin < _total(root) else 0


def _sweep_group(*, _root_: DictConfig) -> str | None:
    """``${sweep_group:}``: the sweep in a multirun, null in a single run."""
    return str(_root_.sweep_name) if HydraConfig.get().mode is RunMode.MULTIRUN else None


def _smoke_steps(fewest: int, of_each: int, *, _root_: DictConfig) -> int:
    """``${smoke_steps:400,40}``: as few steps as give 400 or more in all and 40 or more in each sub-environment."""
    envs = _root_.trainer.num_envs
    if not isinstance(envs, int) or envs < 1:
        raise ValueError(f"trainer.num_envs is {envs!r}; it must be an integer, 1 or more")
    return envs * max(of_each, -(-fewest // envs))


OmegaConf.register_new_resolver("of_total", _of_total, replace=True)
OmegaConf.register_new_resolver("share_of_learning", _share_of_learning, replace=True)
OmegaConf.register_new_resolver("step_of_learning", _step_of_learning, replace=True)
OmegaConf.register_new_resolver("smoke_steps", _smoke_steps, replace=True)
OmegaConf.register_new_resolver("sweep_group", _sweep_group, replace=True)


def compose(*overrides: str) -> Config:
    """The resolved config that ``python -m sparserl.train`` would use with these overrides.

    May be called inside another Hydra application, whose state stays as it is, and in threads.
    """
    resolved = resolve(*overrides)
    check(resolved)
    check_start(resolved)
    return resolved


def resolve(*overrides: str) -> Config:
    """The same without asking whether it can be trained on this machine: what a run is called does not depend on that."""
    with _composed(overrides) as config:
        return to_plain(without_hydra(config))


_SINGLETONS = GlobalHydra, HydraConfig, JobRuntime, VersionBase
"""Where Hydra keeps the state of the application that runs."""

_composing = RLock()


@contextmanager
def _composed(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """The config before anything is resolved, with Hydra's node.

    Within the context Hydra's state is this config's: ``names`` asks HydraConfig for the options chosen. Afterwards it is again
    what it was before.
    """
    state = Singleton._instances  # noqa: SLF001 (Hydra has no public way to put it aside)
    with _composing:
        outer: dict[type, Singleton] = {cls: state.pop(cls) for cls in _SINGLETONS if cls in state}
        try:
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                config = hydra.compose("train", list(overrides), return_hydra_config=True)
                HydraConfig.instance().set_config(config)
                yield config
        finally:
            for cls in _SINGLETONS:
                state.pop(cls, None)
            state |= outer


def without_hydra(config: DictConfig) -> DictConfig:
    """The job's own part of a config that still has Hydra's node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def to_plain(config: DictConfig) -> Config:
    """Do all interpolations and check every key, type and range. Raises ConfigError."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(interpolation_error(error)) from error
    assert isinstance(plain, dict)
    return _check_fields("", Schema, {str(key): value for key, value in plain.items()})


def interpolation_error(error: OmegaConfBaseException) -> str:
    """The line of OmegaConf's message that says what went wrong."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing and has no default; set it with {error.full_key}=VALUE"
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).split("\n")[0])


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
            check_untrusted("", config)
        config = _check_fields("", Schema, {"trust": False} | config)
        check(config)
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
    hints = _hints(cls)
    checked = {"_target_": values["_target_"]} if "_target_" in values else {}
    for name, field in fields.items():
        hint = field.metadata.get("per_member", hints[name])
        if "unused" in field.metadata:
            checked[name] = None
        elif "parts" in field.metadata:
            checked[name] = _check_parts(f"{prefix}{name}", get_args(hint)[1], values[name])
        else:
            checked[name] = _check_value(f"{prefix}{name}", hint, values[name])
    return checked


def _check_parts(path: str, contract: Any, values: Any) -> Any:
    """Parts by name; a key that is null is none, so that an option can leave out one that it inherits."""
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is {values!r}; it must be parts by name, each with a _target_")
    return {name: _check_value(f"{path}.{name}", contract, node) for name, node in values.items() if node is not None}


def _check_value(path: str, hint: Any, value: Any) -> Any:
    contract = _contract(hint)
    if contract is None:
        return _check_plain(path, hint, value)
    if value is None and type(None) in _options(hint):
        return None
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
    allowed = _options(hint)
    given = value
    if isinstance(value, float) and value.is_integer() and int in allowed:  # 1e6 is written for a million
        given = int(value)
    elif type(value) in (int, float) and str in allowed and type(value) not in allowed:  # sweep_name=2026
        given = str(value)
    try:
        return _adapter(hint).validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        reasons = dict.fromkeys(map(_reason, error.errors()))  # one for each type of value that is allowed, each item of a list
        raise ConfigError(f"{path} is {value!r}; {', or '.join(reasons)}") from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@cache
def _adapter(hint: Any) -> Any:
    """The TypeAdapter of a hint."""
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _reason(found: ErrorDetails) -> str:
    """What pydantic says is wrong with a value, or with an item of a list, in the words of who writes a config."""
    subject = "each item must" if any(isinstance(place, int) for place in found["loc"]) else "it must"
    text = found["msg"].replace("Input should", subject).replace("a valid array", "a list in brackets")
    return text[0].lower() + text[1:]


def _contract(hint: Any) -> Any:
    """The class that a node with a ``_target_`` must be of, or None where the hint is of plain values."""
    return next((o for o in _options(hint) if isinstance(o, type) and o.__module__.startswith("sparserl.")), None)


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
        cls = find_class(target)
    except ValueError as error:
        raise PartError(f"{path}._target_: {error}") from error
    except (Exception, SystemExit) as error:
        raise PartError(f"{path}._target_: {target!r} cannot be imported: {describe(error)}") from error
    if not issubclass(cls, contract):
        raise ConfigError(f"{path}._target_ is {target!r}, which is not {_article(contract.__name__)}")
    return cls


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"


def _title(cls: type) -> str:
    return "the config" if cls is Schema else cls.__name__


def _nearest(key: str, known: Collection[str], inside: str = "") -> str:
    """What may have been meant. What is right is ``inside``: were it compared too, any key beside would seem to be near."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {inside}{close[0]}?" if close else "; python -m sparserl.train --cfg job shows all keys"


def unknown_key(path: str, overrides: Sequence[str] = ()) -> str:
    """Why a key cannot be overridden, and what may have been meant: a sentence.

    ``overrides`` are all that were given; those that choose an option of a group decide which keys there are.
    """
    try:
        if lacking := options_without(path, overrides):
            group, options = lacking
            return f"{path} is not a key where {group} is {' or '.join(options)}; sweep over the others by themselves"
        with _composed(_choices(overrides)[0]) as config:
            return _why_not(path, without_hydra(config))
    except HydraException:  # an option that is not there, either
        return f"{path} is not a key of the config{_nearest(path, ())}"


def options_without(path: str, overrides: Sequence[str]) -> tuple[str, list[str]] | None:
    """The group of a sweep of which some options have a key, and the options that lack it; None where there is no such group.

    Raises HydraException where an option is not there.
    """
    chosen, swept = _choices(overrides)
    for group, _, options in (each.partition("=") for each in swept):
        lacking = [option for option in options.split(",") if not _is_key(path, [*chosen, f"{group}={option}"])]
        if 0 < len(lacking) < len(options.split(",")):
            return group, lacking
    return None


def _choices(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides that choose one option of a group, and those that choose several."""
    choices = [each for each in overrides if (CONF / each.partition("=")[0]).is_dir()]
    return [each for each in choices if "," not in each], [each for each in choices if "," in each]


def _is_key(path: str, chosen: Sequence[str]) -> bool:
    """Whether a config with these options has a key."""
    with _composed(chosen) as config:
        return path in _paths("", without_hydra(config))


def _why_not(path: str, config: DictConfig) -> str:
    node, above = config, ""
    for part in path.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            break
        above = f"{above}.{part}".lstrip(".")
        if OmegaConf.is_interpolation(node, part):
            given = OmegaConf.to_container(node, resolve=False)[part]  # type: ignore[call-overload, index]
            below = path.removeprefix(above)
            source = re.fullmatch(r"\$\{([\w.]+)\}", given)
            remedy = f"; set {source[1]}{below}" if source else ""
            return f"{path} cannot be set by itself, since {above} is {given}{remedy}"
        node = node[part]
    if isinstance(node, DictConfig) and not node and above:  # keyword arguments of somebody else's function
        return f"{path} is new: put a + before it to add it"
    inside = f"{above}." if above else ""
    known = [key.removeprefix(inside) for key in _paths("", config) if key.startswith(inside)]
    return f"{path} is not a key of the config{_nearest(path.removeprefix(inside), known, inside)}"


def _paths(prefix: str, config: DictConfig) -> Iterator[str]:
    """All keys that can be set."""
    for key in map(str, config):
        yield f"{prefix}{key}"
        if not OmegaConf.is_interpolation(config, key) and isinstance(config[key], DictConfig):
            yield from _paths(f"{prefix}{key}.", config[key])


def check(config: Config) -> None:
    """Check what no single key shows: combinations that cannot work, and what this machine lacks. Raises ConfigError."""
    if config["device"] == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch sees no CUDA device here; use device=auto or device=cpu")
    if config["trainer"]["compile"] is True and device_of(config) != CPU:
        where = "device is 'cuda'" if config["device"] == "cuda" else "device=auto takes the CUDA device here"
        remedy = "set trainer.compile=auto, or device=cpu"
        raise ConfigError(f"trainer.compile is true, which is for a CPU only, but {where}; {remedy}")
    if not Path(config["working_directory"]).is_absolute():
        raise ConfigError(f"working_directory is {config['working_directory']!r}; it must be an absolute path")
    numeric = [f.name for f in dataclasses.fields(Result) if f.type in ("float", "int", "float | None", "int | None")]
    if config["objective"] not in numeric:
        raise ConfigError(f"objective is {config['objective']!r}; it must be one of {', '.join(numeric)}")
    _check_steps(config)
    # a logger is checked where it is used: a cluster's nodes may have a key that this machine lacks
    groups = [key for key, node in config.items() if isinstance(node, dict) and "_target_" in node and key != "logger"]
    parts = {group: build_part(group, [config]) for group in groups}
    with errors_of("environment", config):
        spec: Spec = parts["environment"].spec()
    algorithm: Algorithm = parts["algorithm"]
    actions = "continuous" if spec.discrete_actions is None else "discrete"
    if actions not in algorithm.actions:
        raise ConfigError(
            f"algorithm={config['names']['algorithm']} is for {' or '.join(algorithm.actions)} actions, "
            f"but those of environment={config['names']['environment']} are {actions}"
        )
    with errors_of("algorithm", config):
        algorithm = algorithm.bind(spec)
    with errors_of("regularizer", config):
        _check_regularizer(parts["regularizer"], algorithm)
    objective, chosen = config["objective"], config["names"]["environment"]
    if objective in MEASURES and objective not in parts["environment"].measures:
        raise ConfigError(f"objective is {objective!r}, which environment={chosen} does not give; choose another objective")
    _check_goals(config, parts["environment"], spec, parts["experience"])
    with errors_of("experience", config):
        parts["experience"].check(spec)


def _check_regularizer(regularizer: Regularizer, algorithm: Algorithm) -> None:
    """That it can act on the components that it covers. Raises ValueError."""
    for name, term in regularizer.summands().items():
        covered = [c for c in algorithm.networks if term.covers(c, c in algorithm.policy)]
        fresh = algorithm.init(Population((0,), CPU)) if covered else {}
        with errors_within("regularizer", f"regularizer.terms.{name}" if name else "regularizer"):
            term.check({component: fresh[component] for component in covered})


def _check_goals(config: Config, environment: Environment, spec: Spec, experience: Experience) -> None:
    """That an experience which relabels goals has an environment that can."""
    if not experience.needs_goals:
        return
    if spec.goal_size is None:
        name, chosen = type(experience).__name__, config["names"]["environment"]
        raise ConfigError(
            f"experience is {name}, which is for goals, but environment={chosen} has none; choose experience=replay"
        )
    with errors_of("environment", config):
        goal = torch.zeros(1, spec.goal_size)
        environment.relabel(goal, goal)


def _check_steps(config: Config) -> None:
    """That sub-environments, which step together, can take just the steps there are, and that their experience has room."""
    total, envs = config["trainer"]["total_steps"], config["trainer"]["num_envs"]
    if total % envs:
        below = total // envs * envs
        nearest = " and ".join(str(steps) for steps in (below, below + envs) if steps)
        raise ConfigError(
            f"trainer.total_steps is {total}, which is not a multiple of trainer.num_envs, {envs}; the nearest: {nearest}"
        )
    size = config["experience"].get("buffer_size", envs)
    if size < envs:
        raise ConfigError(
            f"experience.buffer_size is {size}, fewer than trainer.num_envs, {envs}: it must hold one step of all"
        )


def check_start(config: Config) -> None:
    """Check that the policy to start from, if there is one, has the tensors of this one. Raises ConfigError."""
    start = build_start(config)
    if start is None:
        return
    algorithm = bound_algorithm(config)
    fresh: Weights = split(algorithm.init(Population((0,), CPU)), 0)
    if fault := misfit(start, {component: fresh[component] for component in algorithm.policy}):
        remedy = "choose the algorithm and the network that it was trained with"
        raise ConfigError(f"init_from is {config['init_from']!r}, whose {fault}; {remedy}")
