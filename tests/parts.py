"""Parts of a run as their YAML files describe them, for tests of whatever parts there are."""

from __future__ import annotations

import dataclasses
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

import sparserl
from sparserl.algorithms.base import Algorithm
from sparserl.config.build import build
from sparserl.config.schema import CONF, Config, ConfigError
from sparserl.config.validation import compose
from sparserl.regularizers.base import Regularizer
from sparserl.training.learner import Learner
from sparserl.training.trainer import LoopParts
from sparserl.types import Batch

A = TypeVar("A", bound=Algorithm)


def modules(package: str) -> list[str]:
    """The options of a group, one a file: ``modules("regularizers")`` finds new ones without being told.

    What several options share, such as ``base``, has no YAML file.
    """
    path = Path(sparserl.__file__).parent / package
    options = CONF / package.removesuffix("s")
    return sorted(its.name for its in pkgutil.iter_modules([str(path)]) if (options / f"{its.name}.yaml").exists())


def pairs() -> list[Any]:
    """Every algorithm with every regulariser. All but a choice of them are slow tests: what they have in common is much."""
    common = {"none", "l0", "l1"}, {"dqn", "ppo"}
    return [
        pytest.param(algorithm, name, marks=() if name in common[0] or algorithm in common[1] else pytest.mark.slow)
        for algorithm in modules("algorithms")
        for name in modules("regularizers")
    ]


def parts(*overrides: str, members: int = 1) -> LoopParts:
    """What a population with seeds 0, 1, 2 ... is trained with under these overrides."""
    return build([_compose(overrides) | {"seed": seed} for seed in range(members)])[1]


def make_regularizer(*overrides: str, members: int = 1) -> Regularizer:
    """The one of ``parts``, which is of all its members."""
    (population,) = parts(*overrides, members=members).populations
    return population.regularizer


def immediately(regularizer: str, **changes: int) -> list[str]:
    """Overrides with which a regulariser acts from the first steps on, also on critics, in whatever way it does."""
    keys = _compose((f"regularizer={regularizer}",))["regularizer"]
    begins = {"delay_steps": 0, "ramp_steps": 0, "start_step": 0, "end_step": 20, "update_interval": 1}
    wanted = begins | {"scope": "all", "target_sparsity": 0.5} | changes
    return [f"regularizer.{key}={value}" for key, value in wanted.items() if keys.get(key) is not None]


def make_learner(*overrides: str, members: int = 1) -> Learner:
    """The one of ``parts``, for its environment."""
    given = parts(*overrides, members=members)
    (population,) = given.populations
    return Learner(population.algorithm.bind(given.environment.spec()), population.regularizer, population.members)


def as_kind(kind: type[A], algorithm: Algorithm) -> A:
    """The same settings for a class that a test derived."""
    return kind(**{field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm) if field.init})


def environment_for(algorithm: str) -> str:
    """The first environment that has actions for it."""
    for environment in ("cartpole", "pendulum"):
        try:
            _compose((f"algorithm={algorithm}", f"environment={environment}"))
        except ConfigError:  # its actions are of the other kind
            continue
        return environment
    raise AssertionError(f"no environment here has actions for {algorithm}")


def random_batches(count: int, members: int, size: int, algorithm: str = "dqn") -> list[Batch]:
    """Minibatches for an algorithm, the same in every call, with what every algorithm here asks for."""
    draw = torch.Generator().manual_seed(0)
    spec = parts(f"algorithm={algorithm}", f"environment={environment_for(algorithm)}").environment.spec()

    def uniform(*shape: int) -> Tensor:
        return torch.rand(members, size, *shape, generator=draw)

    return [
        {
            "observation": 2 * uniform(*spec.observation_shape) - 1,
            "next_observation": 2 * uniform(*spec.observation_shape) - 1,
            "action": spec.random_action(uniform(spec.action_draws)),
            "reward": uniform(),
            "terminated": (uniform() < 0.1).float(),
            "value": 2 * uniform(),
            "log_prob": torch.log(0.1 + 0.8 * uniform()),
            "advantage": 2 * uniform() - 1,
            "return": 2 * uniform(),
        }
        for _ in range(count)
    ]


@cache
def _compose(overrides: tuple[str, ...]) -> Config:
    return compose(*overrides)
