"""To collect: act, take steps of the environment, and hand on what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparserl.environments.base import Environment, FunctionalEnvironment, VectorEnvironment
from sparserl.experience.base import Experience, ForeseeableExperience
from sparserl.population.random import MemberRng
from sparserl.training.episodes_under_way import EpisodesUnderWay
from sparserl.training.learner_group import LearnerGroup
from sparserl.training.repeated import can_repeat
from sparserl.training.statistics import Clock, Episodes
from sparserl.training.updates import Updates
from sparserl.types import Action

MOST_STEPS = 32
"""In one call of a program. It has a loop, so their number does not change what it takes to compile."""


@dataclass
class Collector:
    """Takes steps in every sub-environment: one by one, or some as one program where all of them can be in it."""

    environment: Environment
    vector: VectorEnvironment
    group: LearnerGroup
    experience: Experience
    episodes: Episodes
    exploration: MemberRng
    clock: Clock
    is_compiled: bool
    """Whether steps are to be in programs. Where a learner has none it takes them by itself, and the others do not change."""
    observation: Tensor = field(init=False)
    """To act on next, ``[member, env, *obs]``; set by whoever begins episodes."""

    def __post_init__(self) -> None:
        self._spec, self._envs = self.environment.spec(), self.vector.shape[1]
        in_programs = self.is_compiled and self.exploration.device.type == "cpu" and can_repeat()
        self._collects = in_programs and self.group.acting_is_fixed
        self._foreseen: ForeseeableExperience | None = None
        if in_programs and self.group.acts_without_noise and isinstance(self.experience, ForeseeableExperience):
            self._foreseen = self.experience if self.experience.learns_each_step(self._envs) else None

    def collect(self, env_step: int, most: int, ends_episodes: bool) -> int:
        """Take steps until there may be something to learn from, ``most`` or fewer; how many they were.

        ``env_step`` is how many environment steps each member has taken before. Where the first of them ``ends_episodes``, it
        is the only one.
        """
        vector = self.vector
        if not (self._collects and isinstance(vector, FunctionalEnvironment)):
            self._step(env_step, ends_episodes)
            return 1
        # if the last of them can be in one program with what is learned after it, it is
        left = self.experience.steps_left(self._envs) - (1 if self._foreseen else 0)
        steps, under_way = min(most, MOST_STEPS, max(1, left)), self._under_way(vector)
        rollout = self.group.collect(under_way, steps, env_step, self.exploration)
        self.clock.lap("acting")
        self.observation = vector.follow(under_way.state, rollout)
        self.experience.extend_by(rollout)
        self.group.observe_all(rollout)
        self.episodes.add_all(rollout)
        return steps

    def iterate(self, env_step: int, most: int) -> tuple[int, list[list[Updates]]]:
        """Take ``most`` steps or fewer as one program that learns after each: how many, or 0, and what gradient steps say."""
        vector, experience = self.vector, self._foreseen
        if experience is None or not isinstance(vector, FunctionalEnvironment) or not experience.is_learning(self._envs):
            return 0, [[] for _ in self.group.learners]
        under_way, ahead = self._under_way(vector), experience.ahead(min(most, MOST_STEPS), self._envs)
        self.clock.lap("replay")
        steps, updates = self.group.iterate(under_way, ahead, env_step, self.exploration)
        self.observation = vector.follow(under_way.state, steps)
        experience.learned(ahead.steps)
        self.episodes.add_all(steps)
        self.clock.lap("update")
        return ahead.steps, updates

    def _under_way(self, vector: FunctionalEnvironment) -> EpisodesUnderWay:
        """The episodes, for a program to go on with."""
        vector.reserve(MOST_STEPS)
        return EpisodesUnderWay(self.environment, vector, vector.snapshot(), self.observation.clone())

    def _step(self, env_step: int, ends_episodes: bool) -> None:
        action = self.group.act(self.observation, env_step, self.exploration)
        taken, broken = self._spec.clip_action(action.action)
        self.clock.lap("acting")
        outcome = self.vector.step(taken)
        self.clock.lap("environment")
        # before anything is learned from it: a nan would be taken for the learner's own
        faults = [*outcome.failures.items()]
        if broken.any():
            faults += [(member, "an action is not a number") for member in broken.nonzero().flatten().tolist()]
        for member, reason in faults:
            self.group.stop(member, reason, env_step + self._envs)
        transition = outcome.transition(self.observation, Action(taken, action.extras))
        if ends_episodes:
            transition["truncated"] = torch.ones_like(outcome.truncated)
        self.experience.extend(transition)
        self.group.observe(transition)
        self.episodes.add(outcome)
        self.observation = outcome.observation
