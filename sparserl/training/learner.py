"""The weights, gates and optimiser state of P members, and one gradient step for all of them.

Everything that is particular to an algorithm or a regulariser is behind their contracts; here they meet. The objective of
each component is ``loss + lambda_c(step) * penalty``, summed over members: a sum, so that each member's gradient is the one
it would have alone.

A member whose objective or gradient is not finite is frozen for good: its weights, gates, targets and optimiser moments stay,
bit for bit, what they were before that step. Its numbers stay in its own rows, so the others do not notice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.population.members import Population
from sparserl.population.state import State
from sparserl.regularizers.base import Regularizer, gated
from sparserl.training.optimizer import Packed, row_norm
from sparserl.types import Batch, Gates, Layers, Loss, Metrics, Noise, Penalty, Spec, Weights

LARGEST_RATE = 1e15
"""Beyond any use. At a larger one a step of Adam could itself leave the range of float32, and then a member would have no last
finite weights to be frozen at."""


@dataclass(frozen=True)
class Terms:
    """What one component is to minimise, before the penalty's coefficient."""

    loss: Loss
    penalty: Penalty | None
    """None where the regulariser does not cover the component."""
    metrics: Metrics


@dataclass(frozen=True)
class Rest:
    """What is made of the gates of one component while they rest."""

    z_hat: dict[str, Tensor]
    """By layer; a layer whose gates are all 1 is left out."""
    penalty: Penalty


