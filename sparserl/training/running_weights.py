"""The weights that a learner runs: without noise, as they act, and as programs are given them. Computed when asked for."""

from __future__ import annotations

import torch

from sparserl.training.gating import Gating
from sparserl.training.learner_state import LearnerState
from sparserl.training.step import GradientStep
from sparserl.types import Layers, Weights


class RunningWeights:
    """Made of the ``state`` of a learner. None of what it gives is to be changed."""

    def __init__(self, step: GradientStep, state: LearnerState, gating: Gating) -> None:
        self._step, self._state, self._gating = step, state, gating
        self._computed: dict[str, Weights] = {}

    def forget(self) -> None:
        """Called where the state or the noise of the gates has changed."""
        self._computed = {}

    @torch.no_grad()
    def deterministic(self) -> Weights:
        """Every component, the learned ones without noise, targets raw."""
        if "deterministic" not in self._computed:
            weights = self._state.tensors()
            hardened = {c: its.harden(weights[c], self._multipliers()[c]) for c, its in self._step.bound.items()}
            self._computed["deterministic"] = weights | hardened
        return self._computed["deterministic"]

    @torch.no_grad()
    def acting(self) -> Weights:
        """Every component as it acts while training."""
        if self._step.algorithm.gate_noise == "gradient_step":
            return self.deterministic()
        if "acting" not in self._computed:
            self._gating.fix()
            self._computed["acting"] = self._step.running(self._state, self._state.tensors(), self._gating.noise)
        return self._computed["acting"]

    def for_programs(self) -> Weights | None:
        """What acts; None stands for the state without noise."""
        if self._step.algorithm.gate_noise == "gradient_step":
            return None
        if "contiguous" not in self._computed:
            acting = self.acting()
            self._computed["contiguous"] = {
                c: {name: tensor.contiguous() for name, tensor in acting[c].items()} for c in self._step.algorithm.acting
            }
        return self._computed["contiguous"]

    @torch.no_grad()
    def noise_free(self) -> Weights:
        """What runs under gates, components and the targets behind them, without their noise."""
        return self._step.noise_free(self._state, self._multipliers())

    def _multipliers(self) -> dict[str, Layers]:
        """What gates multiply by without noise, by component."""
        if "multipliers" not in self._computed:
            fixed = self._state.fixed_gates
            self._computed["multipliers"] = {
                c: fixed[c].multipliers if c in fixed else self._step.multipliers(self._state, c) for c in self._step.bound
            }
        return self._computed["multipliers"]
