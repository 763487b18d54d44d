"""L0 regularisation: a hard-concrete gate for each weight (Louizos, Welling, Kingma 2018, arXiv 1712.01312).

A weight runs as ``w * z``. The gate z is a random number that is exactly 0 and exactly 1 with positive probability, so the
expected number of open gates, the L0 norm, is differentiable in the gate's parameter ``log_alpha``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from sparserl.fields import Positive, Steps, per_member
from sparserl.networks.base import Structure
from sparserl.population.random import Generators
from sparserl.regularizers.base import Penalized, regularized
from sparserl.schedules import Schedule
from sparserl.types import Gates, Layers, Noise, Penalty

GAMMA, ZETA = -0.1, 1.1
"""The interval that a concrete variable is stretched to before it is clipped to [0, 1] (section 4 of the paper)."""

EPSILON = 1e-6
"""Uniform noise is kept this far from 0 and 1, where its logit is infinite."""


@dataclass(frozen=True, kw_only=True)
class L0(Penalized):
    """The keys are described in ``conf/regularizer/l0.yaml``."""

    beta: Float[Tensor, "member"] = per_member(Positive)
    initial_open: Annotated[float, Gt(0), Lt(1)]
    gate_learning_rate: Annotated[Schedule, Ge(0)]
    max_gate_grad_norm: Positive | None
    log_alpha_limit: Positive
    freeze_at_step: Steps | None
    deterministic_gate: Literal["sigmoid", "median"]

    def gate_grad_limit(self) -> float | None:
        return self.max_gate_grad_norm

    def __post_init__(self) -> None:
        if self.freeze_at_step is not None and self.freeze_at_step <= self.delay_steps:
            raise ValueError(
                f"regularizer.freeze_at_step is {self.freeze_at_step}; it must be above regularizer.delay_steps, "
                f"{self.delay_steps}, or no gate ever moves"
            )

    def gates_active(self, step: int) -> bool:
        """Whether gates are random and learn: after the delay and before they are frozen."""
        return self.delay_steps <= step and (self.freeze_at_step is None or step < self.freeze_at_step)

    def gate_rate(self, step: int) -> float:
        return self.gate_learning_rate(step) if self.gates_active(step) else 0.0

    def init(self, layers: Layers, structure: Structure, generators: Generators) -> Gates:
        log_alpha = math.log(self.initial_open / (1 - self.initial_open))
        return {name: torch.full_like(weight, log_alpha) for name, weight in regularized(layers).items()}

    def noise(self, gates: Gates, generators: Generators, step: int) -> Noise:
        """Logistic noise, the logit of uniform numbers: one draw for each member, cut to the shapes of the gates."""
        if not self.gates_active(step):
            return {}
        sizes = [log_alpha[0].numel() for log_alpha in gates.values()]
        logistic = torch.logit(generators.uniform(sum(sizes)), eps=EPSILON)
        return {
            name: part.view_as(log_alpha)
            for (name, log_alpha), part in zip(gates.items(), torch.split(logistic, sizes, dim=1), strict=True)
        }

    def sample(self, gates: Gates, noise: Noise) -> dict[str, Tensor]:
        """The hard-concrete z of equations 10 and 11."""
        return {name: _gate(log_alpha, noise[name], _over(self.beta, log_alpha)) for name, log_alpha in gates.items()}

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        """The expected share (or number) of open gates."""
        return self.reduce(list(self.open_probability(gates).values()))

    def gate_values(self, gates: Gates) -> dict[str, Tensor]:
        """The paper's gate at test time, without noise and beta (equation 13), or the median of the random gate."""
        if self.deterministic_gate == "sigmoid":
            return {name: hard_sigmoid(log_alpha) for name, log_alpha in gates.items()}
        return {name: hard_sigmoid(log_alpha / _over(self.beta, log_alpha)) for name, log_alpha in gates.items()}

    def project(self, layers: Layers, gates: Gates, step: int, pull: Float[Tensor, "member"] | float) -> tuple[Layers, Gates]:
        """log_alpha is kept where its sigmoid still has a slope."""
        if not self.gates_active(step):
            return layers, gates
        limit = self.log_alpha_limit
        return layers, {name: log_alpha.clamp(-limit, limit) for name, log_alpha in gates.items()}

    def open_probability(self, gates: Gates) -> dict[str, Tensor]:
        """P(z != 0), equation 12."""
        shift = math.log(-GAMMA / ZETA)
        return {name: sigmoid(log_alpha - _over(self.beta, log_alpha) * shift) for name, log_alpha in gates.items()}


def _over(values: Float[Tensor, "member"], tensor: Float[Tensor, "member ..."]) -> Tensor:
    """One value for each member, in a shape that broadcasts over ``tensor``."""
    return values.view(-1, *[1] * (tensor.dim() - 1))


def sigmoid(x: Tensor) -> Tensor:
    """torch.sigmoid rounds differently in the tail of a vector, so that a member would depend on its neighbours."""
    return torch.reciprocal(1 + torch.exp(-x))


def hard_sigmoid(logit: Tensor) -> Tensor:
    """A sigmoid stretched to [GAMMA, ZETA] and clipped to [0, 1]."""
    return (sigmoid(logit) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


class HardConcrete(torch.autograd.Function):
    """``hard_sigmoid((noise + log_alpha) / beta)`` with its gradient written out.

    Autograd would keep and pass over eight arrays of the size of the weights; this keeps one. The sigmoid is written as
    ``(1 + tanh(x / 2)) / 2``: its gradient is a single pass.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, log_alpha: Tensor, noise: Tensor, beta: Tensor) -> Tensor:
        tanh = (log_alpha + noise).mul_(1 / (2 * beta)).tanh_()
        ctx.save_for_backward(tanh, beta)
        return (tanh * ((ZETA - GAMMA) / 2)).add_((ZETA + GAMMA) / 2).clamp_(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        tanh, beta = ctx.saved_tensors
        # tanh at which the stretched sigmoid is 0 and 1
        low, high = (2 * end - (ZETA + GAMMA) for end in (0, 1))
        inside = torch.ops.aten.hardtanh_backward(gradient, tanh, low / (ZETA - GAMMA), high / (ZETA - GAMMA))
        return torch.ops.aten.tanh_backward(inside, tanh).mul_((ZETA - GAMMA) / (4 * beta)), None, None


def _gate(log_alpha: Tensor, noise: Tensor, beta: Tensor) -> Tensor:
    """``HardConcrete`` as a typed function."""
    gate: Tensor = HardConcrete.apply(log_alpha, noise, beta)  # type: ignore[no-untyped-call]
    return gate
