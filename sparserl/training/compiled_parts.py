"""What of a learner runs as programs: gradient steps, acting, acting with the environment, and what is made of rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparserl.experience.selection import Selection
from sparserl.population.random import MemberRng
from sparserl.training.calls import ActingCall, StepCall
from sparserl.training.collecting_call import CollectingCall, EpisodesUnderWay
from sparserl.training.compiled import Compiled
from sparserl.training.inputs import PartInputs
from sparserl.training.learner_state import LearnerState
from sparserl.training.preparing_call import PreparingCall
from sparserl.training.step import GradientStep, Scalars
from sparserl.types import Action, Batch, Metrics, Noise, Rollout, Weights


@dataclass(frozen=True)
class CompiledParts:
    """What of a learner runs as programs."""

    step: CompiledStep
    act: CompiledActing
    collect: CompiledCollecting
    prepare: CompiledPreparing

    @classmethod
    def of(cls, step: GradientStep) -> CompiledParts:
        """Those of the learner that takes such steps."""
        return cls(CompiledStep(step), CompiledActing(step), CompiledCollecting(step), CompiledPreparing(step))


class _Programs:
    """Those that a GradientStep's parts make for one kind of call."""

    def __init__(self, step: GradientStep) -> None:
        self._step, self._compiled = step, Compiled()
        self._inputs = PartInputs(step.algorithm, step.regularizer)


class CompiledStep(_Programs):
    """A GradientStep as programs."""

    def __call__(
        self,
        state: LearnerState,
        selection: Selection,
        scalars: Scalars,
        noise: Mapping[str, Noise],
        with_noise_free: bool,
        observed: Rollout,
        rng: MemberRng,
    ) -> Metrics:
        """As GradientStep, which see; ``with_noise_free`` says whether components without noise are needed.

        Statistics take in what was ``observed``, if anything, before. Raises CompileError, before anything has changed, where
        there is no program and none can be made.
        """
        call = StepCall(self._step, self._inputs, state, selection, scalars, noise, with_noise_free, observed)
        names, (rows,) = self._compiled(call, rng)
        return dict(zip(names, rows.unbind(0), strict=True))


class _ActingPrograms(_Programs):
    """Those that are given weights, which are made already where one sample of the gates is for a rollout."""

    def __init__(self, step: GradientStep) -> None:
        super().__init__(step)
        if step.algorithm.gate_noise == "rollout":
            self._inputs = PartInputs(step.algorithm)


class CompiledActing(_ActingPrograms):
    """What an algorithm does to act, as programs."""

    def __call__(self, state: LearnerState, running: Weights | None, observation: Tensor, step: int, rng: MemberRng) -> Action:
        """As ``algorithm.act`` with the weights that are ``running``, or None for those of the state without noise.

        Raises as CompiledStep does.
        """
        names, (action, *extras) = self._compiled(ActingCall(self._step, self._inputs, state, running, observation, step), rng)
        return Action(action, dict(zip(names[1:], extras, strict=True)))


class CompiledCollecting(_ActingPrograms):
    """Acting and the environment, some steps at once, as programs."""

    def __call__(
        self,
        state: LearnerState,
        running: Weights | None,
        episodes: EpisodesUnderWay,
        steps: int,
        most: int,
        step: int,
        rng: MemberRng,
    ) -> Rollout:
        """So many steps ``[member, time, env, ...]``; the state of ``episodes`` is then the one that follows.

        No more than ``most`` are asked for, which is a number of the program. Weights are as for CompiledActing. Raises as
        CompiledStep does.
        """
        call = CollectingCall(self._step, self._inputs, state, running, episodes, steps, most, step)
        names, tensors = self._compiled(call, rng)
        return {name: its[:, :steps] for name, its in zip(names, tensors, strict=True)}


class CompiledPreparing(_ActingPrograms):
    """What an algorithm makes of a rollout, as programs."""

    def __call__(self, state: LearnerState, running: Weights | None, rollout: Rollout) -> Batch:
        """As ``algorithm.prepare``; weights are as for CompiledActing. Raises as CompiledStep does."""
        call = PreparingCall(self._step, self._inputs, state, running, rollout)
        names, tensors = self._compiled(call)
        return dict(zip(names, tensors, strict=True))
