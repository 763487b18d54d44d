"""Parts of a run as their YAML files describe them, for tests of whatever parts there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import pytest
import torch
import yaml
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.config.build import build
from sparserl.config.schema import CONF, Config
from sparserl.config.validation import compose
from sparserl.loading import find_class
from sparserl.regularizers.base import Regularizer
from sparserl.training.learner import Learner
from sparserl.training.loop_parts import LoopParts
from sparserl.types import Batch

A = TypeVar("A", bound=Algorithm)


def modules(package: str) -> list[str]:
    """The options of a group, one a YAML file: ``modules("regularizers")`` finds new ones without being told."""
    return sorted(path.stem for path in (CONF / package.removesuffix("s")).glob("*.yaml"))


def pairs() -> list[Any]:
    """Every algorithm with every regulariser. All but a choice of them are slow tests: what they have in common is much."""
    common = {"none", "l0", "l1"}, {"dqn", "ppo"}, {"l0_l1", "l0_l2"}  # the last are like l0_group_lasso

    def is_quick(algorithm: str, name: str) -> bool:
        return name in common[0] or (algorithm in common[1] and name not in common[2])

    return [
        pytest.param(algorithm, name, marks=() if is_quick(algorithm, name) else pytest.mark.slow)
        for algorithm in modules("algorithms")
        for name in modules("regularizers")
    ]


def parts(*overrides: str, members: int = 1) -> LoopParts:
    """What a population with seeds 0, 1, 2 ... is trained with under these overrides."""
    return build(_seeded(overrides, members))[1]


def make_regularizer(*overrides: str, members: int = 1) -> Regularizer:
    """The one of ``parts``, which is of all its members."""
    (population,) = parts(*overrides, members=members).populations
    return population.regularizer


def immediately(regularizer: str, **changes: int) -> list[str]:
    """Overrides with which a regulariser acts from the first steps on, also on critics, in whatever way it does."""
    begins = {"delay_steps": 0, "ramp_steps": 0, "start_step": 0, "end_step": 20, "update_interval": 1}
    wanted = begins | {"scope": "all", "target_sparsity": 0.5} | changes
    return overrides_of(_compose((f"regularizer={regularizer}",))["regularizer"], wanted)


def overrides_of(node: Config, wanted: Mapping[str, object], path: str = "regularizer") -> list[str]:
    """Overrides that set keys of a regulariser, those of its terms too, wherever it has them and they are not null."""
    found = [f"{path}.{key}={value}" for key, value in wanted.items() if node.get(key) is not None]
    for name, term in node.get("terms", {}).items():
        found += overrides_of(term, wanted, f"{path}.terms.{name}")
    return found


def make_learner(*overrides: str, members: int = 1) -> Learner:
    """The one of ``parts``, for its environment."""
    return learner_of(_seeded(overrides, members))


def learner_of(configs: Sequence[Config]) -> Learner:
    """Of one population with a config for each member."""
    _, given = build(configs)
    (population,) = given.populations
    return Learner(population.algorithm.bind(given.environment.spec()), population.regularizer, population.members)


def _seeded(overrides: tuple[str, ...], members: int) -> list[Config]:
    return [_compose(overrides) | {"seed": seed} for seed in range(members)]


def as_kind(kind: type[A], algorithm: Algorithm) -> A:
    """The same settings for a class that a test derived."""
    return kind(**{field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm) if field.init})


@cache
def class_of(group: str, option: str) -> type:
    """The class of an option, out of its file or one that this begins with. To compose a config for it takes 0.2 s."""
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    target = content.get(group, content).get("_target_")
    if target is not None:
        return find_class(target)
    return class_of(group, content["defaults"][0].partition("@")[0])


def environment_for(algorithm: str) -> str:
    """The first environment that has actions for it."""
    kinds = {"cartpole": "discrete", "pendulum": "continuous"}
    return next(name for name, kind in kinds.items() if kind in class_of("algorithm", algorithm).actions)


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
