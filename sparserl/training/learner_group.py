"""Populations that train in one loop: each learns by itself, and for all else their members are one.

To act, to step environments and to store what came of it takes hardly longer for 16 members than for 8. Members of populations
that differ in their regulariser only do these together, and then each learner takes its own members' part of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.population.state import State, split, stack
from sparserl.training.learner import Learner
from sparserl.types import Batch, Layers, Metrics, Weights


class Company:
    """Learners, each with members of its own: the first with the first ones, and so on. ``algorithm`` is of all members."""

    def __init__(self, algorithm: Algorithm, learners: Sequence[Learner]) -> None:
        self.learners = learners
        ends = [0, *accumulate(learner.size for learner in learners)]
        self.rows = [slice(*between) for between in pairwise(ends)]
        """Of each learner, which members are its own."""
        self._places = [(learner, row) for learner in learners for row in range(learner.size)]
        self._algorithm = algorithm
        self._acting: Weights | None = None

    @property
    def all_frozen(self) -> bool:
        """Whether nobody is left who learns."""
        return all(learner.all_frozen for learner in self.learners)

    def place(self, member: int) -> tuple[Learner, int]:
        """The learner of a member, and the member's number there."""
        return self._places[member]

    def update(self, batch: Batch, env_step: int) -> list[Metrics]:
        """One gradient step of every learner; the metrics of each, of its own members."""
        self._acting = None
        own = [{name: values[rows] for name, values in batch.items()} for rows in self.rows] if self.rows[1:] else [batch]
        return [learner.update(part, env_step) for learner, part in zip(self.learners, own, strict=True)]

    def acting_weights(self) -> Weights:
        """What acts: those components of every member, hardened. Kept until the next update: do not change it."""
        if self._acting is None:
            self._acting = self._hardened(self._algorithm.acting)
        return self._acting

    @torch.no_grad()
    def _hardened(self, components: Iterable[str]) -> Weights:
        hardened = [learner.hardened() for learner in self.learners]
        if len(hardened) == 1:
            return {component: hardened[0][component] for component in components}
        return {
            component: {name: torch.cat([weights[component][name] for weights in hardened]) for name in hardened[0][component]}
            for component in components
        }

    def greedy(self, observation: Float[Tensor, "member env *obs"]) -> Tensor:
        """The actions of the hardened policies: what is evaluated."""
        return self._algorithm.greedy(self.acting_weights(), observation)

    def frozen(self) -> list[str | None]:
        """Of each member why it is frozen, or None."""
        return [sentence for learner in self.learners for sentence in learner.frozen()]

    def start_from(self, policies: Sequence[Layers | None]) -> None:
        """Give members the weights of trained policies; None leaves a member as it is."""
        for learner, rows in zip(self.learners, self.rows, strict=True):
            learner.start_from(policies[rows])
        self._acting = None

    def states(self) -> list[State]:
        """Of each member everything that its learner needs to go on."""
        states = [learner.state_dict() for learner in self.learners]
        return [split(state, row) for state, learner in zip(states, self.learners, strict=True) for row in range(learner.size)]

    def load_states(self, states: Sequence[State]) -> None:
        """Go on from the states of all members."""
        for learner, rows in zip(self.learners, self.rows, strict=True):
            learner.load_state_dict(stack(states[rows]))
        self._acting = None
