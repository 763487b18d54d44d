"""One gradient step of P members, as a function of their state, a batch, scalars and random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.algorithms.base import Algorithm, Objective
from sparserl.population.random import MemberRng
from sparserl.regularizers.base import Regularizer
from sparserl.training.learner_state import LearnerState, replace
from sparserl.training.parameters import FlatTensors, Parameters, clip_scale
from sparserl.training.step_inputs import Scalars
from sparserl.types import Batch, Layers, Metrics, Noise, Penalty, Weights

CHECKED = ("objective/", "gradient/")
"""How the names of the metrics begin that must be finite, or the member has diverged."""


@dataclass(frozen=True)
class GradientStep:
    """From a state, a batch, scalars and random numbers to the next state and metrics.

    The state that is given becomes the next one. Nothing else is read or changed, and no value of a tensor decides which
    operations are done: members that were stopped are masked.
    """

    algorithm: Algorithm
    regularizer: Regularizer
    bound: Mapping[str, Regularizer]
    """The regulariser of each learned component that it covers."""

    def __call__(
        self,
        state: LearnerState,
        batch: Batch,
        scalars: Scalars,
        noise: Mapping[str, Noise],
        noise_free: Weights,
        rng: MemberRng,
    ) -> Metrics:
        """Change ``state``; metrics are ``[member]``.

        ``noise`` is of the gates of each component, and ``noise_free`` the components that run under gates, without it. Both
        are empty where no gate is random.
        """
        leaves = state.tensors() | {component: its.leaves for component, its in state.weights.items()}
        running = self.running(state, leaves, noise)
        objectives = self.algorithm.losses(running, running | noise_free if noise_free else running, batch, scalars.time, rng)
        metrics: Metrics = {}
        due: set[str] = set()
        # all gradients before any step: one component's objective may be computed from another's weights
        for index, (name, objective) in enumerate(objectives.items(), start=1):
            metrics |= {f"{name}/{key}": value for key, value in objective.metrics.items()}
            total = objective.loss
            for component in (c for c in objective.updates if c in self.bound and c not in due):
                penalties = self._penalties(state, running, component, scalars)
                total = sum(penalties.values(), total)
                metrics |= self._of_penalties(component, penalties, scalars)
            metrics |= {f"loss/{name}": objective.loss.detach(), f"objective/{name}": total.detach()}
            self._differentiate(state, objective, total, scalars.gates_active, due, keep_graph=index < len(objectives))
            due.update(objective.updates)
        for component in (c for c in self.algorithm.learning_rates if c in due):
            for group, parameters in self._parameters(state, component, scalars.gates_active):
                metrics[f"gradient/{group}/{component}"] = parameters.norms
        self._stop_diverged(state, [value for name, value in metrics.items() if name.startswith(CHECKED)])
        with torch.no_grad():
            active = self._active(objectives.values())
            for objective in objectives.values():
                self._move(state, {c: active[c] for c in objective.updates if c in due}, scalars)
                due.difference_update(objective.updates)
                state.set_statistics(objective.state)
            self._update_targets(state, scalars)
        return metrics

    def running(self, state: LearnerState, weights: Weights, noise: Mapping[str, Noise]) -> Weights:
        """The weights to compute with: a component with gates, and the targets behind it, under the same sample of them.

        Under another one a target would be of another scale than what learns from it.
        """
        running = dict(weights)
        for component, regularizer in self.bound.items():
            if component in state.fixed_gates:
                multipliers = state.fixed_gates[component].multipliers
            elif component in state.gates:
                gates = state.gates[component].leaves
                multipliers = regularizer.multipliers(regularizer.sample(gates, noise[component]), gates, weights[component])
            else:
                continue
            for name in (component, *self.followers(component)):
                running[name] = regularizer.apply(weights[name], multipliers)
        return running

    def multipliers(self, state: LearnerState, component: str) -> Layers:
        """What the gates of a component multiply by without noise."""
        regularizer = self.bound[component]
        gates = state.gate_views(component)
        return regularizer.multipliers(regularizer.gate_values(gates), gates, state.weights[component].views)

    def noise_free(self, state: LearnerState, multipliers: Mapping[str, Layers]) -> Weights:
        """What runs under gates, components and the targets behind them, without noise. ``multipliers`` by component."""
        weights = state.tensors()
        return {
            name: regularizer.harden(weights[name], multipliers[component])
            for component, regularizer in self.bound.items()
            for name in (component, *self.followers(component))
        }

    def followers(self, component: str) -> list[str]:
        """The targets that lag behind a component."""
        return [target for target, leader in self.algorithm.targets.items() if leader == component]

    def _penalties(self, state: LearnerState, running: Weights, component: str, scalars: Scalars) -> dict[str, Penalty]:
        """The terms of the penalty of a component by name, each times its coefficient.

        Those of weights are of the weights that run: under the same sample of the gates as the loss.
        """
        fixed = state.fixed_gates.get(component)
        gates = state.gates[component].leaves if component in state.gates else {}
        gated, found = self.bound[component].gated, {}
        for name, term in self.bound[component].summands().items():
            penalty = fixed.penalty if fixed and name == gated else term.penalty(running[component], gates)
            found[name] = scalars.penalty[component, name] * penalty
        return found

    @staticmethod
    def _of_penalties(component: str, penalties: Mapping[str, Penalty], scalars: Scalars) -> Metrics:
        """The penalty of a component, and where its terms have names, each of them and its coefficient."""
        first, *others = penalties.values()
        metrics: Metrics = {f"penalty/{component}": sum(others, first).detach()}
        for name, penalty in penalties.items():
            if name:
                coefficient = torch.as_tensor(scalars.penalty[component, name])
                metrics[f"penalty/{component}/{name}"] = penalty.detach()
                metrics[f"coefficient/{component}/{name}"] = coefficient.to(penalty.dtype).expand_as(penalty)
        return metrics

    @staticmethod
    def _parameters(state: LearnerState, component: str, gates_active: bool) -> Iterator[tuple[str, Parameters]]:
        """What a gradient step moves of a component, by group: weights and gates."""
        yield "weights", state.weights[component]
        if gates_active and component in state.gates:
            yield "gates", state.gates[component]

    def _differentiate(
        self, state: LearnerState, objective: Objective, total: Tensor, gates_active: bool, due: set[str], keep_graph: bool
    ) -> None:
        """Set the gradients of the components that an objective moves, and of no other; add to those that another one set."""
        if objective.active is not None:
            total = total * objective.active
        parameters = [(c, its) for c in objective.updates for _, its in self._parameters(state, c, gates_active)]
        leaves = [leaf for _, its in parameters for leaf in its.leaves.values()]
        found = iter(torch.autograd.grad(total.sum(), leaves, retain_graph=keep_graph, materialize_grads=True))
        for component, its in parameters:
            its.set_gradients([next(found) for _ in its.leaves], add=component in due)

    @staticmethod
    def _stop_diverged(state: LearnerState, checked: list[Tensor]) -> None:
        """A member of which a value is not finite learns no more."""
        state.learns.mul_(torch.stack(checked, dim=1).isfinite().all(dim=1, keepdim=True))

    @staticmethod
    def _active(objectives: Iterable[Objective]) -> dict[str, Tensor | None]:
        """The members in which each component moves: those that an objective which names it is active in, or None for all."""
        active: dict[str, Tensor | None] = {}
        for objective in objectives:
            for component in objective.updates:
                known = active.get(component, objective.active)
                active[component] = None if known is None or objective.active is None else known | objective.active
        return active

    def _move(self, state: LearnerState, active: Mapping[str, Tensor | None], scalars: Scalars) -> None:
        """Clip, step and project components of one objective, whose gradients are set, in their active members."""
        weights = {component: state.weights[component] for component in active}
        gates = {c: state.gates[c] for c in weights if scalars.gates_active and c in state.gates}
        limits = self.algorithm.max_grad_norm, self.regularizer.gate_grad_limit()
        for moved, limit in zip((weights, gates), limits, strict=True):
            scale = clip_scale(list(moved.values()), limit) if moved and limit is not None else None
            for component, parameters in moved.items():
                rate = scalars.rates[component] if moved is weights else scalars.gate_rate
                parameters.step(rate, state.learns, scale, active[component])
        for component, its in active.items():
            if component in self.bound:
                moves = state.learns if its is None else state.learns * its.unsqueeze(1)
                self._project(state, component, scalars, moves)

    def _project(self, state: LearnerState, component: str, scalars: Scalars, moves: Float[Tensor, "member 1"]) -> None:
        """Restore constraints, but in members that did not move."""
        layers = state.weights[component].views
        gates = state.gate_views(component) if scalars.gates_active else {}
        for name, term in self.bound[component].summands().items():
            pull = scalars.rates[component] * scalars.penalty[component, name]
            projected = term.project(layers, gates, scalars.time.step, pull)
            for tensors, its in zip((layers, gates), projected, strict=True):
                replace(tensors, its, moves)

    def _update_targets(self, state: LearnerState, scalars: Scalars) -> None:
        if not state.targets:
            return
        flat: dict[str, FlatTensors] = {**state.weights, **state.targets}
        raw = {component: {"": its.buffer} for component, its in flat.items()}
        changed = self.algorithm.update_targets(raw, scalars.time)
        for component, tensors in changed.items():
            state.targets[component].buffer.lerp_(tensors[""], state.learns)
