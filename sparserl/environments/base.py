"""The vector environment as the trainer sees it: reset, step, and nothing of how it is made.

An Environment is a recipe (a frozen dataclass, the keys of ``conf/environment/<name>.yaml``); opened, it becomes a
VectorEnvironment of N sub-environments for each of P members. A sub-environment that ends starts its next episode within
the same step, so every step of every sub-environment is a real transition and members stay in step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.population.random import Generators
from sparserl.population.state import State
from sparserl.types import Action, Rollout, Spec, Transition

_NUMPY = {torch.float32: np.float32, torch.uint8: np.uint8}


class BrokenEnvironmentError(ValueError):
    """The code of an environment failed, rather than told the user something. One sentence; what it raised is the cause."""


@dataclass(frozen=True)
class StepResult:
    """What one step of every sub-environment gave, all ``[member, env, ...]``.

    ``next_observation`` is what followed the action, also at the end of an episode; ``observation`` is what to act on
    next, which after an end is the first of a new episode. ``terminated`` and ``truncated`` are 0 or 1.
    """

    observation: Tensor
    next_observation: Tensor
    reward: Float[Tensor, "member env"]
    terminated: Float[Tensor, "member env"]
    truncated: Float[Tensor, "member env"]
    failures: Mapping[int, str] = field(default_factory=dict)
    """Of each member that had a sub-environment fail in this step, one sentence that says how. Rewards of a failed
    sub-environment are nan, and each of its episodes is one step long."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Of goal environments: the ``achieved_goal [member, env, goal]`` that belongs to ``next_observation``."""
    measures: Mapping[str, Float[Tensor, "member env"]] = field(default_factory=dict)
    """Numbers by which episodes are judged beside their return, under the names of their means over episodes, such as
    ``success_rate``. That of an episode is the one at its last step; nan where the environment does not say."""

    def transition(self, observation: Tensor, action: Action) -> Transition:
        """The step as an experience takes it: what was seen, what was done, and what came of it."""
        found = {name: getattr(self, name) for name in ("next_observation", "reward", "terminated", "truncated")}
        return {"observation": observation, "action": action.action, **action.extras, **found, **self.extras}


class VectorEnvironment(ABC):
    """N sub-environments for each member. All randomness of a member's comes from its own generator.

    Nothing that one sub-environment gives or raises reaches those of other members.
    """

    def __init__(self, generators: Generators, envs: int) -> None:
        self.generators = generators
        self.shape = (len(generators), envs)
        self.autoreset = True
        """False lets a sub-environment whose episode ended stay idle until ``reset``; what it gives meanwhile means nothing."""
        self.limited: set[int] = set()
        """The members of whom an episode was cut by a step limit that is not the environment's own."""

    @abstractmethod
    def reset(self) -> Tensor:
        """End whatever runs, start fresh episodes everywhere; the first observations ``[member, env, *obs]``."""

    @abstractmethod
    def step(self, action: Tensor) -> StepResult:
        """Take one action ``[member, env, ...]`` in every sub-environment."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def _tensor(self, array: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """``[member * env, ...]`` of any number type as ``[member, env, ...]`` of ``dtype`` where the members live."""
        tensor = torch.from_numpy(np.asarray(array, dtype=_NUMPY[dtype]).reshape(*self.shape, *array.shape[1:]))
        return tensor if self.generators.device.type == "cpu" else tensor.to(self.generators.device)

    def _limit(self, cut: np.ndarray) -> None:
        """Note whose episodes ``[member * env]`` a step limit has cut."""
        self.limited.update(np.flatnonzero(cut.reshape(self.shape).any(axis=1)).tolist())


class EpisodeKeeper(VectorEnvironment):
    """One whose episodes under way a checkpoint can hold. Those of every other one it ends."""

    @abstractmethod
    def snapshot(self) -> State:
        """The episodes under way. With the state of ``generators``, which is not in it, everything needed to go on."""

    @abstractmethod
    def restore(self, state: State) -> Tensor:
        """Go on with the episodes of a ``snapshot``, in the place of ``reset``.

        Gives the observations ``[member, env, *obs]`` to act on.
        Raises StateError where they cannot be what they were.
        """


class FunctionalEnvironment(EpisodeKeeper):
    """One whose next episodes can be known ahead, so that a step is a function of tensors, which a program can take.

    Its actions are discrete, it has no ``measures``, and no sub-environment of it fails. ``advance`` always begins the next
    episodes, and depends on nothing but what it is given, the ``repr`` of the recipe, and code.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    """The names of what ``advance`` leaves as it is in a ``snapshot``."""

    @abstractmethod
    def reserve(self, steps: int) -> None:
        """Make the next ``snapshot`` hold all that so many steps may draw. Its shapes are the same for the same number."""

    @abstractmethod
    def advance(self, state: State, action: Tensor) -> tuple[State, StepResult]:
        """One step of the episodes of a ``snapshot``, which is not changed: those that follow, and what ``step`` would give.

        No value of a tensor decides which operations are done, and members do not meet.
        """

    @abstractmethod
    def follow(self, state: State, steps: Rollout) -> Tensor:
        """Go on with the episodes of a ``state``, to which ``advance`` has led by such steps, in the place of ``step``.

        Gives the observations ``[member, env, *obs]`` to act on.
        """


class Environment(ABC):
    """A recipe for vector environments."""

    at_once: int | None = None
    """How many sub-environments of one evaluation may live at once; None sets no limit."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the ``measures`` that each StepResult has. Raises like ``spec``."""
        return ()

    @abstractmethod
    def spec(self) -> Spec:
        """What it shows and accepts.

        Raises ModuleNotFoundError or ValueError, in a sentence for the user, where it cannot be made.
        """

    @abstractmethod
    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        """``envs`` sub-environments for each member that ``generators`` has one for."""

    def relabel(
        self, achieved: Float[Tensor, "*batch goal"], desired: Float[Tensor, "*batch goal"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The reward, and whether the episode is terminated (0 or 1), of a step that achieved one goal and desired another.

        Depends on nothing else. Raises ValueError where there are no goals.
        """
        raise ValueError(f"{type(self).__name__} has no goals")

    def single(self, generators: Iterator[torch.Generator], render_mode: str) -> gymnasium.Env[Any, Any]:
        """One sub-environment by itself, to be looked at: what it shows and does is what members meet.

        The n-th reset begins the episode that a sub-environment would whose member draws from the n-th of ``generators``.
        Raises ModuleNotFoundError or ValueError, in a sentence for the user, where it cannot be made or has nothing to show.
        """
        raise ValueError(f"{type(self).__name__} has nothing to show")
