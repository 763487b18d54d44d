"""CartPole-v1 in one batch of arrays, number for number what Gymnasium's gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from torch import Tensor

from sparserl.environments.base import VectorEnvironment
from sparserl.environments.classic_control import ClassicControl, VectorClassicControl
from sparserl.population.random import Generators
from sparserl.types import Spec


@dataclass(frozen=True)
class CartPole(ClassicControl):
    """A pole on a cart (Barto, Sutton, Anderson 1983): a reward of 1 a step until the pole falls or time is up.

    Keys (``make docs`` copies them from ``conf/environment/cartpole.yaml``):
        max_episode_steps (integer, at least 1): Steps after which an episode is truncated (500 in CartPole-v1).
    """

    id: ClassVar[str] = "CartPole-v1"

    def spec(self) -> Spec:
        return Spec(observation_shape=(4,), discrete_actions=2, max_episode_steps=self.max_episode_steps)

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        return VectorCartPole(generators, envs, self.max_episode_steps)


class VectorCartPole(VectorClassicControl):
    """The physics of Gymnasium's CartPoleVectorEnv, with its constants.

    The state is position, velocity, angle and angular velocity. To step Gymnasium's takes longer with few sub-environments, as
    in training: most of it is checks.
    """

    START: ClassVar[float] = 0.05
    OWN_STEP_LIMIT: ClassVar[int] = 500

    def __init__(self, generators: Generators, envs: int, max_episode_steps: int) -> None:
        super().__init__(generators, envs, max_episode_steps)
        self._constants = constants = CartPoleVectorEnv(1)
        self._rate = np.zeros_like(self._state)
        self._limits = np.array([[constants.x_threshold], [constants.theta_threshold_radians]])  # of position and angle
        self._one = self._tensor(np.ones(self._state.shape[1]))

    def _move(self, actions: np.ndarray) -> None:
        """One step of Euler's method; the order of the operations is Gymnasium's, so that they round alike."""
        constants, (_, velocity, angle, angular_velocity) = self._constants, self._state
        force = np.where(actions == 1, constants.force_mag, -constants.force_mag)
        cosine, sine = np.cos(angle), np.sin(angle)
        push = (force + constants.polemass_length * np.square(angular_velocity) * sine) / constants.total_mass
        inertia = constants.length * (4.0 / 3.0 - constants.masspole * np.square(cosine) / constants.total_mass)
        angular_acceleration = (constants.gravity * sine - cosine * push) / inertia
        self._rate[0], self._rate[2] = velocity, angular_velocity
        self._rate[1] = push - constants.polemass_length * angular_acceleration * cosine / constants.total_mass
        self._rate[3] = angular_acceleration
        self._state += constants.tau * self._rate

    def _terminated(self) -> np.ndarray:
        away, fallen = abs(self._state[::2]) > self._limits
        terminated: np.ndarray = away | fallen
        return terminated

    def _reward(self, terminated: np.ndarray) -> Tensor:
        return self._one

    def _observation(self) -> Tensor:
        return self._tensor(self._state.T.astype(np.float32, order="C"))
