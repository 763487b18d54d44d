"""CartPole-v1 in one batch of arrays, number for number what Gymnasium's gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from torch import Tensor

from sparserl.environments.base import Environment, StepResult, VectorEnvironment
from sparserl.fields import Count
from sparserl.population.random import Generators
from sparserl.types import Spec

LOW, HIGH = -0.05, 0.05
"""Each of the four numbers of a first state is uniform between these."""

OWN_STEP_LIMIT = 500
"""That of CartPole-v1."""


@dataclass(frozen=True)
class CartPole(Environment):
    """A pole on a cart (Barto, Sutton, Anderson 1983): a reward of 1 a step until the pole falls or time is up.

    Keys (``make docs`` copies them from ``conf/environment/cartpole.yaml``):
        max_episode_steps (integer, at least 1): Steps after which an episode is truncated (500 in CartPole-v1).
    """

    max_episode_steps: Count

    def spec(self) -> Spec:
        return Spec(observation_shape=(4,), discrete_actions=2, max_episode_steps=self.max_episode_steps)

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        return VectorCartPole(generators, envs, self.max_episode_steps)

    def single(self, generators: Iterator[torch.Generator], render_mode: str) -> gymnasium.Env[Any, Any]:
        env = gymnasium.make("CartPole-v1", max_episode_steps=self.max_episode_steps, render_mode=render_mode)
        return _Started(env, generators)


class _Started(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Draws every first state from the next generator, as VectorCartPole does."""

    def __init__(self, env: gymnasium.Env[Any, Any], generators: Iterator[torch.Generator]) -> None:
        super().__init__(env)
        self._generators = generators

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.env.unwrapped.np_random = _States(next(self._generators))  # type: ignore[assignment]
        return self.env.reset(options=options)


class _States:
    """In the place of the numpy generator of one CartPole."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
        state: np.ndarray = low + (high - low) * torch.rand(*size, generator=self._generator, dtype=torch.float64).numpy()
        return state


class VectorCartPole(VectorEnvironment):
    """The physics of Gymnasium's CartPoleVectorEnv, with its constants.

    Gymnasium's resets a finished sub-environment one step late and draws all resets from one generator; here a finished one is
    given a fresh state at once, drawn from its member's generator. To step Gymnasium's and undo that takes longer with few
    sub-environments, as in training: most of it is checks.
    """

    def __init__(self, generators: Generators, envs: int, max_episode_steps: int) -> None:
        super().__init__(generators, envs)
        number = len(generators) * envs
        self._max_episode_steps = max_episode_steps
        self._constants = constants = CartPoleVectorEnv(1)
        self._state = np.zeros((4, number))  # position, velocity, angle, angular velocity
        self._rate = np.zeros((4, number))
        self._limits = np.array([[constants.x_threshold], [constants.theta_threshold_radians]])  # of position and angle
        self._clock = 0  # steps so far
        self._deadline = np.zeros(number, dtype=np.int64)  # at which step each is truncated
        self._first_deadline = 0
        self._reward = self._tensor(np.ones(number))
        self._never = self._tensor(np.zeros(number))

    def reset(self) -> Tensor:
        self._restart(np.ones(self.shape, dtype=np.bool_))
        return self._observation()

    def step(self, action: Tensor) -> StepResult:
        self._move(action.cpu().numpy().reshape(-1) == 1)
        self._clock += 1
        away, fallen = abs(self._state[::2]) > self._limits
        terminated = away | fallen
        next_observation = self._observation()
        if self._clock < self._first_deadline and not terminated.any():
            return StepResult(next_observation, next_observation, self._reward, self._never, self._never)
        truncated = self._clock >= self._deadline
        if self._max_episode_steps != OWN_STEP_LIMIT:
            self._limit(truncated & ~terminated)
        self._restart((terminated | truncated).reshape(self.shape), draw=self.autoreset)
        return StepResult(
            self._observation(), next_observation, self._reward, self._tensor(terminated), self._tensor(truncated)
        )

    def close(self) -> None:
        """There is nothing to give back."""

    def _move(self, pushed_right: np.ndarray) -> None:
        """One step of Euler's method; the order of the operations is Gymnasium's, so that they round alike."""
        constants, (_, velocity, angle, angular_velocity) = self._constants, self._state
        force = np.where(pushed_right, constants.force_mag, -constants.force_mag)
        cosine, sine = np.cos(angle), np.sin(angle)
        push = (force + constants.polemass_length * np.square(angular_velocity) * sine) / constants.total_mass
        inertia = constants.length * (4.0 / 3.0 - constants.masspole * np.square(cosine) / constants.total_mass)
        angular_acceleration = (constants.gravity * sine - cosine * push) / inertia
        self._rate[0], self._rate[2] = velocity, angular_velocity
        self._rate[1] = push - constants.polemass_length * angular_acceleration * cosine / constants.total_mass
        self._rate[3] = angular_acceleration
        self._state += constants.tau * self._rate

    def _observation(self) -> Tensor:
        return self._tensor(self._state.T.astype(np.float32, order="C"))

    def _restart(self, which: np.ndarray, draw: bool = True) -> None:
        """Fresh episodes where ``which [member, env]`` says so; from the middle of the range where nothing is to be drawn."""
        flat, state = which.reshape(-1), np.zeros((4, 1))
        if draw:
            fresh = [
                torch.rand(count, 4, generator=self.generators[member], dtype=torch.float64)
                for member, count in enumerate(which.sum(axis=1).tolist())
                if count
            ]
            state = LOW + (HIGH - LOW) * torch.cat(fresh).numpy().T
        self._state[:, flat] = state
        self._deadline[flat] = self._clock + self._max_episode_steps
        self._first_deadline = self._deadline.min()
