"""Acting and the environment as one program: some steps of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparserl.population.random import MemberRng
from sparserl.training.calls import ActingCall
from sparserl.training.compiled import Counters, Number, RecordedDraws
from sparserl.training.episodes_under_way import EpisodesUnderWay
from sparserl.training.inputs import PartInputs
from sparserl.training.learner_state import LearnerState
from sparserl.training.repeated import Outputs, RepeatedCall
from sparserl.training.step import GradientStep
from sparserl.types import Rollout, Weights


class CollectingCall(RepeatedCall, ActingCall):
    """So many steps of acting and of the environment, which change the episodes and their observation."""

    what = "acting and the environment"
    stacks = ()

    def __init__(
        self,
        step: GradientStep,
        inputs: PartInputs,
        state: LearnerState,
        running: Weights | None,
        episodes: EpisodesUnderWay,
        steps: int,
        env_step: int,
    ) -> None:
        ActingCall.__init__(self, step, inputs, state, running, episodes.observation, env_step)
        self._episodes = episodes
        moving = [*episodes.moving.values(), episodes.observation]
        self.tensors, self.changed = [*moving, *episodes.kept.values(), *self.tensors[:-1]], len(moving)
        self.times = [{"step": env_step + number * episodes.envs} for number in range(steps)]

    def key(self) -> tuple[Any, ...]:
        return *super().key(), *self._episodes.key()

    def parts(self) -> list[Any]:
        return [*super().parts(), *self._episodes.parts()]

    def numbers_of(self, times: slice) -> list[list[float]]:
        return [self._inputs.numbers(its["step"]) for its in self.times[times]]

    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws | MemberRng,
        counters: Counters,
        numbers: Sequence[Number],
    ) -> tuple[list[str], list[Tensor]]:
        rest = iter(tensors)
        moving, observation = {name: next(rest) for name in self._episodes.moving}, next(rest)
        kept = {name: next(rest) for name in self._episodes.kept}
        weights, inputs, seen = self._given([*rest, observation], numbers)
        action = self._act(weights, inputs, seen, counters["step"], numbers, draws)
        with torch.no_grad():
            following, result = self._episodes.environment.advance(moving | kept, action.action)
            # observations are changed below, and some fields may be one tensor
            transition = {name: its.clone() for name, its in result.transition(seen, action).items()}
            self._episodes.move(moving, observation, following, result)
        return list(transition), list(transition.values())

    def result(self, found: Sequence[Outputs]) -> Rollout:
        """The steps ``[member, time, env, ...]``, from what the calls have given."""
        pieces = [dict(zip(names, tensors, strict=True)) for names, tensors in found]
        return {name: torch.cat([piece[name] for piece in pieces]).transpose(0, 1) for name in pieces[0]}
