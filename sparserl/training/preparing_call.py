"""What is to be learned from a rollout, advantages say, as a program."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparserl.population.random import MemberRng
from sparserl.training.calls import ActingCall
from sparserl.training.compiled import Counters, Number, RecordedDraws
from sparserl.training.inputs import PartInputs
from sparserl.training.learner_state import LearnerState
from sparserl.training.step import GradientStep
from sparserl.types import Rollout, Weights


class PreparingCall(ActingCall):
    """What an algorithm makes of one rollout, with the weights that acted."""

    what = "what is learned from a rollout"

    def __init__(
        self, step: GradientStep, inputs: PartInputs, state: LearnerState, running: Weights | None, rollout: Rollout
    ) -> None:
        self._others = [name for name in rollout if name != "observation"]
        super().__init__(step, inputs, state, running, rollout["observation"], env_step=0)  # which nothing here depends on
        self.tensors = [*(rollout[name].contiguous() for name in self._others), *self.tensors]
        self.signature = self.signature, tuple(self._others)

    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws | MemberRng,
        counters: Counters,
        numbers: Sequence[Number],
    ) -> tuple[list[str], list[Tensor]]:
        others = dict(zip(self._others, tensors, strict=False))
        weights, inputs, observation = self._given(tensors[len(others) :], numbers)
        step = self._with_inputs(inputs, numbers)
        with torch.no_grad():
            batch = step.algorithm.prepare(weights, others | {"observation": observation})
        return list(batch), list(batch.values())
