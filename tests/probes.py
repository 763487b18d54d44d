"""Tiny environments whose action values are known exactly.

Each asks for one thing more than the one before, so the first one that an algorithm fails on says what is broken (Andy
Jones, Debugging RL, Without the Agonizing Pain). All have two actions. Episodes last one to three steps, and the first
observation of each is drawn from its member's generator. What follows the last step is an observation that has a value
of its own elsewhere: who bootstraps through a termination learns values that are visibly wrong.
"""

from __future__ import annotations

from abc import abstractmethod
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from sparserl.environments.base import Environment, StepResult, VectorEnvironment
from sparserl.population.random import Generators
from sparserl.types import Spec


@dataclass(frozen=True)
class Probe(Environment):
    """What probes share: the state is what is observed, ``[..., feature]``, and only ``first`` is random."""

    features: ClassVar[int] = 1

    def spec(self) -> Spec:
        return Spec(observation_shape=(self.features,), discrete_actions=2)

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        return VectorProbe(self, generators, envs)

    @abstractmethod
    def states(self) -> Tensor:
        """Observations at which to ask for values, ``[state, feature]``: all there are, or a grid of them."""

    @abstractmethod
    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        """What an algorithm must learn: the optimal action values, ``[..., action]``."""

    def first(self, uniforms: Tensor) -> Tensor:
        """The first observations of episodes, from uniform numbers ``[..., feature]`` in [0, 1). By default all 0."""
        return torch.zeros_like(uniforms)

    @abstractmethod
    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        """The reward ``[...]`` of ``action [...]``."""

    def follow(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next observation and, as booleans, ``terminated`` and ``truncated``. By default one step is all."""
        ends = torch.ones(observation.shape[:-1], dtype=torch.bool)
        return observation, ends, ~ends


class VectorProbe(VectorEnvironment):
    """N episodes of a probe for each member."""

    def __init__(self, probe: Probe, generators: Generators, envs: int) -> None:
        super().__init__(generators, envs)
        self._probe = probe

    def reset(self) -> Tensor:
        self._observation = self._first()
        return self._observation

    def step(self, action: Tensor) -> StepResult:
        reward = self._probe.reward(self._observation, action)
        following, terminated, truncated = self._probe.follow(self._observation)
        self._observation = torch.where((terminated | truncated).unsqueeze(-1), self._first(), following)
        return StepResult(self._observation, following, reward, terminated.float(), truncated.float())

    def close(self) -> None:
        pass

    def _first(self) -> Tensor:
        return self._probe.first(self.generators.uniform(self.shape[1], self._probe.features))


class ConstantReward(Probe):
    """Observation 0, reward 1, over. Asks for a constant, and for no value after the end.

    Q(0, a) = 1 for both actions.
    """

    def states(self) -> Tensor:
        return torch.zeros(1, 1)

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        return torch.ones(*observation.shape[:-1], 2)

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        return torch.ones(action.shape)


class RewardByObservation(Probe):
    """Observation -1 or 1 by chance, the reward is the observation, over. Asks for values that depend on what is seen.

    Q(o, a) = o for both actions.
    """

    def states(self) -> Tensor:
        return torch.tensor([[-1.0], [1.0]])

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        return observation.expand(*observation.shape[:-1], 2)

    def first(self, uniforms: Tensor) -> Tensor:
        return _sign(uniforms)

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        return observation[..., 0]


class RewardLater(Probe):
    """Observation 0 with reward 0, then observation 1 with reward 1, over. Asks for value to flow back.

    Q(0, a) = discount and Q(1, a) = 1 for both actions.
    """

    def states(self) -> Tensor:
        return torch.tensor([[0.0], [1.0]])

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        value = torch.where(observation == 0, discount, 1.0)
        return value.expand(*observation.shape[:-1], 2)

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        return observation[..., 0]

    def follow(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        terminated = observation[..., 0] == 1
        return torch.ones_like(observation), terminated, torch.zeros_like(terminated)


class RewardByAction(Probe):
    """Observation 0, reward -1 for action 0 and 1 for action 1, over. Asks for actions to be told apart.

    Q(0, .) = (-1, 1).
    """

    def states(self) -> Tensor:
        return torch.zeros(1, 1)

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        return torch.tensor([-1.0, 1.0]).expand(*observation.shape[:-1], 2)

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        return _signed(action)


class ActionTimesObservation(Probe):
    """Observation -1 or 1 by chance, action 0 counts as -1 and action 1 as 1, the reward is their product, over.

    Asks for the best action to depend on what is seen. Q(o, .) = (-o, o).
    """

    def states(self) -> Tensor:
        return torch.tensor([[-1.0], [1.0]])

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        return observation[..., :1] * torch.tensor([-1.0, 1.0])

    def first(self, uniforms: Tensor) -> Tensor:
        return _sign(uniforms)

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        return observation[..., 0] * _signed(action)


class UselessInput(ActionTimesObservation):
    """ActionTimesObservation with a second input that carries nothing: uniform in [-1, 1), new in every episode.

    Asks for weights that do nothing to go: those of input ``useless`` (that row of the first layer's matrix) must be
    closed by L0 and shrunk by L1. Q(o, .) = (-o[0], o[0]) whatever o[1] is.
    """

    features = 2
    useless: ClassVar[int] = 1

    def states(self) -> Tensor:
        return torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-0.9, 0.0, 0.9]))

    def first(self, uniforms: Tensor) -> Tensor:
        return torch.cat([_sign(uniforms[..., :1]), 2 * uniforms[..., 1:] - 1], dim=-1)


class UselessInputForEver(UselessInput):
    """UselessInput whose episodes are cut off: what is seen would stay, so the best action goes on to be worth its reward of 1.

    Asks for the weights to go while values flow back. Q(o, .) = (-o[0], o[0]) + discount / (1 - discount).
    """

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        return super().q_values(observation, discount) + discount / (1 - discount)

    def follow(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, terminated, truncated = super().follow(observation)
        return following, truncated, terminated


class Truncated(Probe):
    """Observation 0, reward 1, and the episode is cut off, not over: it would have gone on like this for ever.

    Asks for truncation to be kept apart from termination. Q(0, a) = 1 / (1 - discount) for both actions.
    """

    def states(self) -> Tensor:
        return torch.zeros(1, 1)

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        return torch.full((*observation.shape[:-1], 2), 1 / (1 - discount))

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        return torch.ones(action.shape)

    def follow(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, terminated, truncated = super().follow(observation)
        return following, truncated, terminated


class Countdown(Probe):
    """Episodes of different lengths: the observation is how many steps are left, 1, 2 or 3 at first; each has reward 1.

    Q(n, a) = 1 + discount + ... + discount^(n - 1) for both actions. The return of an episode is its first observation.
    """

    def states(self) -> Tensor:
        return torch.tensor([[1.0], [2.0], [3.0]])

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        value = (1 - discount**observation) / (1 - discount)
        return value.expand(*observation.shape[:-1], 2)

    def first(self, uniforms: Tensor) -> Tensor:
        return 1 + (3 * uniforms).floor()

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        return torch.ones(action.shape)

    def follow(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        terminated = observation[..., 0] == 1
        return (observation - 1).clamp(min=1), terminated, torch.zeros_like(terminated)


@dataclass(frozen=True)
class ContinuousProbe(Probe):
    """One step, in which two numbers are chosen: the reward is minus their squared distance from the best ones.

    They are between -1 and 1, and 0 and 4, and the distance is in units in which all bounds are -1 and 1.
    """

    def spec(self) -> Spec:
        return Spec(observation_shape=(self.features,), action_low=(-1.0, 0.0), action_high=(1.0, 4.0))

    @abstractmethod
    def best(self, observation: Tensor) -> Tensor:
        """The best action ``[..., action]``, in [-1, 1]."""

    def q_values(self, observation: Tensor, discount: float) -> Tensor:
        """That of the best action."""
        return torch.zeros(*observation.shape[:-1], 1)

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        return -(self.spec().unscale_action(action) - self.best(observation)).square().sum(dim=-1)


class Target(ContinuousProbe):
    """Observation 0. Asks for an action. The best is (0.5, -0.25) in units, 0.5 and 1.5 in the environment."""

    def states(self) -> Tensor:
        return torch.zeros(1, 1)

    def best(self, observation: Tensor) -> Tensor:
        return torch.tensor([0.5, -0.25]).expand(*observation.shape[:-1], 2)


class TargetByObservation(ContinuousProbe):
    """Observation -1 or 1 by chance. Asks for the best action to depend on what is seen: (o / 2, -o / 2)."""

    def states(self) -> Tensor:
        return torch.tensor([[-1.0], [1.0]])

    def first(self, uniforms: Tensor) -> Tensor:
        return _sign(uniforms)

    def best(self, observation: Tensor) -> Tensor:
        return observation[..., :1] * torch.tensor([0.5, -0.5])


class UselessContinuousInput(TargetByObservation):
    """TargetByObservation with a second input that carries nothing, as in UselessInput."""

    features = UselessInput.features
    states, first = UselessInput.states, UselessInput.first


@dataclass(frozen=True)
class Together(Environment):
    """Probes that one population learns: the first one its first members, and so on, as many each.

    Who shows one feature shows a 0 beside it.
    """

    probes: tuple[Probe, ...]

    def spec(self) -> Spec:
        return Spec(observation_shape=(2,), discrete_actions=2)

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        return VectorTogether(self.probes, generators, envs)


class VectorTogether(VectorEnvironment):
    """N episodes for each member, of the probe that is its own."""

    def __init__(self, probes: tuple[Probe, ...], generators: Generators, envs: int) -> None:
        super().__init__(generators, envs)
        self._each = len(generators) // len(probes)
        self._vectors = []
        for index, probe in enumerate(probes):
            its_own = copy(generators)
            its_own._generators = [generators[index * self._each + member] for member in range(self._each)]
            self._vectors.append(probe.open(its_own, envs))

    def reset(self) -> Tensor:
        return torch.cat([two_features(vector.reset()) for vector in self._vectors])

    def step(self, action: Tensor) -> StepResult:
        outcomes = [vector.step(its_own) for vector, its_own in zip(self._vectors, action.split(self._each), strict=True)]
        return StepResult(
            torch.cat([two_features(outcome.observation) for outcome in outcomes]),
            torch.cat([two_features(outcome.next_observation) for outcome in outcomes]),
            torch.cat([outcome.reward for outcome in outcomes]),
            torch.cat([outcome.terminated for outcome in outcomes]),
            torch.cat([outcome.truncated for outcome in outcomes]),
        )

    def close(self) -> None:
        pass


def two_features(observation: Tensor) -> Tensor:
    """``[..., feature]`` as members of Together see it."""
    return torch.nn.functional.pad(observation, (0, 2 - observation.shape[-1]))


class Motion(gymnasium.Env[Any, Any]):
    """Images of a bar that moves to the left or to the right by one pixel, over the edge to the other side.

    An observation is the last two planes, the older one first; the first plane of an episode is shown twice, and then nothing
    is to be gained. The next step ends the episode, with a reward of 1 for action 1 where the bar moved to the right and action
    0 where it moved to the left, and of -1 otherwise. No plane by itself says where the bar came from.

    Q(standing, a) = discount for both actions, Q(moved, .) = (1, -1) to the left and (-1, 1) to the right.
    """

    SIDE: ClassVar[int] = 4
    observation_space = gymnasium.spaces.Box(0, 255, (2, SIDE, SIDE), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.moved, self.direction = int(self.np_random.integers(self.SIDE)), False, int(self.np_random.integers(2))
        self.planes = [self.plane(self.at)] * 2
        return np.stack(self.planes), {}

    @classmethod
    def plane(cls, at: int) -> np.ndarray:
        """The bar at a place."""
        plane = np.zeros((cls.SIDE, cls.SIDE), np.uint8)
        plane[:, at % cls.SIDE] = 255
        return plane

    def step(self, action: Any) -> Any:
        reward = (1.0 if action == self.direction else -1.0) if self.moved else 0.0
        self.at += 2 * self.direction - 1
        self.planes = [self.planes[1], self.plane(self.at)]
        ended, self.moved = self.moved, True
        return np.stack(self.planes), reward, ended, False, {}

    @classmethod
    def states(cls) -> tuple[Tensor, Tensor]:
        """Where an action is taken: observations ``[state, plane, row, column]``, and the direction: -1, 1, or 0 at first."""
        shown = [(at, direction) for at in range(cls.SIDE) for direction in (-1, 0, 1)]
        images = np.stack([np.stack([cls.plane(at - direction), cls.plane(at)]) for at, direction in shown])
        return torch.from_numpy(images), torch.tensor([direction for _, direction in shown])

    @classmethod
    def q_values(cls, discount: float) -> Tensor:
        """What an algorithm must learn at ``states``: the optimal action values ``[state, action]``."""
        direction = cls.states()[1].unsqueeze(1).float()
        return torch.where(direction == 0, discount, direction * torch.tensor([-1.0, 1.0]))


gymnasium.register("Motion-v0", entry_point=Motion)


def _sign(uniforms: Tensor) -> Tensor:
    return torch.where(uniforms < 0.5, -1.0, 1.0)


def _signed(action: Tensor) -> Tensor:
    """Action 0 as -1 and action 1 as 1."""
    return 2.0 * action - 1
