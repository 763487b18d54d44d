"""Any environment registered with Gymnasium whose observations can be one array and whose actions are discrete or a box."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import TimeLimit
from jaxtyping import Float
from torch import Tensor

from sparserl.environments.base import BrokenEnvironmentError, Environment, StepResult, VectorEnvironment
from sparserl.environments.containment import FAILURE, IDLE, LIMITED, Contained
from sparserl.environments.observations import ACHIEVED, DESIRED, as_array, goal_size
from sparserl.environments.vectors import Vectorization, vectorize
from sparserl.fields import Count
from sparserl.population.random import Generators
from sparserl.terminal import describe
from sparserl.types import Spec

STEP_LIMIT = 10_000
"""The step limit of an episode where neither the environment nor the user has one: a policy may idle for ever."""

GOAL_MEASURES = {"success_rate": ("is_success", "success")}
"""Of goal environments: whether the last step was a success, and the keys of ``info`` that may say so."""


@dataclass(frozen=True, kw_only=True)
class GymnasiumEnvironment(Environment):
    """What recipes for environments with Gymnasium's interface share: all but how one is made."""

    max_episode_steps: Count | None = None
    vectorization: Vectorization = "sync"
    at_once: Count | None = 256

    @property
    @abstractmethod
    def name(self) -> str:
        """What errors call it."""

    @abstractmethod
    def make(self, render_mode: str | None = None) -> tuple[gymnasium.Env[Any, Any], int | None]:
        """A new environment with its step limit, and what limit it has by itself.

        Raises ModuleNotFoundError or ValueError, in a sentence for the user, where it cannot be made.
        """

    @property
    def measures(self) -> tuple[str, ...]:
        return () if self.spec().goal_size is None else tuple(GOAL_MEASURES)

    def spec(self) -> Spec:
        return _spec(self)

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        vector = vectorize(self.contained, len(generators) * envs, self.vectorization, self.name)
        return VectorGymnasium(vector, generators, envs, self.spec(), self.measures)

    def relabel(
        self, achieved: Float[Tensor, "*batch goal"], desired: Float[Tensor, "*batch goal"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """By the environment's own ``compute_reward``, and its ``compute_terminated`` where it has one."""
        size = self.spec().goal_size
        if size is None:
            return super().relabel(achieved, desired)
        env, dtype = _goal_environment(self)
        rows = [goals.reshape(-1, size).cpu().numpy().astype(dtype) for goals in (achieved, desired)]
        reward = _of_each(env.compute_reward, *rows)
        terminated = _of_each(env.compute_terminated, *rows) if hasattr(env, "compute_terminated") else np.zeros_like(reward)
        shape = achieved.shape[:-1]
        as_tensor = partial(torch.as_tensor, dtype=torch.float32, device=achieved.device)
        return as_tensor(reward).view(shape), as_tensor(terminated).view(shape)

    def single(self, generators: Iterator[torch.Generator], render_mode: str) -> gymnasium.Env[Any, Any]:
        return Seeded(as_array(self.make(render_mode)[0]), generators)

    def contained(self) -> gymnasium.Env[Any, Any]:
        """A new environment whose faults stay its own. Raises like ``spec``."""
        env, own = self.make()
        env = as_array(env)
        limit = self.max_episode_steps or own or STEP_LIMIT
        return Contained(env, self.name, None if limit == own else limit, {} if goal_size(env) is None else GOAL_MEASURES)


@dataclass(frozen=True)
class Gymnasium(GymnasiumEnvironment):
    """``gymnasium.make(id, **arguments)``. ``extra`` is the extra of sparserl that installs what it needs, if any.

    Keys (``make docs`` copies them from ``conf/environment/gymnasium.yaml``):
        id (text): Its name in Gymnasium's registry; module:Id imports the module that registers it first.
        extra (text or ``null``): The extra of sparserl that installs what it needs, or null.
        arguments (mapping): Keyword arguments of gymnasium.make.
        max_episode_steps (integer, at least 1 or ``null``): Steps after which an episode is truncated. null is the limit that
            Gymnasium has registered, or 10,000 where it has none.
        vectorization (``sync``, ``threads``, ``processes``): How sub-environments take a step: sync (one after the other),
            threads (for those that release the GIL) or processes (one for each sub-environment). The results are the same.
        at_once (integer, at least 1 or ``null``): How many sub-environments an evaluation may keep open at once, each of them a
            process where vectorization is processes; null opens one for each episode of each member.
    """

    id: str
    extra: str | None
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        if "max_episode_steps" in self.arguments:
            limit = self.arguments["max_episode_steps"]
            raise ValueError(f"environment.arguments.max_episode_steps is {limit!r}; set environment.max_episode_steps instead")

    def __hash__(self) -> int:  # a dictionary has none
        return hash(repr(self))

    @property
    def name(self) -> str:
        return self.id

    def make(self, render_mode: str | None = None) -> tuple[gymnasium.Env[Any, Any], int | None]:
        arguments = self.arguments if render_mode is None else self.arguments | {"render_mode": render_mode}
        try:
            env = gymnasium.make(self.id, max_episode_steps=self.max_episode_steps, **arguments)
        except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
            remedy = f": pip install 'sparserl[{self.extra}]'" if self.extra else f": {error}"
            raise ModuleNotFoundError(f"{self.id} needs a package that is not installed{remedy}") from error
        except (ValueError, TypeError, gymnasium.error.Error) as error:  # of its id and arguments
            raise ValueError(f"Gymnasium cannot make {self.id!r}: {' '.join(str(error).split())}") from error
        except Exception as error:
            raise BrokenEnvironmentError(f"Gymnasium cannot make {self.id!r}: {describe(error)}") from error
        assert env.spec is not None  # of whatever gymnasium.make made
        own = gymnasium.spec(env.spec.id).max_episode_steps
        if env.spec.max_episode_steps is None:
            env = TimeLimit(env, STEP_LIMIT)
        return env, own


@cache  # the config of every job asks for it, and some environments take a second to make
def _spec(environment: GymnasiumEnvironment) -> Spec:
    with closing(environment.contained()) as env:
        return spec_of(env, environment.name)


@cache
def _goal_environment(environment: GymnasiumEnvironment) -> tuple[Any, Any]:
    """An environment to compute rewards with, and the type of its goals."""
    env = environment.contained().unwrapped
    return env, env.observation_space[DESIRED].dtype  # type: ignore[index]  # a Dict, since it has goals


def _of_each(compute: Callable[..., Any], achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    """What ``compute`` gives for each row. Not every environment's is written for many at once: those are asked row by row."""
    try:
        together = np.asarray(compute(achieved, desired, {}), np.float32)
    except Exception:  # noqa: BLE001 (what is wrong with a single row, too, is raised below)
        together = None
    if together is not None and together.shape == achieved.shape[:1]:
        return together
    return np.array([float(compute(*row, {})) for row in zip(achieved, desired, strict=True)], np.float32)


def spec_of(env: gymnasium.Env[Any, Any], name: str, max_episode_steps: int | None = None) -> Spec:
    """What an environment shows and accepts; the step limit is for one that Gymnasium's registry does not know.

    Raises ValueError, in a sentence, where that is not supported.
    """
    observations, actions = env.observation_space, env.action_space
    if not isinstance(observations, spaces.Box):
        needed = "arrays (Box), discrete ones or a Dict of these"
        raise ValueError(f"the observations of {name} are {' '.join(str(observations).split())}; {needed} are needed")
    limit = env.spec.max_episode_steps if env.spec else max_episode_steps
    dtype = torch.uint8 if observations.dtype == np.uint8 else torch.float32
    if isinstance(actions, spaces.Discrete) and actions.start == 0:
        return Spec(observations.shape, int(actions.n), (), (), dtype, limit, goal_size(env))
    if isinstance(actions, spaces.Box) and len(actions.shape) == 1 and actions.is_bounded():
        low, high = tuple(actions.low.tolist()), tuple(actions.high.tolist())
        return Spec(observations.shape, None, low, high, dtype, limit, goal_size(env))
    raise ValueError(f"the actions of {name} are {actions}; Discrete from 0 or a bounded vector (Box) is needed")


class Seeded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment of which every episode is seeded anew, as VectorGymnasium does, from the next generator."""

    def __init__(self, env: gymnasium.Env[Any, Any], generators: Iterator[torch.Generator]) -> None:
        super().__init__(env)
        self._generators = generators

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=_seed(next(self._generators)), options=options)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


class VectorGymnasium(VectorEnvironment):
    """A vector of Gymnasium's, of contained environments; every episode is seeded anew from its member's generator."""

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        generators: Generators,
        envs: int,
        spec: Spec,
        measures: Sequence[str],
    ) -> None:
        super().__init__(generators, envs)
        self._seeds = np.zeros(self.shape, np.int64)  # of the episodes under way
        self._vector, self._dtype = vector, spec.observation_dtype
        self._extras = () if spec.goal_size is None else (ACHIEVED,)
        self._measures = measures
        self._failures: dict[int, str] = {}  # that no step has told of yet

    def reset(self) -> Tensor:
        return self._tensor(self._restart(np.ones(self.shape, dtype=np.bool_)), self._dtype)

    def step(self, action: Tensor) -> StepResult:
        actions = action.flatten(0, 1).cpu().numpy().copy()  # an environment may change the one that it is given
        observation, reward, terminated, truncated, info = self._vector.step(actions)
        self._read(info)
        next_observation = self._tensor(observation, self._dtype)
        ended = (terminated | truncated).reshape(self.shape)
        following = next_observation
        if ended.any():
            following = self._tensor(self._restart(ended) if self.autoreset else self._idle(ended), self._dtype)
        failures, self._failures = self._failures, {}
        extras = {name: self._tensor(info[name]) for name in self._extras}
        with np.errstate(over="ignore"):  # beyond the range of float32 it is inf
            rewards = self._tensor(reward)
            measures = {name: self._tensor(info[name]) for name in self._measures}
        ends = self._tensor(terminated), self._tensor(truncated)
        return StepResult(following, next_observation, rewards, *ends, failures, extras, measures)

    def close(self) -> None:
        self._vector.close()

    def _restart(self, which: np.ndarray) -> np.ndarray:
        for member, env in zip(*np.nonzero(which), strict=True):
            self._seeds[member, env] = _seed(self.generators[int(member)])
        return self._begin(which.reshape(-1))

    def _begin(self, which: np.ndarray) -> np.ndarray:
        """Begin the episodes of ``which [member * env]`` from their seeds; all observations ``[member * env, *obs]``."""
        seeds = [seed if due else None for seed, due in zip(self._seeds.reshape(-1).tolist(), which, strict=True)]
        observation, info = self._vector.reset(seed=seeds, options={"reset_mask": which})  # type: ignore[arg-type]
        self._read(info)
        return np.asarray(observation)

    def _idle(self, which: np.ndarray) -> np.ndarray:
        options = {"reset_mask": which.reshape(-1), IDLE: True}
        return np.asarray(self._vector.reset(seed=[None] * which.size, options=options)[0])  # type: ignore[arg-type]

    def _read(self, info: dict[str, Any]) -> None:
        """What contained environments tell, by sub-environment."""
        for index, sentence in enumerate(info.get(FAILURE, ())):
            if sentence is not None:
                self._failures.setdefault(index // self.shape[1], sentence)
        if LIMITED in info:
            self._limit(info[LIMITED])
