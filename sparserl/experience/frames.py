"""Replay of stacked images that keeps each plane once: stacks are put together when a minibatch is sampled.

Of a stack of four planes three are those of the step before, and what follows a step is what is seen at the next one. Kept as
they come, transitions take eight times as much memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from sparserl.experience.replay import AFTER, Drawn, Replay
from sparserl.experience.selection import Selection
from sparserl.population.members import Population
from sparserl.population.state import Log, State
from sparserl.types import Batch, Relabel, Spec, Transition

PLANES = "planes"
"""The field that stands for both observations of a transition: the numbers of their planes, and of the one that came last."""

LAST_PLANES = "last_planes"
"""The same of the last of several steps."""

AT_ONCE = 4096
"""Planes that are put into the ring together when a run goes on: 30 MB of 84 x 84 pixels."""

SPARE = 16
"""There is room for one plane more in so many: the first plane of each episode is one that no transition leads to."""


@dataclass(frozen=True, eq=False)
class DrawnPlanes(Drawn):
    """With the numbers of the planes after the last of several steps."""

    def _after(self, tensors: Mapping[str, Tensor], last: Int64[Tensor, "member _batch"]) -> Batch:
        after = self._at(tensors, last, (*AFTER, PLANES))
        return {LAST_PLANES if name == PLANES else name: values for name, values in after.items()}


@dataclass
class Frames(Replay):
    """What ``Replay`` gives, bit for bit, in the memory of one plane for each transition and one or more for each episode.

    Observations are ``[plane, height, width]`` of uint8, the newest plane last. A step must add one plane at the end and drop
    the first, which is checked at each one. The first observation of an episode may be anything: of planes that are equal to
    the one before, as where a stack begins with copies of one image, one is kept.

    Planes of a member are numbered as they come, and plane n lies in row n of a ring, modulo its length. The ring grows where
    episodes are so short that it has to. Planes do not change, so that a checkpoint writes only those that are new since the
    one before.

    Keys (``make docs`` copies them from ``conf/experience/frames.yaml``): those of ``Replay``.
    """

    assembly: ClassVar[type[Drawn]] = DrawnPlanes

    def check(self, spec: Spec) -> None:
        if spec.observation_dtype != torch.uint8 or len(spec.observation_shape) != 3:
            shown = f"{str(spec.observation_dtype).removeprefix('torch.')} {[*spec.observation_shape]}"
            raise ValueError(
                f"frames are stacked images of uint8 [planes, height, width], and observations are {shown}; "
                "choose experience=replay"
            )

    def begin(self, members: Population, spec: Spec, relabel: Relabel) -> None:
        self.check(spec)
        super().begin(members, spec, relabel)
        self._stack, height, width = spec.observation_shape
        shape = self.buffer_size + self.buffer_size // SPARE, height, width
        # one for each member, [plane, height, width]; what was never written to is only reserved, on a CPU
        self._rings = [torch.empty(shape, dtype=torch.uint8, device=members.device) for _ in range(members.size)]
        self._planes_seen = torch.zeros(members.size, dtype=torch.int64, device=members.device)
        self._current = self._planes_seen.new_zeros(members.size, 0, self._stack)  # [member, env, plane]: what is seen next
        self._shown: Tensor | None = None  # its planes themselves

    def extend(self, transition: Transition) -> None:
        """Raises ValueError, too, where a step did not add one plane at the end."""
        seen, following = transition["observation"], transition["next_observation"]
        members, envs = seen.shape[:2]
        self._check_step(seen, following, transition["reward"])
        if self._shown is None:
            self._current, goes_on = self._current.new_zeros(members, envs, self._stack), seen.new_zeros(members, envs).bool()
        else:
            goes_on = (seen == self._shown).flatten(2).all(dim=2)
        is_new = self._new_planes(seen, ~goes_on)
        # the number of each plane where all that are new are counted: one that is not has the number of the one before
        counted = is_new.flatten(1).cumsum(dim=1).view(is_new.shape)
        numbers = self._planes_seen.view(-1, 1, 1) + counted - 1
        numbers[..., :-1] = torch.where(goes_on.unsqueeze(2), self._current, numbers[..., :-1])
        self._store()  # so that what stays in the ring of transitions is there
        self._put(torch.cat([seen, following[:, :, -1:]], dim=2), numbers, is_new)
        rest = {name: values for name, values in transition.items() if name not in ("observation", "next_observation")}
        super().extend(rest | {PLANES: numbers})
        self._current, self._shown = numbers[..., 1:], following

    def _check_step(self, seen: Tensor, following: Tensor, reward: Tensor) -> None:
        """Raises ValueError where planes are not those of the step before; members whose environment failed do not count."""
        wrong = (seen[:, :, 1:] != following[:, :, :-1]).flatten(2).any(dim=2) & ~reward.isnan()
        if wrong.any():
            raise ValueError(
                "experience=frames keeps each plane of stacked images once, but a step of this environment did more than "
                "add one plane at the end; choose experience=replay"
            )

    def _new_planes(self, seen: Tensor, is_first: Bool[Tensor, "member env"]) -> Bool[Tensor, "member env plane"]:
        """Which planes are to be kept: of each observation, and of the one after it the last."""
        is_new = is_first.new_ones(*seen.shape[:3])
        is_new[:, :, 1:] = (seen[:, :, 1:] != seen[:, :, :-1]).flatten(3).any(dim=3)
        return torch.cat([is_new & is_first.unsqueeze(2), is_first.new_ones(*seen.shape[:2], 1)], dim=2)

    def _put(
        self,
        planes: UInt8[Tensor, "member env plane height width"],
        numbers: Int64[Tensor, "member env plane"],
        is_new: Bool[Tensor, "member env plane"],
    ) -> None:
        """Write new planes into the ring, and make it longer where they would overwrite one that is still needed."""
        seen = self._planes_seen
        self._planes_seen = seen + is_new.flatten(1).sum(dim=1)
        needed = (self._planes_seen - self._oldest_needed(numbers)).tolist()
        for member, ring in enumerate(self._rings):
            if needed[member] > len(ring):
                ring = _longer(ring, max(needed[member], len(ring) + len(ring) // SPARE), int(seen[member]))
                self._rings[member] = ring
            rows = is_new[member].view(-1).nonzero().view(-1)
            places = numbers[member].flatten().index_select(0, rows) % len(ring)
            ring.index_copy_(0, places, planes[member].flatten(0, 1).index_select(0, rows))

    def _oldest_needed(self, numbers: Int64[Tensor, "member env plane"]) -> Int64[Tensor, "member"]:
        """The lowest number of a plane that some transition still has after a step whose planes have these ``numbers``.

        Each sub-environment's numbers only increase, so those of its oldest transition that stays are its lowest.
        """
        envs = numbers.shape[1]
        first = max(0, self._seen + envs - self.buffer_size)
        oldest = numbers.flatten(1)
        if self._layout and first < self._seen:
            rows = torch.arange(first, min(first + envs, self._seen), device=numbers.device) % self.buffer_size
            oldest = torch.cat([oldest, self._layout.field(self._rows, PLANES)[:, rows].flatten(1)], dim=1)
        return oldest.amin(dim=1)

    def _sample(self) -> Selection:
        batch = super()._sample().batch()
        numbers = batch.pop(PLANES)
        if LAST_PLANES in batch:
            numbers = torch.cat([numbers[..., :-1], batch.pop(LAST_PLANES)[..., 1:]], dim=2)
        planes = self._planes_of(numbers)
        seen = {"observation": planes[:, :, : self._stack], "next_observation": planes[:, :, -self._stack :]}
        return Selection(seen | batch)

    def _planes_of(self, numbers: Int64[Tensor, "member _batch plane"]) -> UInt8[Tensor, "member _batch plane height width"]:
        flat = numbers.flatten(1)
        found = [ring.index_select(0, its % len(ring)) for ring, its in zip(self._rings, flat, strict=True)]
        return torch.stack(found).view(*numbers.shape, *found[0].shape[1:])

    # ------------------------------------------------------------ checkpoints

    def state_dict(self) -> State:
        planes = [
            Log(max(0, seen - len(ring)), seen, partial(_rows, ring))
            for ring, seen in zip(self._rings, self._planes_seen.tolist(), strict=True)
        ]
        return super().state_dict() | {
            "planes": tuple(planes),
            "lengths": torch.tensor([len(ring) for ring in self._rings]),
            "planes_seen": self._planes_seen,
            "current": self._current,
        }

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        device = self._planes_seen.device
        self._planes_seen, self._current = state["planes_seen"].to(device), state["current"].to(device)
        for member, (planes, length) in enumerate(zip(state["planes"], state["lengths"].tolist(), strict=True)):
            if length != len(self._rings[member]):
                self._rings[member] = self._rings[member].new_empty(length, *self._rings[member].shape[1:])
            for first in range(planes.first, planes.end, AT_ONCE):
                end = min(first + AT_ONCE, planes.end)
                numbers = torch.arange(first, end, device=device)
                self._rings[member][numbers % length] = planes.read(first, end).to(device)
        self._shown = self._planes_of(self._current) if self._seen else None


def _rows(ring: UInt8[Tensor, "_length height width"], first: int, end: int) -> UInt8[Tensor, "_row height width"]:
    """The planes of these numbers."""
    return ring[torch.arange(first, end, device=ring.device) % len(ring)]


def _longer(ring: UInt8[Tensor, "_old height width"], length: int, seen: int) -> UInt8[Tensor, "_new height width"]:
    """A longer ring with what this one holds after ``seen`` planes."""
    longer = ring.new_empty(length, *ring.shape[1:])
    numbers = torch.arange(max(0, seen - len(ring)), seen, device=ring.device)
    longer[numbers % length] = ring[numbers % len(ring)]
    return longer
