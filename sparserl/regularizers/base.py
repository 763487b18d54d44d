"""The contract between a regulariser and the learner.

A regulariser is a frozen dataclass whose fields are the keys of ``conf/regularizer/<name>.yaml``. It sees the layers of one
component and, if it has any, their gates; never an algorithm, a batch or an environment. It touches weight matrices and
kernels only (``is_weight``): biases and everything else in a component pass through as they are.

The hooks below do nothing, so a regulariser is what it overrides and ``none`` overrides nothing.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import hardshrink

from sparserl.fields import NonNegative, Steps, per_member
from sparserl.population.random import Generators
from sparserl.schedules import DelayedRamp
from sparserl.types import Gates, Layers, Noise, Penalty, is_weight


@dataclass(frozen=True, kw_only=True)
class Regularizer(ABC):
    """The hooks, and the one setting that every regulariser has: what counts as zero in ``sparsity_thresholded``."""

    zero_threshold: NonNegative

    def covers(self, component: str) -> bool:
        """Whether this component's weights are regularised."""
        return False

    def coefficient(self, step: int) -> Float[Tensor, "member"] | float:
        """What the penalty is multiplied by after ``step`` environment steps of each member."""
        return 0.0

    def moving(self, step: int) -> bool:
        """Whether gates move after ``step`` environment steps of each member.

        While they rest they run hardened, and what is made of them is computed once.
        """
        return False

    def gate_grad_limit(self) -> float | None:
        """The largest norm of one member's gradient in its gates, or None to leave it."""
        return None

    def gate_rate(self, step: int) -> float:
        """The learning rate of the gates after ``step`` environment steps."""
        return 0.0

    def init(self, layers: Layers) -> Gates:
        """Fresh gates."""
        return {}

    def noise(self, gates: Gates, generators: Generators, step: int) -> Noise:
        """What one ``sample`` needs to be random, each member's part drawn from its own generator; empty for no noise."""
        return {}

    def sample(self, networks: Sequence[Layers], gates: Gates, noise: Noise) -> list[Layers]:
        """The weights that networks run with while they learn: a component, then the targets that lag behind it.

        All of them under the same gates and noise: under others a target would be of another scale than what learns from it.
        """
        return list(networks)

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        """What is to be made small, before its coefficient; differentiable. With gates, of the gates only."""
        first = next(iter(layers.values()))
        return first.new_zeros(first.shape[0])

    def harden(self, layers: Layers, z_hat: dict[str, Tensor]) -> Layers:
        """The weights without noise: what is evaluated, acts off-policy and is factored. ``z_hat`` are ``gate_values``."""
        return gated(layers, z_hat) if z_hat else layers

    def project(self, layers: Layers, gates: Gates, step: int) -> tuple[Layers, Gates]:
        """Called after each optimiser step, ``step`` environment steps into training: where constraints are restored."""
        return layers, gates

    def gate_values(self, gates: Gates) -> dict[str, Tensor]:
        """z_hat, what hardening multiplies the weights by, by layer."""
        return {}

    def open_probability(self, gates: Gates) -> dict[str, Tensor]:
        """P(z != 0) of each gate, by layer."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Penalized(Regularizer):
    """What the regularisers that add a penalty share. Its keys are described in their YAML files."""

    lambda_c: Float[Tensor, "member"] = per_member(NonNegative)
    scope: Literal["policy", "all"]
    reduction: Literal["mean", "sum"]
    delay_steps: Steps
    ramp_steps: Steps

    def covers(self, component: str) -> bool:
        return self.scope == "all" or component == "policy"

    def coefficient(self, step: int) -> Float[Tensor, "member"]:
        return self.lambda_c * DelayedRamp(self.delay_steps, self.ramp_steps)(step)

    def reduce(self, terms: list[Float[Tensor, "member ..."]]) -> Penalty:
        """The sum of one term a weight, divided by their number under ``mean``."""
        total = torch.stack([term.flatten(1).sum(dim=1) for term in terms], dim=1).sum(dim=1)
        return total / sum(term[0].numel() for term in terms) if self.reduction == "mean" else total


@dataclass(frozen=True, kw_only=True)
class Thresholded(Penalized):
    """Penalties under which Adam makes weights small but never exactly zero: hardening sets the small ones to zero."""

    def harden(self, layers: Layers, z_hat: dict[str, Tensor]) -> Layers:
        if self.zero_threshold == 0:
            return layers
        # hardshrink also takes what is equal; masks are several times slower
        below = float(np.nextafter(np.float32(self.zero_threshold), np.float32(0)))
        return layers | {name: hardshrink(weight, below) for name, weight in regularized(layers).items()}


def gated(layers: Layers, z: dict[str, Tensor]) -> Layers:
    """The layers with the weights that gates are given for multiplied by them."""
    return layers | {name: layers[name] * gate for name, gate in z.items()}


def regularized(layers: Layers) -> Layers:
    """The tensors that a regulariser acts on."""
    return {name: tensor for name, tensor in layers.items() if is_weight(name)}