class Learner:
    """Trains the components of one algorithm under one regulariser, for every member at once."""

    def __init__(
        self, algorithm: Algorithm, regularizer: Regularizer, spec: Spec, members: Population, compiled: bool = False
    ) -> None:
        self.algorithm, self.regularizer = algorithm, regularizer
        self.size, self.steps = members.size, 0
        self.learned = tuple(algorithm.learning_rates)
        self.covered = tuple(component for component in self.learned if regularizer.covers(component))
        # each with the targets that lag behind it, which run under its gates
        self._followed = {c: [c, *(t for t, leader in algorithm.targets.items() if leader == c)] for c in self.covered}
        fresh = {
            component: {name: tensor.to(members.device) for name, tensor in layers.items()}
            for component, layers in algorithm.init(spec, members).items()
        }
        self._packed_weights = {component: Packed(fresh[component]) for component in self.learned}
        self.weights: Weights = fresh | {c: packed.tensors for c, packed in self._packed_weights.items()}
        self.initial_gates = {c: regularizer.init(fresh[c]) for c in self.covered}
        self._packed_gates = {c: Packed(gates) for c, gates in self.initial_gates.items() if gates}
        self.gates: dict[str, Gates] = {
            c: self._packed_gates[c].tensors if c in self._packed_gates else {} for c in self.learned
        }
        self._rests: dict[str, Rest] = {}  # while gates move there are none
        self._generators = members.generators("gates")
        self._scales: dict[Packed, Tensor] = {}
        self._terms = torch.compile(self._compute_terms) if compiled else self._compute_terms
        self._known_z_hat: dict[str, dict[str, Tensor]] | None = None
        self._hardened: Weights | None = None
        self._causes = [f"{what} of {component}" for component in self.learned for what in ("loss", "gradient")]
        self._frozen_at = torch.full((members.size,), -1, device=members.device)  # the environment step, or -1
        self._cause = torch.zeros_like(self._frozen_at)  # which of the above
        self._mark_frozen()
        self._no_penalty = torch.zeros(members.size, device=members.device)

    def start_from(self, policies: Sequence[Layers | None]) -> None:
        """Give members the weights of a trained policy (without the member axis), and its targets too; None leaves a member."""
        followers = ["policy", *(t for t, leader in self.algorithm.targets.items() if leader == "policy")]
        with torch.no_grad():
            for member, layers in enumerate(policies):
                for name, tensor in (layers or {}).items():
                    for component in followers:
                        self.weights[component][name][member] = tensor
        self._hardened = None

    def _let_rest(self, env_step: int) -> None:
        """Compute what is made of gates, once, when they come to rest; forget it when they move."""
        if self.regularizer.moving(env_step):
            self._rests = {}
        elif not self._rests:
            for component, packed in self._packed_gates.items():
                layers, gates = self._packed_weights[component].values, packed.values
                z_hat = {name: z for name, z in self.regularizer.gate_values(gates).items() if not (z == 1).all()}
                self._rests[component] = Rest(z_hat, self.regularizer.penalty(layers, gates))
                packed.clear_gradients()

    def _moving(self, component: str) -> list[Packed]:
        """What gradient steps change of a component."""
        return self._packed(component)[:1] if component in self._rests else self._packed(component)

    def _packed(self, component: str) -> list[Packed]:
        """The weights of a component, then its gates if it has any: each is clipped and stepped by itself."""
        gates = self._packed_gates.get(component)
        return [self._packed_weights[component], *([gates] if gates else [])]

    def update(self, batch: Batch, env_step: int) -> Metrics:
        """One gradient step of every component that is due, and the algorithm's own state after it.

        ``env_step``, the environment steps that each member has taken, drives the schedules. Metrics are ``[member]``.
        """
        self.steps += 1
        self._let_rest(env_step)
        noise = {c: self.regularizer.noise(self.gates[c], self._generators, env_step) for c in self.covered}
        quiet = self._quiet() if any(noise.values()) else {}
        terms = self._terms(self.weights, self.gates, self._rests, noise, quiet, batch, self.steps)
        coefficient = self.regularizer.coefficient(env_step)
        metrics: Metrics = {}
        objectives: dict[str, Tensor] = {}
        # all gradients before any step: one component's objective may be computed from another's weights
        for index, (component, term) in enumerate(terms.items(), start=1):
            penalty, objective = self._no_penalty, term.loss
            if term.penalty is not None:
                penalty = coefficient * term.penalty
                objective = objective + penalty
            self._differentiate(component, objective, keep_graph=index < len(terms))
            objectives[component] = objective.detach()
            metrics |= {
                f"loss/{component}": term.loss.detach(),
                f"penalty/{component}": penalty.detach(),
                f"objective/{component}": objectives[component],
            } | {f"{component}/{name}": value for name, value in term.metrics.items()}
        self._freeze(objectives, env_step)
        for component in terms:
            self._step(component, env_step)
        with torch.no_grad():
            changed = self.algorithm.after_step(self.weights, self.steps)
            if len(self._frozen):
                for component, layers in changed.items():
                    for name, tensor in layers.items():
                        tensor[self._frozen] = self.weights[component][name][self._frozen]
            self.weights |= changed
        self._hardened = self._known_z_hat = None
        return metrics

    def _freeze(self, objectives: dict[str, Tensor], env_step: int) -> None:
        """Freeze whoever has an objective or a gradient that is not finite, and was not frozen before."""
        suspects = [("loss", component, objective) for component, objective in objectives.items()]
        suspects += [("gradient", component, packed.norms) for component in objectives for packed in self._packed(component)]
        # all in one number, since this is asked at every step; where only that is too large, nobody is found below
        if math.isfinite(reduce(torch.add, (values for *_, values in suspects)).sum().item()):
            return
        for what, component, values in suspects:
            broken = ~values.isfinite() & (self._frozen_at < 0)
            self._frozen_at[broken] = env_step
            self._cause[broken] = self._causes.index(f"{what} of {component}")
        self._mark_frozen()

    def _mark_frozen(self) -> None:
        self._frozen = (self._frozen_at >= 0).nonzero().flatten()  # the numbers of the frozen members
        self.all_frozen = len(self._frozen) == len(self._frozen_at)
        """Whether nobody is left who learns."""

    def frozen(self) -> list[str | None]:
        """Of each member why it is frozen, and since when, in a sentence; None of those that learn."""
        sentence = "the {} is not finite: frozen at its last finite weights from step {} on"
        marks = zip(self._frozen_at.tolist(), self._cause.tolist(), strict=True)
        return [None if step < 0 else sentence.format(self._causes[cause], step) for step, cause in marks]

    def _compute_terms(
        self,
        weights: Weights,
        gates: dict[str, Gates],
        rests: dict[str, Rest],
        noise: dict[str, Noise],
        quiet: Weights,
        batch: Batch,
        step: int,
    ) -> dict[str, Terms]:
        running = dict(weights)
        for component, names in self._followed.items():
            networks = [weights[name] for name in names]
            if component in rests:
                sampled = [gated(layers, rests[component].z_hat) for layers in networks]
            else:
                sampled = self.regularizer.sample(networks, gates[component], noise[component])
            running.update(zip(names, sampled, strict=True))
        losses = self.algorithm.losses(running, {**weights, **quiet} if quiet else running, batch, step)
        penalties = {
            c: rests[c].penalty if c in rests else self.regularizer.penalty(weights[c], gates[c])
            for c in self.covered
            if c in losses
        }
        return {c: Terms(loss, penalties.get(c), metrics) for c, (loss, metrics) in losses.items()}

    def _differentiate(self, component: str, objective: Float[Tensor, "member"], keep_graph: bool) -> None:
        """Set the gradients of one component's own tensors, and of no other's, whatever else it was computed from."""
        leaves = [tensor for packed in self._moving(component) for tensor in packed.tensors.values()]
        gradients = iter(torch.autograd.grad(objective.sum(), leaves, retain_graph=keep_graph, materialize_grads=True))
        for packed in self._moving(component):
            packed.set_gradients([next(gradients) for _ in packed.tensors])

    def _step(self, component: str, env_step: int) -> None:
        """Clip, step and project one component whose gradients are set; frozen members stay as they are."""
        rates = self.algorithm.learning_rates[component](env_step), self.regularizer.gate_rate(env_step)
        limits = self.algorithm.max_grad_norm, self.regularizer.gate_grad_limit()
        kept = self._frozen_rows(component)
        for packed, rate, limit in zip(self._moving(component), rates, limits, strict=False):
            if limit is not None:
                self._scales[packed] = packed.clip(limit)
            with torch.no_grad():
                packed.step(min(rate, LARGEST_RATE))
        if component in self._rests:
            # to Adam their gradient is zero: its count goes on, so the first steps after a rest are three times its very first
            self._packed_gates[component].moments["step"] += 1
        if component in self.covered:
            self._project(component, env_step)
        for tensor, rows in kept:
            tensor[self._frozen] = rows

    def _frozen_rows(self, component: str) -> list[tuple[Tensor, Tensor]]:
        """What a step changes of one component, each tensor with its rows of the frozen members: Adam would move them too."""
        if not len(self._frozen):
            return []
        changed = [
            tensor
            for packed in self._packed(component)
            for tensor in (packed.buffer, packed.moments["exp_avg"], packed.moments["exp_avg_sq"])
        ]
        return [(tensor, tensor[self._frozen]) for tensor in changed]

    @torch.no_grad()
    def _project(self, component: str, env_step: int) -> None:
        layers, gates = self.weights[component], self.gates[component]
        projected = self.regularizer.project(layers, gates, env_step)
        for tensors, replacements in zip((layers, gates), projected, strict=True):
            for name, replacement in replacements.items():
                if replacement is not tensors[name]:
                    tensors[name].copy_(replacement)

    def _z_hat(self) -> dict[str, dict[str, Tensor]]:
        """The gates without noise of each component that has any, by layer: computed once between two updates."""
        if self._known_z_hat is None:
            with torch.no_grad():
                self._known_z_hat = {
                    c: self._rests[c].z_hat if c in self._rests else self.regularizer.gate_values(packed.values)
                    for c, packed in self._packed_gates.items()
                }
        return self._known_z_hat

    @torch.no_grad()
    def _quiet(self) -> Weights:
        """What runs under gates, networks that learn and their targets, without the noise of those."""
        z_hat, hardened = self._z_hat(), self.hardened()
        return {
            name: hardened[c] if name == c else self.regularizer.harden(self.weights[name], z_hat[c])
            for c in z_hat
            for name in self._followed[c]
        }

    def hardened(self) -> Weights:
        """Every component, the learned ones without noise, targets raw. Kept until the next update: do not change it."""
        if self._hardened is None:
            values = {c: packed.values for c, packed in self._packed_weights.items()}
            with torch.no_grad():
                z_hat = self._z_hat()
                hardened = {c: self.regularizer.harden(values[c], z_hat.get(c, {})) for c in self.covered}
            self._hardened = self.weights | values | hardened
        return self._hardened

    def gradient_norms(self, component: str) -> dict[str, dict[str, Tensor]]:
        """The norm of each tensor's last gradient before clipping, ``[member]``: ``weights`` and ``gates``, by name."""
        return {
            kind: {name: row_norm(gradient) / self._scales.get(packed, 1.0) for name, gradient in packed.gradients.items()}
            for kind, packed in zip(("weights", "gates"), self._packed(component), strict=False)
        }

    def state_dict(self) -> State:
        """Everything needed to go on; tensors keep the member axis."""
        return {
            "steps": self.steps,
            "weights": self.weights,
            "gates": self.gates,
            "generators": self._generators.state_dict(),
            "moments": {
                component: [packed.moments | {"step": int(packed.moments["step"])} for packed in self._packed(component)]
                for component in self.learned
            },
            "frozen": {"at": self._frozen_at, "cause": self._cause},
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
            for packed, saved in zip(self._packed(component), moments, strict=True):
                for name, moment in packed.moments.items():
                    moment.copy_(torch.as_tensor(saved[name]))
        self._frozen_at.copy_(state["frozen"]["at"])
        self._cause.copy_(state["frozen"]["cause"])
        self._mark_frozen()
        self._hardened, self._known_z_hat, self._rests = None, None, {}
