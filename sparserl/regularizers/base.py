"""The contract between a regulariser and the learner.

A regulariser is a frozen dataclass whose fields are the keys of ``conf/regularizer/<name>.yaml``. It sees the layers of one
component and, if it has any, their gates; never an algorithm, a batch or an environment. It counts and penalises weight
matrices and kernels only (``is_weight``); a gate may multiply a bias too.

Gates have names and shapes of the regulariser's own. ``covered_weights`` says how many weights each stands for,
``multipliers`` turns the values of gates into what weights and biases are multiplied by, and ``apply`` multiplies. Among the
gates may be tensors that no gradient moves, because nothing differentiable is made of them: ``project`` gives them new values.

A regulariser is bound to the structure of each component that it covers before it is given that component's layers.

A penalty is a sum of terms, each with a coefficient of its own. Most regularisers are one term: themselves. ``check``,
``coefficient``, ``penalty`` and ``project`` are called of each of ``summands``, everything else of the regulariser.

The hooks below do nothing, so a regulariser is what it overrides and ``none`` overrides nothing.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import hardshrink

from sparserl.fields import NonNegative, Steps, per_member, unused
from sparserl.networks.base import Structure
from sparserl.optimizers import Adam, Optimizer
from sparserl.population.random import Generators
from sparserl.schedules import DelayedRamp
from sparserl.types import Gates, Layers, Noise, Penalty, Weights, is_weight


@dataclass(frozen=True, kw_only=True)
class Regularizer(ABC):
    """The hooks, and the one setting that every regulariser has: what counts as zero in ``sparsity_thresholded``."""

    zero_threshold: NonNegative

    structure: Structure = field(init=False, repr=False, compare=False)
    """Which weights feed which in the component that it acts on; there after ``bind``."""

    component: str = field(init=False, repr=False, compare=False)
    """The name of that component; there after ``bind``."""

    def bind(self, structure: Structure, component: str = "policy", deployed: bool = True) -> Regularizer:
        """The same regulariser for one component; ``deployed`` says whether that is part of the policy."""
        bound = copy.copy(self)
        object.__setattr__(bound, "structure", structure)
        object.__setattr__(bound, "component", component)
        return bound

    def summands(self) -> Mapping[str, Regularizer]:
        """The terms of the penalty by name: itself, without a name, where it is no sum. Bound where it is bound."""
        return {"": self}

    @property
    def makes_gates(self) -> bool:
        """Whether it has gates, or masks."""
        return type(self).init is not Regularizer.init

    @property
    def gated(self) -> str | None:
        """The name of the summand that makes the gates; None where there is none."""
        return next((name for name, term in self.summands().items() if term.makes_gates), None)

    @property
    def main_term(self) -> str:
        """The name of the summand that makes the gates, or of the first where none does."""
        return next(iter(self.summands())) if self.gated is None else self.gated

    @property
    def strengths(self) -> tuple[str, ...]:
        """The keys that it has of those that say how many zeros there are to be: ``lambda_c``, ``target_sparsity``."""
        used = {field.name for field in fields(self) if "unused" not in field.metadata}
        return tuple(name for name in ("lambda_c", "target_sparsity") if name in used)

    def check(self, weights: Weights) -> None:  # noqa: B027 (a hook that need not be overridden)
        """Called before training with fresh ``weights`` of the components that it covers.

        Raises ValueError, in a sentence for the user, where it cannot act on them.
        """

    def covers(self, component: str, deployed: bool) -> bool:
        """Whether this component's weights are regularised; ``deployed`` says whether it is part of the policy."""
        return False

    def coefficient(self, step: int, deployed: bool) -> Float[Tensor, "member"] | float:
        """What the penalty of a component is multiplied by after ``step`` environment steps of each member.

        ``deployed`` says whether the component is part of the policy.
        """
        return 0.0

    def asks_for_zeros(self, step: int) -> Bool[Tensor, "member"] | bool:
        """Whether the policy of each member is to have zeros, ``step`` environment steps into training."""
        return False

    def gates_active(self, step: int) -> bool:
        """Whether gates are random and learn after ``step`` environment steps of each member.

        Otherwise they are fixed at their values without noise, and what is made of them is computed once.
        """
        return False

    def gate_grad_limit(self) -> float | None:
        """The largest norm of one member's gradient in its gates, or None to leave it."""
        return None

    def gate_rate(self, step: int) -> float:
        """The learning rate of the gates after ``step`` environment steps."""
        return 0.0

    @property
    def gate_optimizer(self) -> Optimizer:
        """Moves the gates."""
        return Adam()

    def init(self, layers: Layers, generators: Generators) -> Gates:
        """Fresh gates. What is random in them is drawn from each member's own generator."""
        return {}

    def scheduled(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        """The gates that a schedule gives after ``step`` environment steps of each member; themselves where nothing is due.

        Called before each gradient step, but under algorithms that learn from rollouts before each rollout, since what acts and
        what learns from it must be the same policy. ``previous_step`` is the ``step`` of the last call, -1 at first.
        """
        return gates

    def is_due(self, previous_step: int, step: int) -> bool:
        """Whether ``scheduled`` may give other gates than it is given; so it does nothing where this says no."""
        return type(self).scheduled is not Regularizer.scheduled

    def finished(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        """The gates of the trained policy: called once, in the place of ``scheduled``, when training ends after ``step``."""
        return self.scheduled(layers, gates, previous_step, step)

    def covered_weights(self, layers: Layers, gates: Gates) -> dict[str, int]:
        """How many weights each gate stands for, by the name of the gates: their share of what is logged of gates."""
        return dict.fromkeys(self.gate_values(gates), 1)

    def multipliers(self, values: dict[str, Tensor], gates: Gates, layers: Layers) -> dict[str, Tensor]:
        """From the ``values`` of ``gates`` to what ``apply`` multiplies tensors of Layers by, by their name.

        Of ``layers`` only the shapes count.
        """
        return values

    def apply(self, layers: Layers, multipliers: dict[str, Tensor]) -> Layers:
        """The layers under gates: each tensor times its multiplier, element by element."""
        return gated(layers, multipliers)

    def noise(self, gates: Gates, generators: Generators, step: int) -> Noise:
        """What one ``sample`` needs to be random, each member's part drawn from its own generator; empty for no noise."""
        return {}

    def sample(self, gates: Gates, noise: Noise) -> dict[str, Tensor]:
        """The random values of active gates, differentiable; the same noise always gives the same values."""
        return {}

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        """What is to be made small, before its coefficient; differentiable. Of a regulariser with gates, of the gates only.

        ``layers`` are those that run: under the gates of another summand, if one has gates.
        """
        first = next(iter(layers.values()))
        return first.new_zeros(first.shape[0])

    def harden(self, layers: Layers, multipliers: dict[str, Tensor]) -> Layers:
        """The weights without noise: what is evaluated and deployed. ``multipliers`` are those of ``gate_values``."""
        return self.apply(layers, multipliers)

    def project(self, layers: Layers, gates: Gates, step: int, pull: Float[Tensor, "member"] | float) -> tuple[Layers, Gates]:
        """Called after each optimiser step, ``step`` environment steps into training: where constraints are restored.

        ``gates`` are given while they are active, and none otherwise. ``pull`` is the learning rate of the weights times the
        coefficient of the penalty: the length of a proximal step.
        """
        return layers, gates

    def gate_values(self, gates: Gates) -> dict[str, Tensor]:
        """z_hat, the values of gates without noise, by the name of the gates."""
        return {}

    def expected_nonzero(self, layers: Layers, gates: Gates) -> Float[Tensor, "member"] | None:
        """How many weights are expected not to be zero under random gates, or None where there are none."""
        return None


@dataclass(frozen=True, kw_only=True)
class Penalized(Regularizer):
    """What the regularisers that add a penalty share."""

    lambda_c: Float[Tensor, "member"] = per_member(NonNegative)
    lambda_c_critic: Float[Tensor, "#member"] = per_member(NonNegative | None, default=torch.tensor(math.nan))
    """Of components that are not deployed; nan is that of ``lambda_c``."""
    scope: Literal["policy", "all"]
    reduction: Literal["mean", "sum"]
    delay_steps: Steps
    ramp_steps: Steps

    def covers(self, component: str, deployed: bool) -> bool:
        return deployed or self.scope == "all"

    def coefficient(self, step: int, deployed: bool) -> Float[Tensor, "member"]:
        lambda_c = self.lambda_c if deployed else torch.where(self.lambda_c_critic.isnan(), self.lambda_c, self.lambda_c_critic)
        return lambda_c * DelayedRamp(self.delay_steps, self.ramp_steps)(step)

    def asks_for_zeros(self, step: int) -> Bool[Tensor, "member"]:
        return self.coefficient(step, deployed=True) > 0

    def reduce(self, terms: list[Float[Tensor, "member ..."]], weights: int | None = None) -> Penalty:
        """The sum of some terms, divided under ``mean`` by the number of ``weights``: of terms, where each is of one weight.

        There must be a term.
        """
        total = member_sums(terms)
        return total / (weights or sum(term[0].numel() for term in terms)) if self.reduction == "mean" else total


@dataclass(frozen=True, kw_only=True)
class Thresholded(Penalized):
    """Penalties under which Adam makes weights small but never exactly zero: hardening sets the small ones to zero."""

    def harden(self, layers: Layers, multipliers: dict[str, Tensor]) -> Layers:
        if self.zero_threshold == 0:
            return layers
        # hardshrink also takes what is equal; masks are several times slower
        below = float(np.nextafter(np.float32(self.zero_threshold), np.float32(0)))
        return layers | {name: hardshrink(weight, below) for name, weight in regularized(layers).items()}


@dataclass(frozen=True, kw_only=True)
class Proximal(Thresholded):
    """Penalties that can take proximal steps in the place of a gradient (ISTA, in Beck and Teboulle 2009, section 1).

    With ``proximal`` the penalty has no gradient. Instead the proximal operator of the penalty, times the learning rate and the
    coefficient, is applied after each step of the optimiser. So there are exact zeros.
    """

    beta: None = unused()
    proximal: bool

    @abstractmethod
    def acts_on(self, layers: Layers) -> Layers:
        """The weights that are penalised."""

    @abstractmethod
    def norms(self, weights: Layers) -> list[Float[Tensor, "member ..."]]:
        """What the penalty of these weights is the sum of."""

    @abstractmethod
    def shrunken(self, weights: Layers, limit: Float[Tensor, "#member"]) -> Layers:
        """The proximal operator of ``limit`` times the sum of the norms of these weights."""

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        weights = self.acts_on(layers)
        if not weights:
            return super().penalty(layers, gates)
        penalty = self.reduce(self.norms(weights), _numbers(weights))
        return penalty.detach() if self.proximal else penalty

    def project(self, layers: Layers, gates: Gates, step: int, pull: Float[Tensor, "member"] | float) -> tuple[Layers, Gates]:
        if not self.proximal:
            return layers, gates
        weights = self.acts_on(layers)
        number = _numbers(weights) if self.reduction == "mean" else 1
        return layers | self.shrunken(weights, (torch.as_tensor(pull) / number).view(-1)), gates


def _numbers(weights: Layers) -> int:
    return sum(weight[0].numel() for weight in weights.values())


def member_sums(terms: list[Float[Tensor, "member ..."]]) -> Float[Tensor, "member"]:
    """Of each member the sum of all numbers of some tensors."""
    return torch.stack([term.flatten(1).sum(dim=1) for term in terms], dim=1).sum(dim=1)


def gated(layers: Layers, multipliers: dict[str, Tensor]) -> Layers:
    """The layers with the tensors that multipliers are given for multiplied by them."""
    return layers | {name: layers[name] * multiplier for name, multiplier in multipliers.items()} if multipliers else layers


def regularized(layers: Layers) -> Layers:
    """The tensors that a regulariser acts on."""
    return {name: tensor for name, tensor in layers.items() if is_weight(name)}
