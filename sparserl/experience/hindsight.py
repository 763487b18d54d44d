"""Hindsight experience replay (Andrychowicz et al. 2017, arXiv 1707.01495): learning from goals that were reached by chance.

Goals are exchanged when a minibatch is sampled, so the ring keeps what happened.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from sparserl.experience.replay import Replay
from sparserl.experience.selection import INDEX, Selection
from sparserl.fields import Count
from sparserl.population.members import Population
from sparserl.population.state import State
from sparserl.types import Relabel, Spec, Transition

EPISODE, ACHIEVED = "episode", "achieved_goal"
NOT_LEARNED_FROM = (EPISODE, ACHIEVED)
"""Fields that a batch has no use for."""


@dataclass
class Hindsight(Replay):
    """Of k + 1 sampled transitions k, in the mean, get the achieved goal of a transition of their own episode for a goal.

    It is one at the same time or later, all of them equally likely (the strategy "future"). An episode ends with a transition
    that is terminated or truncated; of the one under way only what was seen so far counts.

    Keys beside those of ``Replay`` (``make docs`` copies them from ``conf/experience/hindsight.yaml``):
        k (integer, at least 1): How many transitions of a minibatch are given another goal for each one that keeps its own: a
            goal that was reached in the same episode, at the same time or later (the strategy "future").
    """

    needs_goals = True
    k: Count

    def check(self, spec: Spec) -> None:
        if self.n_step > 1:
            raise ValueError(f"experience.n_step is {self.n_step}, but goals are exchanged of single steps; set it to 1")

    def begin(self, members: Population, spec: Spec, relabel: Relabel) -> None:
        self.check(spec)
        if spec.goal_size is None:
            raise ValueError("Hindsight needs an environment with goals")
        super().begin(members, spec, relabel)
        self._goal_size, self._relabel = spec.goal_size, relabel
        nothing = torch.zeros(members.size, 0, dtype=torch.int32, device=members.device)
        self._episode = nothing  # [member, env]: the number of the one under way, each sub-environment counts its own
        self._last_step = nothing.unsqueeze(2)  # [member, env, episode]: of each episode that the ring holds, by its number

    def extend(self, transition: Transition) -> None:
        members, envs = transition["reward"].shape
        if not self._seen:
            self._episode = self._episode.new_zeros(members, envs)
            # the ring holds at most so many transitions of one sub-environment, and so at most so many of its episodes
            self._last_step = self._episode.new_zeros(members, envs, self.buffer_size // envs + 1)
        number = (self._episode % self._last_step.shape[2]).long().unsqueeze(2)
        self._last_step.scatter_(2, number, self._seen // envs)
        super().extend(transition | {EPISODE: self._episode})
        self._episode = self._episode + (transition["terminated"] + transition["truncated"] > 0).int()

    def _sample(self) -> Selection:
        selection = super()._sample()
        index, batch = selection.tensors[INDEX], selection.batch()
        to_relabel, place = self._rng.uniform(2, self.batch_size).unbind(1)
        later = self._later(index, batch[EPISODE], place)
        members = torch.arange(len(index), device=index.device).unsqueeze(1)
        assert self._layout is not None
        achieved = self._layout.field(self._rows, ACHIEVED)[members, later]

        reward, terminated = self._relabel(batch[ACHIEVED], achieved)
        relabelled = {"reward": reward, "terminated": terminated}
        for name in ("observation", "next_observation"):
            relabelled[name] = torch.cat([batch[name][..., : -self._goal_size], achieved], dim=-1)
        is_relabelled = to_relabel < self.k / (self.k + 1)
        for name, values in relabelled.items():
            mask = is_relabelled.view(*is_relabelled.shape, *[1] * (values.dim() - 2))
            batch[name] = torch.where(mask, values, batch[name])
        return Selection({name: values for name, values in batch.items() if name not in NOT_LEARNED_FROM})

    def _later(self, index: Int64[Tensor, "member batch"], episode: Tensor, place: Tensor) -> Int64[Tensor, "member batch"]:
        """The row of a transition of the same episode for each row: as far towards the last one as ``place`` in [0, 1) says."""
        envs, episodes = self._last_step.shape[1:]
        newest = self._seen - 1
        number = newest - (newest - index) % self.buffer_size  # of all transitions ever given, counted from 0
        step, env = number // envs, number % envs
        last = self._last_step.flatten(1).gather(1, env * episodes + episode % episodes)
        steps_later = (place * (last - step + 1)).long()
        return (index + steps_later * envs) % self.buffer_size

    def state_dict(self) -> State:
        return super().state_dict() | {"episode": self._episode, "last_step": self._last_step}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        device = self._powers.device
        self._episode, self._last_step = state["episode"].to(device), state["last_step"].to(device).clone()
