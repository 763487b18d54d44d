"""Rollouts: what the present policy did, learned from for some epochs and then dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparserl.experience.base import Experience, joined_steps
from sparserl.experience.selection import INDEX, Selection
from sparserl.fields import Count
from sparserl.population.members import Population
from sparserl.population.state import State
from sparserl.types import Batch, Prepare, Relabel, Spec, Transition
from sparserl.types import Rollout as Steps


@dataclass(frozen=True)
class Picked:
    """Each member's rows of a rollout ``[member, row, ...]``, as its own part of ``index`` ``[member, rows]`` says."""

    def __call__(self, tensors: Mapping[str, Tensor]) -> Batch:
        index = tensors[INDEX]
        members = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        return {name: values[members, index] for name, values in tensors.items() if name != INDEX}


@dataclass
class Rollout(Experience):
    """Collects ``n_steps`` steps of every sub-environment, then gives all of them in minibatches, ``n_epochs`` times.

    The order is drawn anew for each epoch and member.

    Keys (``make docs`` copies them from ``conf/experience/rollout.yaml``):
        n_steps (integer, at least 1): Steps of every sub-environment in a rollout: with trainer.num_envs sub-environments it
            holds n_steps * num_envs transitions.
        n_epochs (integer, at least 1): How often all transitions of a rollout are learned from.
        batch_size (integer, at least 1 or ``null``): Transitions of each member in a minibatch; null takes all of a rollout.
    """

    n_steps: Count
    n_epochs: Count
    batch_size: Count | None

    def begin(self, members: Population, spec: Spec, relabel: Relabel) -> None:
        self._rng = members.rng("minibatches")
        self._pieces: list[Steps] = []
        self._picked = Picked()

    @property
    def rollout_begins(self) -> bool:
        return not self._pieces

    def extend(self, transition: Transition) -> None:
        self.extend_by({name: its.unsqueeze(1) for name, its in transition.items()})

    def extend_by(self, rollout: Steps) -> None:
        self._pieces.append(rollout)

    @property
    def _size(self) -> int:
        """Steps so far."""
        return sum(piece["reward"].shape[1] for piece in self._pieces)

    def steps_left(self, num_envs: int) -> int:
        return self.n_steps - self._size

    def selections(self, prepare: Prepare) -> Iterator[Selection]:
        """The last minibatch of an epoch is smaller where ``batch_size`` does not divide the rollout; None is its size."""
        if self._size < self.n_steps:
            return
        pieces, self._pieces = self._pieces, []
        with torch.no_grad():
            batch = prepare(joined_steps(pieces))
        size = next(iter(batch.values())).shape[1]
        for _ in range(self.n_epochs):
            order = self._rng.uniform(size).argsort(dim=1, stable=True)
            for index in order.split(self.batch_size or size, dim=1):
                yield Selection(batch | {INDEX: index}, self._picked)

    def gradient_steps(self, total_steps: int, num_envs: int) -> int:
        size = self.n_steps * num_envs
        return total_steps // size * self.n_epochs * -(-size // (self.batch_size or size))

    def state_dict(self) -> State:
        """With the steps of a rollout under way."""
        steps = [joined_steps(self._pieces)] if self._pieces else []
        return {"rng": self._rng.state_dict(), "steps": steps}

    def load_state_dict(self, state: State) -> None:
        self._rng.load_state_dict(state["rng"])
        device = self._rng.device
        self._pieces = [{name: value.to(device) for name, value in piece.items()} for piece in state["steps"]]
