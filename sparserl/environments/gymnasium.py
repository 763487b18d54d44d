"""Any environment registered with Gymnasium whose observations are arrays and whose actions are discrete or a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from sparserl.environments.base import Environment, Outcome, VectorEnvironment
from sparserl.population.random import Generators
from sparserl.types import Spec


@dataclass(frozen=True)
class Gymnasium(Environment):
    """``gymnasium.make(id, **arguments)``. ``extra`` is the extra of sparserl that installs what it needs, if any."""

    id: str
    extra: str | None
    arguments: dict[str, Any]

    def _make(self, **more: Any) -> gymnasium.Env[Any, Any]:
        try:
            return gymnasium.make(self.id, **self.arguments | more)
        except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
            remedy = f": pip install 'sparserl[{self.extra}]'" if self.extra else f": {error}"
            raise ModuleNotFoundError(f"{self.id} needs a package that is not installed{remedy}") from error
        except (gymnasium.error.Error, TypeError) as error:
            raise ValueError(f"Gymnasium cannot make {self.id!r}: {' '.join(str(error).split())}") from error

    def spec(self) -> Spec:
        env = self._make()
        observations, actions = env.observation_space, env.action_space
        env.close()
        if not isinstance(observations, spaces.Box):
            raise ValueError(f"the observations of {self.id} are {observations}; arrays (Box) are needed")
        if isinstance(actions, spaces.Discrete) and actions.start == 0:
            return Spec(observations.shape, discrete_actions=int(actions.n))
        if isinstance(actions, spaces.Box) and len(actions.shape) == 1 and actions.is_bounded():
            return Spec(observations.shape, None, tuple(actions.low.tolist()), tuple(actions.high.tolist()))
        raise ValueError(f"the actions of {self.id} are {actions}; Discrete from 0 or a bounded vector (Box) is needed")

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        vector = SyncVectorEnv([self._make] * (len(generators) * envs), autoreset_mode=AutoresetMode.DISABLED)
        return VectorGymnasium(vector, generators, envs)

    def single(self, generator: torch.Generator, render_mode: str) -> gymnasium.Env[Any, Any]:
        return _Seeded(self._make(render_mode=render_mode), generator)


class _Seeded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Seeds every episode anew, as VectorGymnasium does."""

    def __init__(self, env: gymnasium.Env[Any, Any], generator: torch.Generator) -> None:
        super().__init__(env)
        self._generator = generator

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=_seed(self._generator), options=options)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


class VectorGymnasium(VectorEnvironment):
    """Gymnasium's own synchronous vector; every episode is seeded anew from its member's generator."""

    def __init__(self, vector: SyncVectorEnv, generators: Generators, envs: int) -> None:
        super().__init__(generators, envs)
        self._vector = vector

    def reset(self) -> Tensor:
        return self._tensor(self._restart(np.ones(self.shape, dtype=np.bool_)))

    def step(self, action: Tensor) -> Outcome:
        actions = action.flatten(0, 1).cpu().numpy()
        observation, reward, terminated, truncated, _ = self._vector.step(actions)
        next_observation = self._tensor(observation)
        ended = (terminated | truncated).reshape(self.shape)
        return Outcome(
            observation=self._tensor(self._restart(ended)) if ended.any() else next_observation,
            next_observation=next_observation,
            reward=self._tensor(reward),
            terminated=self._tensor(terminated),
            truncated=self._tensor(truncated),
        )

    def close(self) -> None:
        self._vector.close()

    def _restart(self, which: np.ndarray) -> np.ndarray:
        seeds: list[int | None] = [None] * which.size
        for member, env in zip(*np.nonzero(which), strict=True):
            seeds[int(member) * self.shape[1] + int(env)] = _seed(self.generators[int(member)])
        observation, _ = self._vector.reset(seed=seeds, options={"reset_mask": which.reshape(-1)})
        return np.asarray(observation)
