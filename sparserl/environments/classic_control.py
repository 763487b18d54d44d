"""Gymnasium's classic control problems in one batch of arrays: one step of all sub-environments at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from sparserl.environments.base import Environment, EpisodeKeeper, StepResult
from sparserl.fields import Count
from sparserl.population.random import Generators
from sparserl.population.state import State


@dataclass(frozen=True)
class ClassicControl(Environment):
    """What the recipes share: the problem's name in Gymnasium's registry, and its step limit."""

    id: ClassVar[str]

    max_episode_steps: Count

    def single(self, generators: Iterator[torch.Generator], render_mode: str) -> gymnasium.Env[Any, Any]:
        env = gymnasium.make(self.id, max_episode_steps=self.max_episode_steps, render_mode=render_mode)
        return _Started(env, generators)


class _Started(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Draws every first state from the next generator, as VectorClassicControl does."""

    def __init__(self, env: gymnasium.Env[Any, Any], generators: Iterator[torch.Generator]) -> None:
        super().__init__(env)
        self._generators = generators

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.env.unwrapped.np_random = _States(next(self._generators))  # type: ignore[assignment]
        return self.env.reset(options=options)


class _States:
    """In the place of the numpy generator of one environment."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
        state: np.ndarray = low + (high - low) * torch.rand(*size, generator=self._generator, dtype=torch.float64).numpy()
        return state


class VectorClassicControl(EpisodeKeeper):
    """The state ``[number, member * env]`` of all sub-environments, float64, with their step limits and first states.

    Gymnasium's own vectors reset a finished sub-environment one step late and draw all resets from one generator; here a
    finished one is given a fresh state at once, drawn from its member's generator.
    """

    STATE_SIZE: ClassVar[int] = 4
    START: ClassVar[float]
    """Each number of a first state is uniform between minus this and this."""
    OWN_STEP_LIMIT: ClassVar[int]
    """That of Gymnasium's registry."""

    def __init__(self, generators: Generators, envs: int, max_episode_steps: int) -> None:
        super().__init__(generators, envs)
        number = len(generators) * envs
        self._max_episode_steps = max_episode_steps
        self._state = np.zeros((self.STATE_SIZE, number))
        self._clock = 0  # steps so far
        self._deadline = np.zeros(number, dtype=np.int64)  # at which step each is truncated
        self._first_deadline = 0
        self._never = self._tensor(np.zeros(number))

    def reset(self) -> Tensor:
        self._restart(np.ones(self.shape, dtype=np.bool_))
        return self._observation()

    def step(self, action: Tensor) -> StepResult:
        self._move(action.cpu().numpy().reshape(-1))
        self._clock += 1
        terminated = self._terminated()
        reward, next_observation = self._reward(terminated), self._observation()
        if self._clock < self._first_deadline and not terminated.any():
            return StepResult(next_observation, next_observation, reward, self._never, self._never)
        truncated = self._clock >= self._deadline
        if self._max_episode_steps != self.OWN_STEP_LIMIT:
            self._limit(truncated & ~terminated)
        self._restart((terminated | truncated).reshape(self.shape), draw=self.autoreset)
        ends = self._tensor(terminated), self._tensor(truncated)
        return StepResult(self._observation(), next_observation, reward, *ends)

    def snapshot(self) -> State:
        left = (self._deadline - self._clock).reshape(self.shape)
        return {
            "state": torch.from_numpy(self._state.T.reshape(*self.shape, -1).copy()),
            "steps_left": torch.from_numpy(left.copy()),
        }

    def restore(self, state: State) -> Tensor:
        self._state[:] = state["state"].flatten(0, 1).numpy().T
        self._deadline = self._clock + state["steps_left"].flatten().numpy()
        self._first_deadline = self._deadline.min()
        return self._observation()

    def close(self) -> None:
        """There is nothing to give back."""

    @abstractmethod
    def _move(self, actions: np.ndarray) -> None:
        """One step of the state under actions ``[member * env]``."""

    @abstractmethod
    def _terminated(self) -> np.ndarray:
        """Which episodes end in the present state, ``[member * env]``."""

    @abstractmethod
    def _reward(self, terminated: np.ndarray) -> Tensor:
        """Of the step that led to the present state, ``[member, env]``."""

    @abstractmethod
    def _observation(self) -> Tensor:
        """Of the present state, ``[member, env, number]``."""

    def _restart(self, which: np.ndarray, draw: bool = True) -> None:
        """Fresh episodes where ``which [member, env]`` says so; from the middle of the range where nothing is to be drawn."""
        flat, state = which.reshape(-1), np.zeros((self.STATE_SIZE, 1))
        if draw:
            fresh = [
                torch.rand(count, self.STATE_SIZE, generator=self.generators[member], dtype=torch.float64)
                for member, count in enumerate(which.sum(axis=1).tolist())
                if count
            ]
            state = self._first(-self.START + 2 * self.START * torch.cat(fresh).numpy().T)
        self._state[:, flat] = state
        self._deadline[flat] = self._clock + self._max_episode_steps
        self._first_deadline = self._deadline.min()

    def _first(self, drawn: np.ndarray) -> np.ndarray:
        """First states ``[number, episode]`` as the problem rounds them."""
        return drawn
