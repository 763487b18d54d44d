"""CartPole-v1 in one batch of arrays: number for number what Gymnasium's gives, and in programs up to rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from torch import Tensor

from sparserl.environments.base import VectorEnvironment
from sparserl.environments.classic_control import ClassicControl, FunctionalClassicControl
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


class VectorCartPole(FunctionalClassicControl):
    """The physics of Gymnasium's CartPoleVectorEnv, with its constants.

    The state is position, velocity, angle and angular velocity. To step Gymnasium's takes longer with few sub-environments, as
    in training: most of it is checks.
    """

    START: ClassVar[float] = 0.05
    OWN_STEP_LIMIT: ClassVar[int] = 500

    def __init__(self, generators: Generators, envs: int, max_episode_steps: int) -> None:
        super().__init__(generators, envs, max_episode_steps)
        self._constants = CartPoleVectorEnv(1)
        self._rate = np.zeros_like(self._state)
        self._one = self._tensor(np.ones(self._state.shape[1]))

    def _move(self, actions: np.ndarray) -> None:
        """One step of Euler's method."""
        for number, rate in enumerate(self._rates(self._state, actions, np)):
            self._rate[number] = rate
        self._state += self._constants.tau * self._rate

    def _moved(self, state: Tensor, action: Tensor) -> Tensor:
        return state + self._constants.tau * torch.stack(self._rates(state.unbind(2), action, torch), dim=2)

    def _rates(self, state: Any, actions: Any, xp: Any) -> tuple[Any, ...]:
        """How fast the four numbers of states change. The order of the operations is Gymnasium's, so that they round alike."""
        constants, (_, velocity, angle, angular_velocity) = self._constants, state
        # torch makes it a float32, in which 10 is exact
        force = xp.where(actions == 1, constants.force_mag, -constants.force_mag)
        cosine, sine = xp.cos(angle), xp.sin(angle)
        push = (force + constants.polemass_length * xp.square(angular_velocity) * sine) / constants.total_mass
        inertia = constants.length * (4.0 / 3.0 - constants.masspole * xp.square(cosine) / constants.total_mass)
        angular_acceleration = (constants.gravity * sine - cosine * push) / inertia
        acceleration = push - constants.polemass_length * angular_acceleration * cosine / constants.total_mass
        return velocity, acceleration, angular_velocity, angular_acceleration

    def _is_over(self, state: Any) -> Any:
        position, _, angle, _ = state
        return (abs(position) > self._constants.x_threshold) | (abs(angle) > self._constants.theta_threshold_radians)

    def _terminated(self) -> np.ndarray:
        terminated: np.ndarray = self._is_over(self._state)
        return terminated

    def _reward(self, terminated: np.ndarray) -> Tensor:
        return self._one

    def _observation(self) -> Tensor:
        return self._tensor(self._state.T.astype(np.float32, order="C"))
