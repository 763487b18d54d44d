"""Acrobot-v1 in one batch of arrays: what Gymnasium's gives, up to the rounding of sines and cosines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from torch import Tensor

from sparserl.environments.base import VectorEnvironment
from sparserl.environments.classic_control import ClassicControl, VectorClassicControl
from sparserl.population.random import Generators
from sparserl.types import Spec


@dataclass(frozen=True)
class Acrobot(ClassicControl):
    """Two links that hang from a joint (Sutton 1996): a reward of -1 a step until the lower end swings above a line.

    Keys (``make docs`` copies them from ``conf/environment/acrobot.yaml``):
        max_episode_steps (integer, at least 1): Steps after which an episode is truncated (500 in Acrobot-v1).
    """

    id: ClassVar[str] = "Acrobot-v1"

    def spec(self) -> Spec:
        return Spec(observation_shape=(6,), discrete_actions=3, max_episode_steps=self.max_episode_steps)

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        return VectorAcrobot(generators, envs, self.max_episode_steps)


class VectorAcrobot(VectorClassicControl):
    """The equations of motion of Gymnasium's AcrobotEnv, which take arrays; the state is two angles and their velocities."""

    START: ClassVar[float] = 0.1
    OWN_STEP_LIMIT: ClassVar[int] = 500

    def __init__(self, generators: Generators, envs: int, max_episode_steps: int) -> None:
        super().__init__(generators, envs, max_episode_steps)
        self._problem = AcrobotEnv()
        self._torques = np.array(self._problem.AVAIL_TORQUE)
        self._fastest = np.array([[self._problem.MAX_VEL_1], [self._problem.MAX_VEL_2]])

    def _move(self, actions: np.ndarray) -> None:
        """One step of Runge and Kutta's fourth-order method; angles are brought back to -pi to pi, velocities are limited."""
        torque, dt, start = self._torques[actions], self._problem.dt, self._state
        first = self._rate(start, torque)
        second = self._rate(start + dt / 2 * first, torque)
        third = self._rate(start + dt / 2 * second, torque)
        fourth = self._rate(start + dt * third, torque)
        self._state = start + dt / 6 * (first + 2 * second + 2 * third + fourth)
        angles, velocities = self._state[:2], self._state[2:]
        while (beyond := abs(angles) > np.pi).any():
            angles -= 2 * np.pi * np.sign(angles) * beyond
        np.clip(velocities, -self._fastest, self._fastest, out=velocities)

    def _rate(self, state: np.ndarray, torque: np.ndarray) -> np.ndarray:
        """The derivative of a state ``[4, member * env]``."""
        *rate, _ = self._problem._dsdt([*state, torque])  # type: ignore[no-untyped-call]  # noqa: SLF001
        return np.stack(rate)

    def _terminated(self) -> np.ndarray:
        upper, lower = self._state[:2]
        terminated: np.ndarray = -np.cos(upper) - np.cos(lower + upper) > 1
        return terminated

    def _reward(self, terminated: np.ndarray) -> Tensor:
        return self._tensor(terminated - 1.0)

    def _observation(self) -> Tensor:
        (upper, lower), velocities = self._state[:2], self._state[2:]
        return self._tensor(np.stack([np.cos(upper), np.sin(upper), np.cos(lower), np.sin(lower), *velocities], axis=1))

    def _first(self, drawn: np.ndarray) -> np.ndarray:
        return drawn.astype(np.float32)
