"""What of a learner runs as programs: acting, gradient steps, and several of both in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from sparserl.experience.base import joined_steps
from sparserl.experience.selection import Ahead, Selection
from sparserl.population.random import MemberRng
from sparserl.terminal import say_once
from sparserl.training.calls import ActingCall, StepCall
from sparserl.training.collecting_call import CollectingCall
from sparserl.training.compiled import Compiled
from sparserl.training.dependencies import CompileError
from sparserl.training.episodes_under_way import EpisodesUnderWay
from sparserl.training.inputs import PartInputs
from sparserl.training.iteration_call import IterationCall
from sparserl.training.learner_state import LearnerState
from sparserl.training.preparing_call import PreparingCall
from sparserl.training.repeated import Repeated, RepeatedCall, can_repeat
from sparserl.training.step import GradientStep
from sparserl.training.step_inputs import StepInputs
from sparserl.training.updates import Updates
from sparserl.training.updates_call import UpdatesCall
from sparserl.types import Action, Batch, Metrics, Rollout, Weights

T = TypeVar("T")


class LearnerPrograms:
    """Those of one learner, if it is to be ``compiled``; once one cannot be, a line says so, and there are none from then on.

    A method that gives None has changed nothing. ``running`` are the weights that act, or None for those of the state without
    noise.
    """

    def __init__(self, step: GradientStep, state: LearnerState, rng: MemberRng, compiled: bool) -> None:
        self._step, self._state, self._rng = step, state, rng
        self.are_used = compiled
        """Whether there may be any."""
        self.updates = 0
        """Gradient steps that were in programs."""
        self._inputs = PartInputs(step.algorithm, step.regularizer)
        # where one sample of the gates is for a rollout the weights that act are made already, without the regulariser
        is_made = step.algorithm.gate_noise == "rollout"
        self._inputs_to_act = PartInputs(step.algorithm) if is_made else self._inputs
        self._steps, self._acting, self._preparing = Compiled(), Compiled(), Compiled()
        self._updates, self._iterations, self._collecting = Repeated(), Repeated(), Repeated()

    def backend(self, updates: int) -> str:
        """How so many gradient steps were run: ``eager``, ``compiled`` or ``mixed``."""
        if self.updates == 0:
            return "eager"
        return "compiled" if self.updates == updates else "mixed"

    def _run(self, run: Callable[[], T]) -> T | None:
        if not self.are_used:
            return None
        try:
            return run()
        except CompileError as error:
            say_once(f"warning: gradient steps and acting run eagerly, since they cannot be compiled: {error}")
            self.are_used = False
            return None

    def step(self, selection: Selection, given: StepInputs, observed: Rollout) -> Metrics | None:
        """A gradient step. Statistics take in what was ``observed``, if anything, before."""
        found = self._run(
            lambda: self._steps(StepCall(self._step, self._inputs, self._state, selection, given, observed), self._rng)
        )
        if found is None:
            return None
        names, (rows,) = found
        self.updates += 1
        return dict(zip(names, rows.unbind(1), strict=True))

    def steps(self, selections: Sequence[Selection], given: StepInputs) -> list[Updates] | None:
        """Gradient steps after the same environment steps, on minibatches that differ in their ``index`` only."""
        if not self.are_used or not can_repeat():
            return None
        call = UpdatesCall(self._step, self._inputs, self._state, selections, given)
        found = self._run(lambda: self._updates.repeat(call, self._rng))
        if found is None:
            return None
        self.updates += len(selections)
        return call.results(found)

    def iterate(
        self, given: Sequence[StepInputs], episodes: EpisodesUnderWay, ahead: Ahead, first: int, rng: MemberRng
    ) -> tuple[Rollout, list[Updates]]:
        """Iterations ``ahead`` from the ``first`` on, by a program or without; how their steps ended."""
        call = IterationCall(self._step, self._inputs, self._state, given, episodes, ahead, first, rng)
        found = call.results(self._repeat(self._iterations, call, self._rng))
        self.updates += len(given) if self.are_used else 0
        return joined_steps([steps for steps, _ in found]), [updates for _, updates in found]

    def collect(
        self, running: Weights | None, episodes: EpisodesUnderWay, steps: int, env_step: int, rng: MemberRng
    ) -> Rollout:
        """So many steps ``[member, time, env, ...]``, by a program or without; ``episodes`` go on with them."""
        call = CollectingCall(self._step, self._inputs_to_act, self._state, running, episodes, steps, env_step)
        return call.result(self._repeat(self._collecting, call, rng))

    def _repeat(self, programs: Repeated, call: RepeatedCall, rng: MemberRng) -> list[tuple[Sequence[str], list[Tensor]]]:
        found = self._run(lambda: programs.repeat(call, rng))
        return call.eagerly(rng) if found is None else found

    def act(self, running: Weights | None, observation: Tensor, env_step: int, rng: MemberRng) -> Action | None:
        """As ``algorithm.act``."""
        found = self._run(
            lambda: self._acting(ActingCall(self._step, self._inputs_to_act, self._state, running, observation, env_step), rng)
        )
        if found is None:
            return None
        names, (action, *extras) = found
        return Action(action, dict(zip(names[1:], extras, strict=True)))

    def prepare(self, running: Weights | None, rollout: Rollout) -> Batch | None:
        """As ``algorithm.prepare``."""
        found = self._run(
            lambda: self._preparing(PreparingCall(self._step, self._inputs_to_act, self._state, running, rollout))
        )
        return None if found is None else dict(zip(*found, strict=True))
