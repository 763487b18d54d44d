"""Trained policies as ordinary torch modules. Needs neither Hydra nor whatever trained them."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

from torch import nn

from sparserl.algorithms.base import Algorithm
from sparserl.lowrank import shrinking
from sparserl.lowrank.truncation import Ranks, factored, is_positive, text_of
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.runs.files import components, joined, misfit, read_policy
from sparserl.training.interrupts import own_defaults
from sparserl.types import Spec, Weights


@own_defaults()
def load_policy(
    folder: str | Path, rank: Ranks | None = None, shrink: bool = False, trust: bool = False, stochastic: bool = False
) -> nn.Module:
    """The policy of a finished run without noise: its zeros are zeros.

    Called with observations ``[batch, *obs]`` it returns what the algorithm acts by: a value or logit for each discrete action,
    or the action itself. Weights live in ``nn.Linear`` and ``nn.Conv2d`` only. With a ``rank`` the policy is cut at it, as in
    ``lowrank.csv``: there are two layers, without an activation between them, in the place of each one that becomes smaller so.
    ``rank=(4, 16, None)`` gives each layer its own, as in ``layer_ranks.csv``; one that is None stays whole. With ``shrink``
    hidden units that nothing enters or leaves are removed first, so that layers are smaller. With ``stochastic`` it gives
    sampled actions, and is called with random numbers too (``policies.sampling.Sampling``).

    Raises FileNotFoundError where the run left no policy and ValueError where a rank is below 1, or not each layer has one, or
    the file is damaged or names a class that is not sparserl's: a file from a stranger runs no code. With ``trust`` such a
    class is built too, which runs the code of whoever wrote it.
    """
    if rank is not None and not is_positive(rank):
        raise ValueError(f"rank is {text_of(rank)}; it must be 1 or more, or None for the whole policy")
    path, description, tensors = read_policy(folder)
    module = policy_module(path, description, components(tensors), trust, shrink, stochastic)
    return (module if rank is None else factored(module, rank)).eval()


def policy_module(
    path: Path, description: Any, weights: Weights, trust: bool, shrink: bool = False, stochastic: bool = False
) -> nn.Module:
    """The module that a policy's file describes, with weights of one member; ``shrink`` removes units that do nothing.

    Raises ValueError where the two do not fit, or ``stochastic`` is given of a policy that does not sample.
    """
    algorithm = bound_algorithm(path, description, weights, trust)
    try:
        if shrink:
            shrunken = shrinking.shrink(joined(weights, algorithm.policy), algorithm.policy_structure())
            weights = components(shrunken.layers)
        module = algorithm.sampling_module(weights) if stochastic else algorithm.policy_module(weights)
        if module is not None:
            return shrinking.sliced(module, shrunken) if shrink else module
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a whole policy: {error}") from error
    raise ValueError(
        f"{path} is of {type(algorithm).__name__}, which explores by noise that is not part of its policy; "
        "only its deterministic policy can be deployed"
    )


def bound_algorithm(path: Path, description: Any, weights: Weights, trust: bool) -> Algorithm:
    """The algorithm that a policy's file describes, bound to the environment's spec.

    Raises ValueError where ``weights`` of one member are not those of its deployed components.
    """
    try:
        algorithm: Algorithm = described(description["config"], "algorithm", Algorithm, path, trust)
        algorithm = algorithm.bind(Spec.from_json(description["spec"]))
        fresh = split(algorithm.init(Population((0,))), 0)
        if fault := misfit(weights, {component: fresh[component] for component in algorithm.policy}):
            raise ValueError(f"its {fault}")
        return algorithm
    except UntrustedError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a whole policy: {error}") from error


def described(description: Any, part: str, contract: type, path: Path, trust: bool) -> Any:
    """The ``part`` (``algorithm``, say) that the file at ``path`` describes, of a class that keeps ``contract``.

    Unless the file is trusted, of one of sparserl's: nothing else is imported or called. Raises ValueError where what is
    described is not such a class, or not its fields.
    """
    try:
        node = description[part]
        if not trust:
            check(part, node)
        built = _build(node)
        if not isinstance(built, contract):
            raise ValueError(f"{type(built).__name__} is no {part}")
        return built
    except UntrustedError as error:
        raise UntrustedError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole policy: its {part} cannot be built: {error}") from error


def _build(node: Any) -> Any:
    """Dictionaries with a ``_target_`` become objects of that dataclass, at any depth."""
    if isinstance(node, list):
        return [_build(item) for item in node]
    if not isinstance(node, dict):
        return node
    fields = {key: _build(value) for key, value in node.items() if key != "_target_"}
    return find_class(node["_target_"])(**fields) if "_target_" in node else fields


# ---------------------------------------------------------------- what a file may make this process do

_OURS = f"{__name__.partition('.')[0]}."

_OF_ROBOTICS = re.compile(r"gymnasium_robotics:[\w-]+")
"""Environments of the package that the extra ``robotics`` installs, which has to be imported by its name."""


class UntrustedError(ValueError):
    """What in a file would run code that is not sparserl's, in one sentence with the remedy."""


def check(path: str, node: Any) -> None:
    """Look through a part of a config out of a file, however deep; ``path`` is its key.

    Raises UntrustedError where building it might run code that is not sparserl's, and ValueError where it names something of
    sparserl's that is no part. Only modules of sparserl's are imported.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            below = f"{path}.{key}" if path else str(key)
            if key == "_target_" and not _is_ours(value):
                raise _untrusted(below, value)
            check(below, value)
    elif isinstance(node, list):
        for index, item in enumerate(node):
            check(f"{path}.{index}", item)
    # A resolved config has no interpolation; OmegaConf would make parts of one that are nowhere in the file. Of what an
    # environment is given, Gymnasium imports what stands before a colon. And SurRoL's runs the code in its path.
    elif isinstance(node, str) and ("${" in node or (path.startswith("environment.") and _runs(path, node))):
        raise _untrusted(path, node)


def _runs(path: str, value: str) -> bool:
    """Whether an environment that is given ``value`` would run code that is not of sparserl's dependencies."""
    if path.rpartition(".")[2] == "path":
        return True
    return ":" in value and not (path == "environment.id" and _OF_ROBOTICS.fullmatch(value))


def find_class(target: Any) -> type:
    """The dataclass that a ``_target_`` names, which is imported. Raises ValueError where there is none."""
    module, _, name = str(target).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{target!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{target!r} is not a dataclass")
    return found


def _is_ours(target: Any) -> bool:
    """Also by where the class comes from: a module of sparserl's holds whatever it imports."""
    return str(target).startswith(_OURS) and find_class(target).__module__.startswith(_OURS)


def _untrusted(path: str, value: Any) -> UntrustedError:
    return UntrustedError(
        f"{path} is {value!r}, which may run code that is not sparserl's; "
        "where you trust whoever wrote it, trust=true (to play: --trust) lets it"
    )
