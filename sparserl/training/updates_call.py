"""The gradient steps on one rollout as one program."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparserl.experience.selection import INDEX, Selection
from sparserl.population.random import MemberRng
from sparserl.training.calls import StepCall
from sparserl.training.compiled import Counters, Number, RecordedDraws
from sparserl.training.inputs import PartInputs
from sparserl.training.learner_state import LearnerState
from sparserl.training.repeated import Outputs, RepeatedCall
from sparserl.training.step import GradientStep
from sparserl.training.step_inputs import StepInputs
from sparserl.training.updates import Updates
from sparserl.types import Time


class UpdatesCall(RepeatedCall, StepCall):
    """Gradient steps after the same environment steps, on minibatches that differ in their ``index`` only."""

    what = "gradient steps"

    def __init__(
        self,
        step: GradientStep,
        inputs: PartInputs,
        state: LearnerState,
        selections: Sequence[Selection],
        given: StepInputs,
    ) -> None:
        StepCall.__init__(self, step, inputs, state, selections[0], given, {})
        self._place = self._selected_at + [*selections[0].tensors].index(INDEX)
        self.stacks = [torch.stack([its.tensors[INDEX] for its in selections])]
        self.tensors = [*self.tensors[: self._place], *self.tensors[self._place + 1 :], self.stacks[0][0]]
        first, at = given.scalars.time, given.scalars.time.step
        taken = [first, *(Time(at, at, first.update + later) for later in range(1, len(selections)))]
        self.times = [self._counters(its) for its in taken]

    def numbers_of(self, times: slice) -> list[list[float]]:
        return [self._numbers(self._scalars, later) for later, _ in enumerate(self.times[times])]

    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws | MemberRng,
        counters: Counters,
        numbers: Sequence[Number],
    ) -> tuple[list[str], list[Tensor]]:
        *others, index = tensors
        return super().run([*others[: self._place], index, *others[self._place :]], draws, counters, numbers)

    def results(self, found: Sequence[Outputs]) -> list[Updates]:
        """What the gradient steps say, from what the calls have given."""
        return [Updates(names, rows, [self.counters["step"]] * len(rows)) for names, (rows,) in found]
