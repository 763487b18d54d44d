"""Experience replay (Lin 1992): a ring of past transitions for each member, sampled uniformly with replacement.

A transition is one row of bytes, whatever its fields are: it is fetched in one or two cache lines, and fetching is most
of what sampling costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from jaxtyping import Shaped, UInt8
from torch import Tensor

from sparserl.experience.base import Experience
from sparserl.population import Population, State
from sparserl.settings import Count, Steps
from sparserl.types import Batch, Prepare, Transition

ALIGNMENT = 8
"""Bytes: the widest number that there is."""


@dataclass(frozen=True)
class Field:
    """Where a field lies in each row, from byte ``start`` on."""

    start: int
    dtype: torch.dtype
    shape: torch.Size

    def of(self, rows: UInt8[Tensor, "member row byte"]) -> Shaped[Tensor, "member row *field"]:
        """The field of every row: a view."""
        end = self.start + self.shape.numel() * self.dtype.itemsize
        return rows[..., self.start : end].view(self.dtype).view(*rows.shape[:2], *self.shape)


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
        self._fields: dict[str, Field] = {}
        self._ring = torch.empty(members.size, self.capacity, 0, dtype=torch.uint8, device=members.device)
        self._latest = self._ring[:, :0]  # the rows of one step of every sub-environment
        self._latest_columns: dict[str, Tensor] = {}
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
        self._lay_out(transition)
        if self._latest.shape[1] != envs:
            self._latest = self._ring.new_zeros(len(self._ring), envs, self._ring.shape[2])
            self._latest_columns = self._columns_of(self._latest)
        # small copies into a place of their own, then one into the ring: its slices take longer to make than to fill
        for name, column in self._latest_columns.items():
            column.copy_(transition[name])
        self._ring[:, start : start + head] = self._latest[:, :head]
        if head < envs:
            self._ring[:, : envs - head] = self._latest[:, head:]
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
        rows = self._ring.flatten(0, 1).index_select(0, flat).view(*index.shape, -1)
        return self._columns_of(rows)

    def _columns_of(self, rows: UInt8[Tensor, "member row byte"]) -> dict[str, Tensor]:
        return {name: field.of(rows) for name, field in self._fields.items()}

    def _lay_out(self, fields: Mapping[str, Tensor]) -> None:
        """Make the ring for fields like these, unless there is one."""
        if self._fields:
            return
        start = 0
        places = {}
        for name, value in sorted(fields.items(), key=lambda item: -item[1].element_size()):  # so that all are aligned
            shape = value.shape[2:]
            places[name] = Field(start, value.dtype, shape)
            start += shape.numel() * value.element_size()
        self._fields = {name: places[name] for name in fields}
        width = -(-start // ALIGNMENT) * ALIGNMENT
        self._ring = self._ring.new_zeros(*self._ring.shape[:2], width)

    def state_dict(self) -> State:
        return {
            "uniforms": self._uniforms.state_dict(),
            "fields": self._columns_of(self._ring[:, : self.size]),
            "seen": self._seen,
            "owed": self._owed,
        }

    def load_state_dict(self, state: State) -> None:
        self._uniforms.load_state_dict(state["uniforms"])
        self._seen, self._owed = state["seen"], state["owed"]
        self._lay_out(state["fields"])
        columns = self._columns_of(self._ring[:, : self.size])
        for name, saved in state["fields"].items():
            columns[name].copy_(saved)
