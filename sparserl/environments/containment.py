"""One environment of Gymnasium's whose faults stay its own."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np

from sparserl.environments.observations import ACHIEVED, goal_size

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]

IDLE = "idle"
"""A reset with this option starts no episode: the environment is left alone until the next reset."""

FAILURE, LIMITED = "failure", "limited"
"""What ``info`` may hold: the sentence of a failure, once; and True where the step limit cut the episode."""


class Contained(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """Checks all that an environment gives, so that a vector can store it, and catches all that it raises.

    After its first failure the environment is left alone: each step gives an observation of zeros and a reward of nan, and
    terminates. A reward that is nan or infinite is a number and passed on. Of the environment's own ``info`` only achieved
    goals and measures are kept: its values need not fit those of other environments. ``limit`` is the step limit where it is
    not the environment's own, which a wrapper inside enforces. ``measures`` are the numbers that judge an episode, and under
    which keys of ``info`` each of them may be: after each step this ``info`` has them by their names, nan where there is none.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], name: str, limit: int | None, measures: Mapping[str, tuple[str, ...]]
    ) -> None:
        super().__init__(env)
        self._name, self._limit = name, math.inf if limit is None else limit
        self._steps = 0
        self._idle = self._failed = False
        self._zeros = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)
        size = goal_size(env)
        self._measures = measures
        self._nothing: dict[str, Any] = dict.fromkeys(measures, math.nan)
        if size is not None:
            self._nothing[ACHIEVED] = np.zeros(size, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._steps, self._idle = 0, IDLE in (options or {})
        if self._idle or self._failed:
            return self._zeros, {}
        try:
            observation, _ = self.env.reset(seed=seed)
            return self._observation(observation), {}
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever it is, it is this environment's)
            return self._zeros, self._fail("in reset", error)

    def step(self, action: Any) -> Step:
        if self._idle:
            return self._zeros, 0.0, False, False, self._nothing
        if self._failed:
            return self._zeros, math.nan, True, False, self._nothing
        self._steps += 1
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            checked, kept = (self._observation(observation), _number("reward", reward)), self._kept(info)
            ended, cut = _flag("terminated", terminated), _flag("truncated", truncated)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (as above)
            return self._zeros, math.nan, True, False, self._nothing | self._fail(f"in step {self._steps} of an episode", error)
        return *checked, ended, cut, kept | ({LIMITED: True} if cut and not ended and self._steps >= self._limit else {})

    def close(self) -> None:
        """Close the environment. What that raises changes no result, and must not keep others from being closed."""
        with suppress(Exception, SystemExit):
            self.env.close()

    def _fail(self, where: str, error: BaseException) -> dict[str, Any]:
        self._failed = True
        text = " ".join(traceback.format_exception_only(error)[-1].split())  # whatever str(error) does
        return {FAILURE: f"{self._name} failed {where}: {text}"}

    def _kept(self, info: dict[str, Any]) -> dict[str, Any]:
        """The measures that ``info`` has, and in a goal environment the achieved goal."""
        kept: dict[str, Any] = {}
        for measure, keys in self._measures.items():
            said = next(((key, info[key]) for key in keys if info.get(key) is not None), None)
            kept[measure] = math.nan if said is None else _number(*said)
        if ACHIEVED in self._nothing:
            kept[ACHIEVED] = _fitting("achieved goal", info[ACHIEVED], self._nothing[ACHIEVED])
        return kept

    def _observation(self, given: Any) -> np.ndarray:
        return _fitting("observation", given, self._zeros)


def _fitting(name: str, given: Any, like: np.ndarray) -> np.ndarray:
    """``given`` as an array of the shape and type of another; raises ValueError and TypeError where it does not fit."""
    array, dtype = np.asarray(given), like.dtype
    if array.shape == like.shape and array.dtype == dtype:
        return array
    if array.shape != like.shape:
        raise ValueError(f"its {name} has the shape {array.shape}, not {like.shape}")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(f"its {name} is of {array.dtype}, not {dtype}")
    with np.errstate(over="ignore"):  # beyond the range of float32 it is inf
        return array.astype(dtype, copy=False)


def _number(name: str, given: Any) -> float:
    if not hasattr(given, "__float__") or getattr(given, "ndim", None):
        raise TypeError(f"its {name} is {given!r:.80}, not a number")
    return float(given)


def _flag(name: str, given: Any) -> bool:
    if given not in (False, True):
        raise TypeError(f"its {name} is {given!r:.80}, not true or false")
    return bool(given)
