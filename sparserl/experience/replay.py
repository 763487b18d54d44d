"""Experience replay (Lin 1992): a ring of past transitions for each member, sampled uniformly with replacement.

Returns over several steps (Sutton 1988; with DQN: Hessel et al. 2018, arXiv 1710.02298) are put together when a minibatch is
sampled, so the ring keeps what happened.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from sparserl.experience.base import ForeseeableExperience
from sparserl.experience.rows import Layout, Rows
from sparserl.experience.selection import INDEX, PLACE, Ahead, Selection
from sparserl.fields import Count, Fraction, Steps
from sparserl.population.members import Population
from sparserl.population.state import State
from sparserl.types import Batch, Prepare, Relabel, Spec, Transition

WAITING_STEPS = 64
"""Steps kept as they came until there is something to sample. Ten steps of one sub-environment take nearly three times
as long to put away one by one as together."""


OF_EACH = "reward", "terminated", "truncated"
AFTER = "next_observation", "terminated", "truncated"
DISCOUNT = "discount"
"""What the value of the state that followed is multiplied by: gamma to the number of steps, 0 after a terminated episode."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The transitions at drawn places of a ring, where ``n_step`` is above 1 with the returns of the steps from there on.

    ``index [member, batch]`` are the places, ``newest []`` is that of the last transition, and ``powers [member, n_step + 1]``
    those of gamma; the other tensors are the rows of the ring.
    """

    layout: Layout
    buffer_size: int
    envs: int
    n_step: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> Batch:
        batch = self._at(tensors, tensors[INDEX], self.layout.names)
        return batch if self.n_step == 1 else batch | self._over_steps(tensors)

    def _at(self, tensors: Mapping[str, Tensor], index: Int64[Tensor, "member _batch"], names: Collection[str]) -> Batch:
        """Some fields of the transitions in these rows of each member's ring."""
        # not len, which is a number of its own kind: a program would have it for ever
        starts = torch.arange(0, index.shape[0] * self.buffer_size, self.buffer_size, device=index.device)
        flat = (index + starts.unsqueeze(1)).view(-1)
        fields = self.layout.some(names)
        fetched = {type_: tensors[type_].flatten(0, 1).index_select(0, flat) for type_ in fields.types}
        return fields.columns({type_: rows.view(*index.shape, -1) for type_, rows in fetched.items()})

    def _over_steps(self, tensors: Mapping[str, Tensor]) -> Batch:
        """The fields that several steps change."""
        index, powers = tensors[INDEX], tensors["powers"]
        later = self.envs * torch.arange(self.n_step, device=index.device)
        ahead = (tensors["newest"] - index).unsqueeze(2)
        ahead = ahead + (ahead < 0) * self.buffer_size  # transitions that were seen after each one, [member, batch, 1]
        places = self._later(index.unsqueeze(2), torch.minimum(later, ahead))  # [member, batch, step]
        is_seen = later <= ahead
        steps = self._at(tensors, places.flatten(1), OF_EACH)
        reward, terminated, truncated = (steps[name].view(places.shape) for name in OF_EACH)
        goes_on = 1 - torch.maximum(terminated, truncated)
        counts = torch.cat([torch.ones_like(goes_on[..., :1]), goes_on[..., :-1].cumprod(dim=2)], dim=2) * is_seen
        # a running sum, since the order in which `sum` adds up may depend on how many members there are
        total = (powers[:, :-1].unsqueeze(1) * counts * reward).cumsum(dim=2)[..., -1]
        number_of_steps = counts.sum(dim=2).long()
        after = self._after(tensors, self._later(index, self.envs * (number_of_steps - 1)))
        return after | {"reward": total, DISCOUNT: powers.gather(1, number_of_steps) * (1 - after["terminated"])}

    def _later(self, index: Int64[Tensor, "..."], transitions: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """The place so many transitions later, fewer than the ring has. A remainder would take several times as long."""
        place = index + transitions
        return place - (place >= self.buffer_size) * self.buffer_size

    def put(self, tensors: Mapping[str, Tensor], transition: Transition, place: Tensor) -> None:
        """Put a step of all sub-environments into the ring, from a ``place`` [] on."""
        places = self._later(place, torch.arange(self.envs, device=place.device))
        for type_, rows in self.layout.rows([transition]).items():
            tensors[type_].index_copy_(1, places, rows)

    def _after(self, tensors: Mapping[str, Tensor], last: Int64[Tensor, "member _batch"]) -> Batch:
        """What is taken from the last of several steps."""
        return self._at(tensors, last, AFTER)


@dataclass
class Replay(ForeseeableExperience):
    """A ring of the last transitions of each member, from which minibatches are drawn.

    With ``n_step`` above 1 a sampled ``reward`` is the discounted sum of the rewards of so many steps, ``next_observation``,
    ``terminated`` and ``truncated`` are those of the last of them, and ``discount`` ``[member, batch]`` goes with it. Steps are
    fewer where the episode ends before, and where nothing later was seen yet. Those after the first were taken by the policy of
    that time, and are not corrected for it.

    Keys (``make docs`` copies them from ``conf/experience/replay.yaml``):
        buffer_size (integer, at least 1): Transitions kept of each member; the oldest are overwritten.
        batch_size (integer, at least 1): Transitions of each member in a minibatch.
        learning_starts (integer, at least 0): Environment steps of each member before the first gradient step.
        train_freq (integer, at least 1): Environment steps of each member, over all its sub-environments, for each gradient
            step. Stable-Baselines3 counts steps of the vector instead: its value times trainer.num_envs.
        n_step (integer, at least 1): Steps whose rewards are added up before the value of the state that followed (Hessel et
            al. 2018); fewer at the end of an episode.
        gamma (number, at least 0, at most 1): Discount of those rewards: that of the algorithm.
    """

    assembly: ClassVar[type[Drawn]] = Drawn
    """How minibatches are made."""

    buffer_size: Count
    batch_size: Count
    learning_starts: Steps
    train_freq: Count
    n_step: Count
    gamma: Fraction

    def begin(self, members: Population, spec: Spec, relabel: Relabel) -> None:
        self._rng = members.rng("replay")
        self._powers = (self.gamma ** torch.arange(self.n_step + 1.0, device=members.device)).repeat(members.size, 1)
        self._layout: Layout | None = None
        self._rows: Rows = {}  # the ring
        self._made: Drawn | None = None
        self._waiting: list[Transition] = []  # steps that are seen but not yet in the ring
        self._seen = 0  # transitions of each member ever given
        self._owed = 0  # environment steps of each member not yet paid for by gradient steps

    @property
    def size(self) -> int:
        """Transitions of each member that can be sampled."""
        return min(self._seen, self.buffer_size)

    def extend(self, transition: Transition) -> None:
        """Raises ValueError where one step brings more transitions than the ring holds."""
        envs = transition["reward"].shape[1]
        if envs > self.buffer_size:
            raise ValueError(f"experience.buffer_size is {self.buffer_size}, fewer than the {envs} transitions of one step")
        if len(self._waiting) == WAITING_STEPS or (len(self._waiting) + 1) * envs > self.buffer_size:
            self._store()
        self._waiting.append(transition)
        self._seen += envs
        if self._seen > self.learning_starts:
            self._owed += envs
        self._envs = envs

    def _store(self) -> None:
        """Put the steps that wait into the ring."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        layout = self._lay_out(waiting[0])
        number = sum(transition["reward"].shape[1] for transition in waiting)
        start = (self._seen - number) % self.buffer_size
        head = min(number, self.buffer_size - start)  # what fits before the ring's end; the rest goes to its start
        for type_, fresh in layout.rows(waiting).items():
            self._rows[type_][:, start : start + head] = fresh[:, :head]
            if head < number:
                self._rows[type_][:, : number - head] = fresh[:, head:]

    def selections(self, prepare: Prepare) -> Iterator[Selection]:
        while self._owed >= self.train_freq:
            self._owed -= self.train_freq
            yield self._sample()

    def steps_left(self, num_envs: int) -> int:
        unpaid = max(0, self.learning_starts - self._seen) // num_envs  # steps for which no gradient step is owed
        return max(1, unpaid + math.ceil((self.train_freq - self._owed) / num_envs))

    def gradient_steps(self, total_steps: int, num_envs: int) -> int:
        return max(0, total_steps - self.learning_starts) // self.train_freq

    def _sample(self) -> Selection:
        self._store()
        index = self._rng.below(self.size, self.batch_size)
        newest = (self._seen - 1) % self.buffer_size
        counted = {"newest": index.new_full((), newest), "powers": self._powers} if self.n_step > 1 else {}
        return Selection({INDEX: index, **counted, **self._rows}, self._drawn())

    def _drawn(self) -> Drawn:
        """How minibatches are made of the ring as it is laid out now: one object, as a Selection asks for."""
        assert self._layout is not None
        if self._made is None:
            self._made = self.assembly(self._layout, self.buffer_size, self._envs, self.n_step)
        return self._made

    def learns_each_step(self, num_envs: int) -> bool:
        # what makes minibatches in another way, or keeps more, does not say ahead what it will do
        is_plain = all(getattr(type(self), name) is getattr(Replay, name) for name in ("_sample", "extend", "selections"))
        return self.train_freq == num_envs and is_plain

    def is_learning(self, num_envs: int) -> bool:
        return self._seen > 0 and self.steps_left(num_envs) == 1

    def ahead(self, steps: int, num_envs: int) -> Ahead:
        self._store()
        self._envs = num_envs
        seen = [self._seen + num_envs * taken for taken in range(steps + 1)]
        index = self._rng.below_each([min(its, self.buffer_size) for its in seen[1:]], self.batch_size)
        each = {PLACE: index.new_tensor([its % self.buffer_size for its in seen[:-1]]), INDEX: index}
        if self.n_step > 1:
            each["newest"] = index.new_tensor([(its - 1) % self.buffer_size for its in seen[1:]])
        fixed = {"powers": self._powers} if self.n_step > 1 else {}
        return Ahead(self._rows, fixed, each, self._drawn())

    def learned(self, steps: int) -> None:
        self._seen += steps * self._envs

    def _lay_out(self, fields: Mapping[str, Tensor]) -> Layout:
        """Make the ring for fields like these, unless there is one."""
        if self._layout is None:
            self._layout = Layout.for_fields(fields)
            self._rows = self._layout.room(self._powers, len(self._powers), self.buffer_size)
        return self._layout

    def _columns(self) -> Mapping[str, Tensor]:
        """The fields of all that the ring holds."""
        held = {type_: rows[:, : self.size] for type_, rows in self._rows.items()}
        return self._layout.columns(held) if self._layout else {}

    def state_dict(self) -> State:
        self._store()
        return {
            "rng": self._rng.state_dict(),
            "fields": self._columns(),
            "seen": self._seen,
            "owed": self._owed,
        }

    def load_state_dict(self, state: State) -> None:
        self._rng.load_state_dict(state["rng"])
        self._seen, self._owed, self._waiting = state["seen"], state["owed"], []
        if not state["fields"]:
            return
        self._lay_out(state["fields"])
        columns = self._columns()
        for name, saved in state["fields"].items():
            columns[name].copy_(saved)
