"""Experience replay (Lin 1992): a ring of past transitions for each member, sampled uniformly with replacement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from sparserl.experience.base import Experience
from sparserl.population import Population, State
from sparserl.settings import Count, Steps
from sparserl.types import Batch, Prepare, Transition


@dataclass
class Replay(Experience):
    """The keys are described in ``conf/experience/replay.yaml``."""

    capacity: Annotated[int, Ge(1), Le(2**24)]  # there are 2**24 float32 numbers to draw a place with
    batch_size: Count
    learning_starts: Steps
    update_every: Count

    def begin(self, members: Population) -> None:
        self._uniforms = members.uniforms("replay")
        self._offsets = torch.arange(members.size, device=members.device).unsqueeze(1) * self.capacity
        self._fields: dict[str, Tensor] = {}
        self._seen = 0  # transitions of each member ever given
        self._owed = 0  # environment steps of each member not yet paid for by gradient steps

    @property
    def size(self) -> int:
        """Transitions of each member that can be sampled."""
        return min(self._seen, self.capacity)

    def extend(self, transition: Transition) -> None:
        """Raises ValueError where one step brings more transitions than the ring holds."""
        envs = transition["reward"].shape[1]
        if envs > self.capacity:
            raise ValueError(f"experience.capacity is {self.capacity}, fewer than the {envs} transitions of one step")
        start = self._seen % self.capacity
        head = min(envs, self.capacity - start)  # what fits before the ring's end; the rest goes to its start
        for name, value in transition.items():
            field = self._field(name, value)
            field[:, start : start + head] = value[:, :head]
            if head < envs:
                field[:, : envs - head] = value[:, head:]
        self._seen += envs
        if self._seen > self.learning_starts:
            self._owed += envs

    def batches(self, prepare: Prepare) -> Iterator[Batch]:
        while self._owed >= self.update_every:
            self._owed -= self.update_every
            yield prepare(self._sample())

    def _sample(self) -> Batch:
        index = (self._uniforms.take(self.batch_size) * self.size).long()
        flat = (index + self._offsets).view(-1)
        return {
            name: field.flatten(0, 1).index_select(0, flat).view(*index.shape, *field.shape[2:])
            for name, field in self._fields.items()
        }

    def _field(self, name: str, like: Tensor) -> Tensor:
        if name not in self._fields:
            self._fields[name] = like.new_zeros(like.shape[0], self.capacity, *like.shape[2:])
        return self._fields[name]

    def state_dict(self) -> State:
        return {
            "uniforms": self._uniforms.state_dict(),
            "fields": {name: field[:, : self.size] for name, field in self._fields.items()},
            "seen": self._seen,
            "owed": self._owed,
        }

    def load_state_dict(self, state: State) -> None:
        self._uniforms.load_state_dict(state["uniforms"])
        self._seen, self._owed = state["seen"], state["owed"]
        for name, saved in state["fields"].items():
            self._field(name, saved.to(self._offsets.device))[:, : self.size] = saved
