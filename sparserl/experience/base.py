"""The contract between collecting and learning.

An experience takes the transitions of every step and decides when there is something to learn from them, and in which
minibatches: replay samples, a rollout is cut up for some epochs and then emptied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch

from sparserl.experience.selection import Ahead, Selection
from sparserl.population.members import Population
from sparserl.population.state import State
from sparserl.types import Prepare, Relabel, Rollout, Spec, Transition


def joined_steps(pieces: Sequence[Rollout]) -> Rollout:
    """Consecutive steps as one rollout."""
    return {name: torch.cat([piece[name] for piece in pieces], dim=1) for name in pieces[0]}


class Experience(ABC):
    """A dataclass whose fields are the keys of ``conf/experience/<name>.yaml``."""

    needs_goals: ClassVar[bool] = False
    """Whether it is for environments with goals only."""

    @property
    def rollout_begins(self) -> bool:
        """Whether the next step is the first of a rollout: never where there are none."""
        return False

    def check(self, spec: Spec) -> None:
        """Raises ValueError, in a sentence for the user, where it cannot keep what such an environment shows."""
        return

    @abstractmethod
    def begin(self, members: Population, spec: Spec, relabel: Relabel) -> None:
        """Be empty, and draw from the generators of these members from now on.

        ``spec`` and ``relabel`` are their environment's. Raises ValueError like ``check``, and where that has no goals and they
        are needed.
        """

    @abstractmethod
    def extend(self, transition: Transition) -> None:
        """Take one step of every sub-environment. Its tensors may be kept: they must not be changed afterwards."""

    def extend_by(self, rollout: Rollout) -> None:
        """Take consecutive steps ``[member, time, env, ...]``."""
        for number in range(rollout["reward"].shape[1]):
            self.extend({name: its[:, number] for name, its in rollout.items()})

    def steps_left(self, num_envs: int) -> int:
        """After how many more steps the next occasion is, 1 or more; 1 where that is not known."""
        return 1

    @abstractmethod
    def selections(self, prepare: Prepare) -> Iterator[Selection]:
        """What the minibatches that are due now are made from, one for each gradient step; often none.

        Rollouts go through ``prepare`` first. Each is to be used before the next one is asked for, but those of one rollout.
        """

    def gradient_steps(self, total_steps: int, num_envs: int) -> int:
        """About how many minibatches ``total_steps`` environment steps of each member give; 0 where that is not known."""
        return 0

    @abstractmethod
    def state_dict(self) -> State:
        """Everything needed to go on."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Go on from a state, after ``begin``."""


class ForeseeableExperience(Experience):
    """One that can say what minibatches are made from before the steps are taken after which they are due."""

    @abstractmethod
    def learns_each_step(self, num_envs: int) -> bool:
        """Whether there is one minibatch after each step, once there is any, and ``ahead`` can say what it is made from."""

    @abstractmethod
    def is_learning(self, num_envs: int) -> bool:
        """Whether the next step is one of those, and ``ahead`` can be asked."""

    @abstractmethod
    def ahead(self, steps: int, num_envs: int) -> Ahead:
        """What minibatches after each of the next steps are made from. Where they were taken ``learned`` is to be called."""

    @abstractmethod
    def learned(self, steps: int) -> None:
        """Called where so many steps were taken, put where ``ahead`` says, and learned from."""
