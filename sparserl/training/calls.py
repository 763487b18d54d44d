"""What runs as a program: the gradient step, and acting while training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sparserl.experience.selection import Selection
from sparserl.population.random import MemberRng
from sparserl.training.compiled import Call, Counters, Number, RecordedDraws
from sparserl.training.inputs import PartInputs, described, with_values
from sparserl.training.learner_state import FixedGates, LearnerState
from sparserl.training.step import GradientStep
from sparserl.training.step_inputs import Scalars, StepInputs
from sparserl.types import Action, Batch, Noise, Rollout, Time, Weights


@dataclass(frozen=True)
class GivenToStep:
    """What a gradient step is given, of the tensors and numbers that a program is."""

    state: LearnerState
    step: GradientStep
    inputs: Sequence[Tensor]
    """Of the parts."""
    selected: Mapping[str, Tensor]
    observed: Rollout
    noise: Mapping[str, Noise]
    scalars: Scalars
    others: Sequence[Number]
    """Numbers behind those of the step."""


class StepCall(Call):
    """One gradient step."""

    what = "the gradient step"

    def __init__(
        self,
        step: GradientStep,
        inputs: PartInputs,
        state: LearnerState,
        selection: Selection,
        given: StepInputs,
        observed: Rollout,
    ) -> None:
        self._step, self._inputs, self._state, self._selection = step, inputs, state, selection
        self._scalars, self._noise, self._observed = given.scalars, given.noise, observed
        self._needs_noise_free = given.needs_noise_free
        changed, fixed = _changed(state), [*_fixed(state), *inputs.tensors(self.members)]
        self._selected_at = len(changed) + len(fixed)
        read = [*fixed, *selection.tensors.values(), *observed.values()]
        read += given.tensors()
        self.tensors, self.changed = [*changed, *(tensor.contiguous() for tensor in read)], len(changed)
        self.counters, self.numbers = self._counters(given.scalars.time), self._numbers(given.scalars)
        shapes = tuple((name, tensor.shape[1:], tensor.dtype) for name, tensor in selection.tensors.items())
        self.signature = (
            _fixed_names(state),
            selection.assembly,
            shapes,
            tuple(observed),
            tuple(given.noise),
            given.scalars.gates_active,
            given.needs_noise_free,
        )

    @property
    def members(self) -> int:
        return self._state.learns.shape[0]

    def key(self) -> tuple[Any, ...]:
        penalties = [(name, isinstance(its, Tensor)) for name, its in self._scalars.penalty.items()]
        noise = [(component, tuple(its)) for component, its in self._noise.items()]
        return _key(self._step, self._state), tuple(self._observed), penalties, noise

    def parts(self) -> list[Any]:
        return [self._step.algorithm, self._step.regularizer, self._selection.assembly]

    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws | MemberRng,
        counters: Counters,
        numbers: Sequence[Number],
    ) -> tuple[list[str], list[Tensor]]:
        given = self._given(tensors, counters, numbers)
        return self._learn(given, self._selection.assembly(given.selected), given.observed, draws)

    @staticmethod
    def _counters(time: Time) -> dict[str, int]:
        return {"step": time.step, "previous_step": time.previous_step, "update": time.update}

    def _numbers(self, scalars: Scalars, later: int = 0) -> list[float]:
        """Those of a step that is so many steps ``later`` than the next one, if all until then move what it moves."""
        state, time = self._state, scalars.time
        penalties = [its for its in scalars.penalty.values() if not isinstance(its, Tensor)]
        rates = {c: float(rate) for c, rate in scalars.rates.items()}
        gate_rate = float(scalars.gate_rate)
        weights = [factor for c, its in state.weights.items() for factor in its.factors(rates[c], later)]
        gates = [factor for its in state.gates.values() for factor in its.factors(gate_rate, later)]
        return [*weights, *gates, *self._inputs.numbers(time.step), gate_rate, *rates.values(), *penalties]

    def _given(self, tensors: Sequence[Tensor], counters: Counters, numbers: Sequence[Number]) -> GivenToStep:
        rest, values = iter(tensors), iter(numbers)
        state = _state(self._state, rest, values)
        inputs = [*islice(rest, self._inputs.counts[0])]
        step = with_inputs(self._step, self._inputs, iter(inputs), values)
        selected = {name: next(rest) for name in self._selection.tensors}
        observed = {name: next(rest) for name in self._observed}
        noise = {component: {name: next(rest) for name in its} for component, its in self._noise.items()}
        given = self._scalars.penalty
        penalty: dict[tuple[str, str], Number | None]
        penalty = {name: next(rest) if isinstance(its, Tensor) else None for name, its in given.items()}
        gate_rate = next(values)
        rates = {name: next(values) for name in self._scalars.rates}
        penalty = {name: next(values) if its is None else its for name, its in penalty.items()}
        time = Time(counters["step"], counters["previous_step"], counters["update"])  # type: ignore[arg-type]
        scalars = Scalars(time, self._scalars.gates_active, penalty, rates, gate_rate)  # type: ignore[arg-type]
        return GivenToStep(state, step, inputs, selected, observed, noise, scalars, list(values))

    def _learn(
        self, given: GivenToStep, batch: Batch, observed: Rollout, draws: RecordedDraws | MemberRng
    ) -> tuple[list[str], list[Tensor]]:
        step, state = given.step, given.state
        before = [(layers, name, tensor) for layers in state.statistics.values() for name, tensor in layers.items()]
        with torch.no_grad():
            if observed:
                state.set_statistics(step.algorithm.observe(state.statistics, observed))
            without = noise_free(step, state) if self._needs_noise_free else {}
        with torch.enable_grad():
            metrics = step(state, batch, given.scalars, given.noise, without, draws)  # type: ignore[arg-type]
        for layers, name, tensor in before:
            if layers[name] is not tensor:
                tensor.copy_(layers[name])
        return list(metrics), [torch.stack([metric.detach() for metric in metrics.values()], dim=1)]


class ActingCall(Call):
    """One step of acting."""

    what = "acting"
    changed = 0

    def __init__(
        self,
        step: GradientStep,
        inputs: PartInputs,
        state: LearnerState,
        running: Weights | None,
        observation: Tensor,
        env_step: int,
    ) -> None:
        self._step, self._inputs, self._state, self._running = step, inputs, state, running
        if running is None:
            read = [*_changed(state), *_fixed(state)]
        else:
            read = [tensor for layers in running.values() for tensor in layers.values()]
        read = [*read, *inputs.tensors(self.members), observation]
        self.tensors = [tensor.contiguous() for tensor in read]
        self.counters, self.numbers = {"step": env_step}, inputs.numbers(env_step)
        self.signature = running is None, _fixed_names(state) if running is None else None, observation.shape[1:]

    @property
    def members(self) -> int:
        return self._state.learns.shape[0]

    def key(self) -> tuple[Any, ...]:
        if self._running is None:
            return _key(self._step, self._state)
        algorithm = self._step.algorithm  # weights that run are made already: of no regulariser, whatever its schedules
        return described(algorithm), algorithm.spec, [(component, tuple(its)) for component, its in self._running.items()]

    def parts(self) -> list[Any]:
        return [self._step.algorithm, *([self._step.regularizer] if self._running is None else [])]

    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws | MemberRng,
        counters: Counters,
        numbers: Sequence[Number],
    ) -> tuple[list[str], list[Tensor]]:
        weights, inputs, observation = self._given(tensors, numbers)
        acted = self._act(weights, inputs, observation, counters["step"], numbers, draws)
        return ["action", *acted.extras], [acted.action, *acted.extras.values()]

    @torch.no_grad()
    def _given(self, tensors: Sequence[Tensor], numbers: Sequence[Number]) -> tuple[Weights, list[Tensor], Tensor]:
        """The weights that act, the tensors among the inputs of parts, and what is observed."""
        rest = iter(tensors)
        state = _state(self._state, rest) if self._running is None else None
        running = {component: {name: next(rest) for name in its} for component, its in (self._running or {}).items()}
        *inputs, observation = rest
        if state is None:
            return running, inputs, observation
        step = with_inputs(self._step, self._inputs, iter(inputs), iter(numbers))
        return state.tensors() | noise_free(step, state), inputs, observation

    @torch.no_grad()
    def _act(
        self,
        weights: Weights,
        inputs: Sequence[Tensor],
        observation: Tensor,
        env_step: Any,
        numbers: Sequence[Number],
        draws: Any,
    ) -> Action:
        return self._with_inputs(inputs, numbers).algorithm.act(weights, observation, env_step, draws)

    def _with_inputs(self, inputs: Sequence[Tensor], numbers: Sequence[Number]) -> GradientStep:
        """The step of parts with these values."""
        return with_inputs(self._step, self._inputs, iter(inputs), iter(numbers))


# ---------------------------------------------------------------- the state of a learner as tensors, and back


def _changed(state: LearnerState) -> list[Tensor]:
    """What a gradient step changes in place."""
    found: list[Tensor] = [state.learns]
    for group in (state.weights, state.gates):
        for its in group.values():
            found += [its.buffer, *its.moments.values()]
    found += [its.buffer for its in state.targets.values()]
    for layers in state.statistics.values():
        for name, tensor in layers.items():
            layers[name] = tensor.contiguous()  # another tensor only where an algorithm has made it so
            found.append(layers[name])
    return found


def _fixed(state: LearnerState) -> list[Tensor]:
    return [its for each in state.fixed_gates.values() for its in (*each.multipliers.values(), each.penalty)]


def _fixed_names(state: LearnerState) -> tuple[Any, ...]:
    return tuple((component, *its.multipliers) for component, its in state.fixed_gates.items())


def _state(like: LearnerState, rest: Iterator[Tensor], values: Iterator[Number] | None = None) -> LearnerState:
    """A state like another one, of the tensors that ``_changed`` and ``_fixed`` give.

    ``values`` begin with the factors of its next step, if it takes one.
    """
    learns = next(rest)
    weights, gates = (
        {
            component: its.for_program(
                next(rest),
                {name: next(rest) for name in its.moments},
                [torch.as_tensor(next(values)).float() for _ in its.factors(0.0)] if values else [],
            )
            for component, its in group.items()
        }
        for group in (like.weights, like.gates)
    )
    targets = {component: its.moved(next(rest)) for component, its in like.targets.items()}
    statistics = {component: {name: next(rest) for name in layers} for component, layers in like.statistics.items()}
    fixed = {
        component: FixedGates({name: next(rest) for name in its.multipliers}, next(rest))
        for component, its in like.fixed_gates.items()
    }
    return LearnerState(weights, gates, targets, statistics, learns, fixed)


def with_inputs(step: GradientStep, inputs: PartInputs, rest: Iterator[Tensor], values: Iterator[Number]) -> GradientStep:
    """The same step of parts whose values are the next tensors and numbers."""
    tensors, numbers = inputs.counts
    of_algorithm, *of_regularizers = inputs.given([*islice(rest, tensors)], [*islice(values, numbers)])
    of_regularizer = of_regularizers[0] if of_regularizers else {}
    return GradientStep(
        with_values(step.algorithm, of_algorithm),
        with_values(step.regularizer, of_regularizer),
        {component: with_values(its, of_regularizer) for component, its in step.bound.items()},
    )


def noise_free(step: GradientStep, state: LearnerState) -> Weights:
    """What runs under gates, without noise."""
    fixed = state.fixed_gates
    multipliers = {c: fixed[c].multipliers if c in fixed else step.multipliers(state, c) for c in step.bound}
    return step.noise_free(state, multipliers)


def _key(step: GradientStep, state: LearnerState) -> tuple[Any, ...]:
    """What programs of a learner depend on beside shapes and code."""
    groups = (state.weights, state.gates, state.targets)
    names = [{component: tuple(its.views) for component, its in group.items()} for group in groups]
    statistics = {component: tuple(its) for component, its in state.statistics.items()}
    structures = {component: regularizer.structure for component, regularizer in step.bound.items()}
    parts = [described(part) for part in (step.algorithm, step.regularizer)]
    return names, statistics, parts, step.algorithm.spec, structures
