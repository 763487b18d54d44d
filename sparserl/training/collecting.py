"""To collect: act, take steps of the environment, and hand on what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparserl.environments.base import Environment, FunctionalEnvironment, VectorEnvironment
from sparserl.experience.base import Experience
from sparserl.population.random import MemberRng
from sparserl.training.collecting_call import EpisodesUnderWay
from sparserl.training.learner_group import LearnerGroup
from sparserl.training.statistics import Clock, Episodes
from sparserl.types import Action

MOST_STEPS = 8
"""In one program. A step of PPO on CartPole takes 28 us with 4 of them, 21 us with 8, and 55 us if acting alone is a program.
To compile one of 4 takes 24 s of CPU time, of 8 33 s, of 16 more than 220 s."""


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
        in_programs = self.is_compiled and self.group.acting_is_fixed and self.exploration.device.type == "cpu"
        self._most = min(MOST_STEPS, self.experience.steps_between(self._envs)) if in_programs else 1

    def collect(self, env_step: int, most: int, ends_episodes: bool) -> int:
        """Take steps until there may be something to learn from, ``most`` or fewer; how many they were.

        ``env_step`` is how many environment steps each member has taken before. Where the first of them ``ends_episodes``, it
        is the only one.
        """
        vector = self.vector
        if self._most == 1 or not isinstance(vector, FunctionalEnvironment):
            self._step(env_step, ends_episodes)
            return 1
        steps = min(most, self._most, self.experience.steps_left(self._envs))
        vector.reserve(self._most)
        under_way = EpisodesUnderWay(self.environment, vector, vector.snapshot(), self.observation)
        rollout = self.group.collect(under_way, steps, self._most, env_step, self.exploration)
        self.clock.lap("acting")
        self.observation = vector.follow(under_way.state, rollout)
        self.experience.extend_by(rollout)
        self.group.observe_all(rollout)
        self.episodes.add_all(rollout)
        return steps

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
