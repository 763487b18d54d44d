"""Whole iterations as one program: acting, a step of the environment, and the gradient step that follows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sparserl.experience.selection import PLACE, Ahead, Selection
from sparserl.population.random import MemberRng
from sparserl.training.calls import StepCall, noise_free, with_inputs
from sparserl.training.compiled import Counters, Number, RecordedDraws
from sparserl.training.episodes_under_way import EpisodesUnderWay
from sparserl.training.inputs import PartInputs
from sparserl.training.learner_state import LearnerState
from sparserl.training.repeated import Outputs, RepeatedCall
from sparserl.training.step import GradientStep
from sparserl.training.step_inputs import StepInputs
from sparserl.training.updates import Updates
from sparserl.types import Rollout

ACTS_AT = "acts_at"
"""The counter of environment steps when an action is chosen."""

ENDS = "reward", "terminated", "truncated"
"""What of each transition is given beside the metrics of the gradient step."""

EXPLORATION = "exploration"
"""The stream of the random numbers that are drawn to act."""


class IterationCall(RepeatedCall, StepCall):
    """Iterations ``ahead``, from the one with number ``first`` on: one for each gradient step that something is ``given`` for.

    They change the state of the learner, the episodes and their observation, and put transitions where they are ``stored``.
    """

    what = "acting, the environment and the gradient step"

    def __init__(
        self,
        step: GradientStep,
        inputs: PartInputs,
        state: LearnerState,
        given: Sequence[StepInputs],
        episodes: EpisodesUnderWay,
        ahead: Ahead,
        first: int,
        exploration: MemberRng,
    ) -> None:
        self._episodes, self._ahead, self.streams = episodes, ahead, {EXPLORATION: exploration}
        each = {name: tensor[first : first + len(given)].contiguous() for name, tensor in ahead.each.items()}
        selection = Selection({**ahead.fixed, **{name: its[0] for name, its in each.items()}}, ahead.store)
        StepCall.__init__(self, step, inputs, state, selection, given[0], {})
        self.stacks = [*each.values(), *map(torch.stack, zip(*(its.tensors() for its in given), strict=True))]
        moving = [*episodes.moving.values(), episodes.observation, *ahead.stored.values()]
        self._of_step, self._of_episodes = self.changed, len(moving) + len(episodes.kept)
        here = [*moving, *episodes.kept.values()]
        self.tensors = [*self.tensors[: self._of_step], *here, *self.tensors[self._of_step :]]
        self.changed += len(moving)
        self._all = given
        self.times = [{**self._counters(its.scalars.time), ACTS_AT: its.scalars.time.step - episodes.envs} for its in given]
        self.counters, (self.numbers,) = self.times[0], self.numbers_of(slice(0, 1))
        self.signature = self.signature, episodes.observation.shape[1:], tuple(ahead.stored)

    def numbers_of(self, times: slice) -> list[list[float]]:
        both = zip(self._all[times], self.times[times], strict=True)
        return [
            [*self._numbers(its.scalars, later), *self._inputs.numbers(counters[ACTS_AT])]
            for later, (its, counters) in enumerate(both)
        ]

    def key(self) -> tuple[Any, ...]:
        return *super().key(), *self._episodes.key()

    def parts(self) -> list[Any]:
        return [*super().parts(), *self._episodes.parts()]

    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws | MemberRng,
        counters: Counters,
        numbers: Sequence[Number],
    ) -> tuple[list[str], list[Tensor]]:
        end = self._of_step + self._of_episodes
        here = iter(tensors[self._of_step : end])
        moving, observation = {name: next(here) for name in self._episodes.moving}, next(here)
        stored = {name: next(here) for name in self._ahead.stored}
        state = moving | dict(zip(self._episodes.kept, here, strict=True))
        given = self._given([*tensors[: self._of_step], *tensors[end:]], counters, numbers)
        acts = with_inputs(self._step, self._inputs, iter(given.inputs), iter(given.others))
        with torch.no_grad():
            weights = given.state.tensors() | noise_free(acts, given.state)
            action = acts.algorithm.act(weights, observation, counters[ACTS_AT], self.stream(EXPLORATION, draws))  # type: ignore[arg-type]
            following, result = self._episodes.environment.advance(state, action.action)
            transition = result.transition(observation, action)
            place = given.selected[PLACE]
            self._ahead.store.put(stored, transition, place)
            batch = self._ahead.store({**stored, **given.selected})
        observed = {name: its.unsqueeze(1) for name, its in transition.items()} if acts.algorithm.observes else {}
        names, (rows,) = self._learn(given, batch, observed, draws)
        with torch.no_grad():
            ends = [transition[name].clone() for name in ENDS]
            self._episodes.move(moving, observation, following, result)
        return [*ENDS, *names], [*ends, rows]

    def results(self, found: Sequence[Outputs]) -> list[tuple[Rollout, Updates]]:
        """How the steps ended, ``[member, time, env]``, and what the gradient steps say, from what the calls have given."""
        steps, results = iter(self.times), list[tuple[Rollout, Updates]]()
        for names, (*ends, rows) in found:
            rollout = {name: its.transpose(0, 1) for name, its in zip(ENDS, ends, strict=True)}
            env_steps = [counters["step"] for counters in islice(steps, len(rows))]
            results.append((rollout, Updates(names[len(ENDS) :], rows, env_steps)))
        return results
