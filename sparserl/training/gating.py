"""When the gates of a learner are active, under which noise they run, and what they are fixed at while they are not."""

from __future__ import annotations

import torch

from sparserl.population.random import Generators
from sparserl.population.state import State, on_device
from sparserl.training.learner_state import FixedGates, LearnerState, replace
from sparserl.training.step import GradientStep
from sparserl.training.step_inputs import StepInputs, scalars_of
from sparserl.types import Noise, Time


class Gating:
    """The gates of all components of one learner, which are in its ``state``."""

    def __init__(self, step: GradientStep, state: LearnerState, generators: Generators, for_programs: bool = False) -> None:
        self._step, self._state, self._generators, self._for_programs = step, state, generators, for_programs
        self.are_active = False
        self.noise: dict[str, Noise] = {}
        """By component, while gates are active."""
        self._scheduled_at = -1  # the environment steps after which gates were set by their schedule

    def draw(self, env_step: int) -> None:
        """Whether gates are active after so many environment steps, and their noise; or what they are fixed at."""
        state = self._state
        self._schedule(env_step)
        self.are_active = self._step.regularizer.gates_active(env_step)
        self.noise = {}
        if self.are_active:
            state.fixed_gates = {}
            bound = self._step.bound
            self.noise = {c: bound[c].noise(its.views, self._generators, env_step) for c, its in state.gates.items()}
        else:
            self.fix()

    def inputs_of_step(self, time: Time) -> StepInputs:
        """What a gradient step is given, with new noise where one sample of the gates is for one step."""
        step, needs_noise_free = self._step, self.needs_noise_free(time.step)
        if step.algorithm.gate_noise == "gradient_step" and self._state.gates:
            self.draw(time.step)
        scalars = scalars_of(step.algorithm, step.regularizer, step.bound, time, self.are_active)
        return StepInputs(scalars, self.noise, needs_noise_free)

    def needs_noise_free(self, env_step: int) -> bool:
        """Whether a gradient step needs components without noise beside those that run under it."""
        of_each_step = self._step.algorithm.gate_noise == "gradient_step"
        return of_each_step and bool(self._state.gates) and self._step.regularizer.gates_active(env_step)

    def changes_at(self, env_step: int) -> bool:
        """Whether ``draw`` would change more than the noise after so many environment steps."""
        if not self._state.gates:
            return False
        regularizer = self._step.regularizer
        return regularizer.is_due(self._scheduled_at, env_step) or regularizer.gates_active(env_step) != self.are_active

    def finish(self, env_step: int) -> None:
        """Called once, when training ends: the gates become those of the trained policy."""
        self._schedule(env_step, ends=True)

    @torch.no_grad()
    def _schedule(self, env_step: int, ends: bool = False) -> None:
        """Set the gates by their schedule, at the last call as training ``ends``, but not in members that were stopped."""
        previous, self._scheduled_at = self._scheduled_at, env_step
        for component, its in self._state.gates.items():
            regularizer = self._step.bound[component]
            due = regularizer.finished if ends else regularizer.scheduled
            gates = due(self._state.weights[component].views, its.views, previous, env_step)
            if replace(its.views, gates, self._state.learns):
                self._state.fixed_gates = {}

    @torch.no_grad()
    def fix(self) -> None:
        """Compute what is made of gates that are not active, unless it is known."""
        if self.are_active or self._state.fixed_gates:
            return
        for component, gates in self._state.gates.items():
            multipliers = self._step.multipliers(self._state, component)
            # a program is given all of them: that of the time before gates move is then also that of the time after
            needed = {name: its for name, its in multipliers.items() if self._for_programs or not (its == 1).all()}
            regularizer = self._step.bound[component]
            term = regularizer.summands()[regularizer.gated or ""]
            penalty = term.penalty(self._state.weights[component].views, gates.views)
            self._state.fixed_gates[component] = FixedGates(needed, penalty)

    def state_dict(self) -> State:
        """Everything needed to go on; tensors keep the member axis."""
        return {
            "gates_active": self.are_active,
            "scheduled_at": self._scheduled_at,
            "noise": self.noise if self._step.algorithm.gate_noise == "rollout" else {},
            "gate_generators": self._generators.state_dict(),
        }

    def load_state_dict(self, saved: State) -> None:
        self.are_active, self._scheduled_at = saved["gates_active"], saved["scheduled_at"]
        self.noise = on_device(saved["noise"], self._state.learns.device)
        self._generators.load_state_dict(saved["gate_generators"])
        self._state.fixed_gates = {}
