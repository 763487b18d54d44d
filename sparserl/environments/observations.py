"""One array of what an environment shows, so that a network can read it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

OBSERVATION, ACHIEVED, DESIRED = "observation", "achieved_goal", "desired_goal"
"""The keys of what a goal environment shows. ``info`` holds the achieved goal after each step under the same key."""


def as_array(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """``env`` with arrays for observations, or ``env`` itself where they are arrays already or cannot be made arrays.

    Discrete spaces, and dictionaries of them and of arrays, become one vector; of a goal environment see ``GoalObservation``.
    """
    space = env.observation_space
    if _has_goals(env):
        return GoalObservation(env)
    if isinstance(space, spaces.Box) or not _can_be_flat(space):
        return env
    return FlatObservation(env)


def goal_size(env: gymnasium.Env[Any, Any]) -> int | None:
    """How many of the last numbers of an observation are the desired goal; None in an environment without goals."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, GoalObservation):
            return env.goal_size
        env = env.env
    return None


def _can_be_flat(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return bool(space.spaces) and all(_can_be_flat(part) for part in space.spaces.values())
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete)


def _has_goals(env: gymnasium.Env[Any, Any]) -> bool:
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or {*space} != {OBSERVATION, ACHIEVED, DESIRED}:
        return False
    achieved, desired = space[ACHIEVED], space[DESIRED]
    are_vectors = isinstance(achieved, spaces.Box) and isinstance(desired, spaces.Box) and len(desired.shape) == 1
    can_compute = callable(getattr(env.unwrapped, "compute_reward", None))
    return are_vectors and achieved.shape == desired.shape and can_compute and _can_be_flat(space[OBSERVATION])


def _vector(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


class FlatObservation(gymnasium.ObservationWrapper[Any, Any, Any]):
    """One vector of all parts, in the order of the space's keys; what is discrete is one-hot."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = _vector(spaces.flatdim(env.observation_space))

    def observation(self, observation: Any) -> Any:
        return spaces.flatten(self.env.observation_space, observation)


class GoalObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The vector ``[observation, desired_goal]`` of a goal environment; the achieved goal is given in ``info``."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        self._parts = [(key, env.observation_space[key]) for key in (OBSERVATION, DESIRED)]
        sizes = [spaces.flatdim(part) for _, part in self._parts]
        self.observation_space, self.goal_size = _vector(sum(sizes)), sizes[1]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(observation), reward, terminated, truncated, {**info, ACHIEVED: observation[ACHIEVED]}

    def _shown(self, observation: Any) -> Any:
        return np.concatenate([spaces.flatten(part, observation[key]) for key, part in self._parts])
