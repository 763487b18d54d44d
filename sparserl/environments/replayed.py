"""Environments of Gymnasium's whose episodes are restored by playing them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from sparserl.environments.base import EpisodeKeeper, StepResult
from sparserl.environments.gymnasium import VectorGymnasium
from sparserl.population.random import Generators
from sparserl.population.state import State, StateError
from sparserl.types import Spec


class ReplayedGymnasium(VectorGymnasium, EpisodeKeeper):
    """For those whose episodes follow from their seeds and the actions taken in them, bit for bit: a snapshot has these."""

    def __init__(
        self, vector: VectorEnv[Any, Any, Any], generators: Generators, envs: int, spec: Spec, measures: Sequence[str]
    ) -> None:
        super().__init__(vector, generators, envs, spec, measures)
        self._lengths = np.zeros(self.shape, np.int64)  # the steps that the episodes under way have
        self._actions: np.ndarray | None = None  # taken in these, [member, env, step, *action], and room for more
        self._shown = torch.empty(0)  # the last observations

    def reset(self) -> Tensor:
        self._shown = super().reset()
        return self._shown

    def step(self, action: Tensor) -> StepResult:
        if self.autoreset:
            self._note(action.cpu().numpy())
        outcome = super().step(action)
        self._shown = outcome.observation
        return outcome

    def snapshot(self) -> State:
        assert self._actions is not None, "there was a step"
        taken = [its[:, : lengths.max()].copy() for its, lengths in zip(self._actions, self._lengths, strict=True)]
        return {
            "seeds": torch.from_numpy(self._seeds.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "actions": tuple(map(torch.from_numpy, taken)),  # of each member as many as its longest episode has
            "observation": self._shown,
        }

    def restore(self, state: State) -> Tensor:
        """All episodes are played again at the same time; those that are shorter begin later."""
        self._seeds, self._lengths = state["seeds"].numpy().copy(), state["lengths"].numpy().copy()
        longest, first = int(self._lengths.max()), state["actions"][0].numpy()
        self._actions = np.zeros((*self.shape, max(longest, 1), *first.shape[2:]), first.dtype)
        for place, taken in zip(self._actions, state["actions"], strict=True):
            place[:, : taken.shape[1]] = taken.numpy()
        flat = self._actions.reshape(-1, *self._actions.shape[2:])
        begin = longest - self._lengths.reshape(-1)
        observation = self._idle(np.ones(self.shape, dtype=np.bool_))
        for step in range(longest + 1):
            if (begin == step).any():
                observation = self._begin(begin == step)
            if step < longest:
                observation, *_ = self._vector.step(flat[np.arange(begin.size), np.maximum(step - begin, 0)])
        self._shown = self._tensor(np.asarray(observation), self._dtype)
        expected = state["observation"].to(self._shown.device)
        same = (self._shown == expected).flatten(2).all(dim=2)
        failed = (expected == 0).flatten(2).all(dim=2)  # what a sub-environment that failed shows: its member learns no more
        if not (same | failed).all():
            raise StateError(
                "holds episodes that cannot be restored: played again, the environment shows something else; "
                "install the versions of its packages that result.json or run.log names"
            )
        return self._shown

    def _note(self, actions: np.ndarray) -> None:
        """Keep the actions ``[member, env, *action]`` of a step for a snapshot."""
        if self._actions is None:
            self._actions = np.zeros((*self.shape, 1, *actions.shape[2:]), actions.dtype)
        if self._lengths.max() >= self._actions.shape[2]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=2)
        members, envs = np.indices(self.shape)
        self._actions[members, envs, self._lengths] = actions
        self._lengths += 1

    def _restart(self, which: np.ndarray) -> np.ndarray:
        self._lengths[which] = 0
        return super()._restart(which)
