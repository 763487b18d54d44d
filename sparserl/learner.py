"""The weights, gates and optimiser state of P members, and one gradient step for all of them.

Everything that is particular to an algorithm or a regulariser is behind their contracts; here they meet. The objective of
each component is ``loss + lambda_c(step) * penalty``, summed over members: a sum, so that each member's gradient is the one
it would have alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.population import Population, State, clip_gradients, member_norm
from sparserl.regularizers.base import Regularizer
from sparserl.types import Batch, Gates, Loss, Metrics, Noise, Penalty, Spec, Weights


@dataclass(frozen=True)
class Terms:
    """What one component is to minimise, before the penalty's coefficient."""

    loss: Loss
    penalty: Penalty
    metrics: Metrics


class Learner:
    """Trains the components of one algorithm under one regulariser, for every member at once."""

    def __init__(
        self, algorithm: Algorithm, regularizer: Regularizer, spec: Spec, members: Population, compiled: bool = False
    ) -> None:
        self.algorithm, self.regularizer = algorithm, regularizer
        self.steps = 0
        self.weights: Weights = {
            component: {name: tensor.to(members.device) for name, tensor in layers.items()}
            for component, layers in algorithm.init(spec, members).items()
        }
        self.learned = tuple(algorithm.learning_rates)
        self.gates: dict[str, Gates] = {
            component: regularizer.init(self.weights[component]) if regularizer.covers(component) else {}
            for component in self.learned
        }
        self.initial_gates = {c: {name: gate.clone() for name, gate in gates.items()} for c, gates in self.gates.items()}
        self._generators = members.generators("gates")
        self._optimizers = {component: self._optimizer(component) for component in self.learned}
        self._terms = torch.compile(self._compute_terms) if compiled else self._compute_terms
        self._scales: dict[tuple[str, str], Tensor] = {}
        self._hardened: Weights | None = None

    def _optimizer(self, component: str) -> torch.optim.Adam:
        weights, gates = list(self.weights[component].values()), list(self.gates[component].values())
        for tensor in weights + gates:
            tensor.requires_grad_()
        groups = [{"params": weights}] + ([{"params": gates}] if gates else [])
        return torch.optim.Adam(groups, fused=True)

    def update(self, batch: Batch, env_step: int) -> Metrics:
        """One gradient step of every component that is due, and the algorithm's own state after it.

        ``env_step``, the environment steps that each member has taken, drives the schedules. Metrics are ``[member]``.
        """
        self.steps += 1
        noise = {c: self.regularizer.noise(gates, self._generators) for c, gates in self.gates.items() if gates}
        terms = self._terms(self.weights, self.gates, noise, batch, self.steps)
        coefficient = self.regularizer.coefficient(env_step)
        metrics: Metrics = {}
        last = len(terms)
        for index, (component, term) in enumerate(terms.items(), start=1):
            penalty = coefficient * term.penalty
            objective = term.loss + penalty
            leaves = [*self.weights[component].values(), *self.gates[component].values()]
            # each component's own objective moves its own tensors only, whatever else it was computed from
            gradients = torch.autograd.grad(objective.sum(), leaves, retain_graph=index < last)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
            self._clip(component)
            self._step(component, env_step)
            metrics |= {
                f"loss/{component}": term.loss.detach(),
                f"penalty/{component}": penalty.detach(),
                f"objective/{component}": objective.detach(),
            } | {f"{component}/{name}": value for name, value in term.metrics.items()}
        self._hardened = None
        with torch.no_grad():
            changed = self.algorithm.after_step(self.hardened(), self.steps)
        self.weights |= changed
        self._hardened = self.hardened() | changed
        return metrics

    def _compute_terms(
        self, weights: Weights, gates: dict[str, Gates], noise: dict[str, Noise], batch: Batch, step: int
    ) -> dict[str, Terms]:
        running = weights | {c: self.regularizer.sample(weights[c], gates[c], noise[c]) for c in noise}
        return {
            component: Terms(loss, self._penalty(weights, gates, component), metrics)
            for component, (loss, metrics) in self.algorithm.losses(running, batch, step).items()
        }

    def _penalty(self, weights: Weights, gates: dict[str, Gates], component: str) -> Penalty:
        if not self.regularizer.covers(component):
            first = next(iter(weights[component].values()))
            return first.new_zeros(first.shape[0])
        return self.regularizer.penalty(weights[component], gates[component])

    def _clip(self, component: str) -> None:
        for kind, tensors, max_norm in (
            ("weights", self.weights[component], self.algorithm.max_grad_norm),
            ("gates", self.gates[component], self.regularizer.max_gate_grad_norm),
        ):
            if tensors and max_norm is not None:
                self._scales[component, kind] = clip_gradients(list(tensors.values()), max_norm)

    def gradient_norms(self, component: str, kind: str) -> dict[str, Tensor]:
        """The norm of each tensor's last gradient before clipping, ``[member]``, by name; ``kind``: weights or gates."""
        tensors = self.weights[component] if kind == "weights" else self.gates[component]
        scale = self._scales.get((component, kind), 1.0)
        return {
            name: member_norm([tensor.grad]) / scale if tensor.grad is not None else tensor.new_zeros(tensor.shape[0])
            for name, tensor in tensors.items()
        }

    def _step(self, component: str, env_step: int) -> None:
        rate = self.algorithm.learning_rates[component]
        options = [{"lr": rate(env_step)}, self.regularizer.gate_options(env_step)]
        optimizer = self._optimizers[component]
        for group, values in zip(optimizer.param_groups, options, strict=False):
            group.update(values)
        optimizer.step()
        with torch.no_grad():
            layers, gates = self.weights[component], self.gates[component]
            projected = self.regularizer.project(layers, gates, env_step)
            for tensors, replacements in zip((layers, gates), projected, strict=True):
                for name, replacement in replacements.items():
                    if replacement is not tensors[name]:
                        tensors[name].copy_(replacement)

    def hardened(self) -> Weights:
        """Every component, the learned ones without noise. Kept until the next update: do not change it."""
        if self._hardened is None:
            with torch.no_grad():
                hardened = {c: self.regularizer.harden(self.weights[c], self.gates[c]) for c in self.learned}
            self._hardened = self.weights | {
                component: {name: tensor.detach() for name, tensor in layers.items()}
                for component, layers in hardened.items()
            }
        return self._hardened

    def state_dict(self) -> State:
        """Everything needed to go on; tensors keep the member axis."""
        return {
            "steps": self.steps,
            "weights": self.weights,
            "gates": self.gates,
            "generators": self._generators.state_dict(),
            "moments": {c: self._moments(c) for c in self.learned},
        }

    def load_state_dict(self, state: State) -> None:
        self.steps = state["steps"]
        with torch.no_grad():
            for mine, saved in ((self.weights, state["weights"]), (self.gates, state["gates"])):
                for component, tensors in mine.items():
                    for name, tensor in tensors.items():
                        tensor.copy_(saved[component][name])
        self._generators.load_state_dict(state["generators"])
        for component, moments in state["moments"].items():
            self._load_moments(component, moments)
        self._hardened = None

    def _leaves(self, component: str) -> list[Tensor]:
        return [tensor for group in self._optimizers[component].param_groups for tensor in group["params"]]

    def _moments(self, component: str) -> State:
        """Adam's moments of each tensor; its step count is one number for all members."""
        states = [self._optimizers[component].state.get(leaf) for leaf in self._leaves(component)]
        return [
            {"step": int(s["step"]), "exp_avg": s["exp_avg"], "exp_avg_sq": s["exp_avg_sq"]} if s else None for s in states
        ]

    def _load_moments(self, component: str, moments: State) -> None:
        for leaf, saved in zip(self._leaves(component), moments, strict=True):
            if saved is not None:
                self._optimizers[component].state[leaf] = {
                    "step": torch.tensor(float(saved["step"]), device=leaf.device),
                    "exp_avg": saved["exp_avg"].to(leaf.device),
                    "exp_avg_sq": saved["exp_avg_sq"].to(leaf.device),
                }

