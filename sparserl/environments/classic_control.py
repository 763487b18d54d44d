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

from sparserl.environments.base import Environment, EpisodeKeeper, FunctionalEnvironment, StepResult
from sparserl.fields import Count
from sparserl.population.random import Generators
from sparserl.population.state import State
from sparserl.types import Rollout

RESERVES = 4
"""A reserve of first states is for so many times the steps that are asked for, since to fill it takes longer than to look."""


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
        self._ahead = np.zeros((len(generators), 0, self.STATE_SIZE))  # [member, episode, number]: first states that are drawn
        self._used = np.zeros(len(generators), dtype=np.int64)  # how many of them have begun
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
            "first": torch.from_numpy(self._ahead.copy()),
            "used": torch.from_numpy(self._used.copy()),
        }

    def restore(self, state: State) -> Tensor:
        self._state[:] = state["state"].flatten(0, 1).numpy().T
        self._deadline = self._clock + state["steps_left"].flatten().numpy()
        self._first_deadline = self._deadline.min()
        self._ahead, self._used = state["first"].numpy().copy(), state["used"].numpy().copy()
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
            counts = which.sum(axis=1).tolist()
            state = np.concatenate([self._begin(member, count) for member, count in enumerate(counts) if count]).T
        self._state[:, flat] = state
        self._deadline[flat] = self._clock + self._max_episode_steps
        self._first_deadline = self._deadline.min()

    def _begin(self, member: int, count: int) -> np.ndarray:
        """The next first states ``[episode, number]`` of a member: those that are drawn already, and then others."""
        drawn = self._ahead[member, self._used[member] :][:count]
        self._used[member] += len(drawn)
        return drawn if len(drawn) == count else np.concatenate([drawn, self._draw(member, count - len(drawn))])

    def _draw(self, member: int, count: int) -> np.ndarray:
        """So many first states ``[episode, number]`` from a member's generator."""
        drawn = torch.rand(count, self.STATE_SIZE, generator=self.generators[member], dtype=torch.float64)
        return self._first(-self.START + 2 * self.START * drawn.numpy())

    def _first(self, drawn: np.ndarray) -> np.ndarray:
        """First states ``[episode, number]`` as the problem rounds them."""
        return drawn


class FunctionalClassicControl(VectorClassicControl, FunctionalEnvironment):
    """One whose reward is 1 a step, and whose steps torch can take too."""

    kept = ("first",)

    def reserve(self, steps: int) -> None:
        most = steps * self.shape[1]
        size = max(RESERVES * most, self._ahead.shape[1])
        if self._ahead.shape[1] < size or (size - self._used).min() < most:
            self._ahead = np.stack([self._begin(member, size) for member in range(self.shape[0])])
            self._used[:] = 0

    def advance(self, state: State, action: Tensor) -> tuple[State, StepResult]:
        moved = self._moved(state["state"], action)
        steps_left = state["steps_left"] - 1
        terminated, truncated = self._is_over(moved.unbind(2)), steps_left <= 0
        ends = terminated | truncated
        # those that end begin the next episodes of their member, in their order
        place = (state["used"].unsqueeze(1) + ends.cumsum(1) - 1).clamp(min=0)
        first = state["first"].gather(1, place.unsqueeze(2).expand(-1, -1, self.STATE_SIZE))
        following: State = {
            "state": torch.where(ends.unsqueeze(2), first, moved),
            "steps_left": torch.where(ends, self._max_episode_steps, steps_left),
            "first": state["first"],
            "used": state["used"] + ends.sum(1),
        }
        reward = torch.ones_like(moved[..., 0]).float()
        return following, StepResult(following["state"].float(), moved.float(), reward, terminated.float(), truncated.float())

    def follow(self, state: State, steps: Rollout) -> Tensor:
        if self._max_episode_steps != self.OWN_STEP_LIMIT:
            cut = (steps["truncated"] > steps["terminated"]).any(dim=1)
            self._limit(cut.flatten().numpy())
        return self.restore(state)

    @abstractmethod
    def _moved(self, state: Tensor, action: Tensor) -> Tensor:
        """The states ``[member, env, number]`` that follow."""

    @abstractmethod
    def _is_over(self, state: Any) -> Any:
        """Which episodes end in states, given number by number as arrays of NumPy's or torch's."""
