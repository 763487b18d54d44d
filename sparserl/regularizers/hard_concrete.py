"""Gates that L0 regularisers share: random numbers that are exactly 0 and exactly 1 with positive probability.

Louizos, Welling, Kingma 2018 (arXiv 1712.01312): the expected number of what is stored under open gates, an L0 norm, is then
differentiable in the gates' parameters ``log_alpha``. What a gate multiplies, and what is stored where it is open, each
regulariser says for itself.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float, Shaped
from torch import Tensor

from sparserl.fields import Positive, Steps, per_member
from sparserl.population.random import Generators
from sparserl.regularizers.base import Penalized, regularized
from sparserl.schedules import DelayedRamp, Schedule
from sparserl.types import Gates, Layers, Noise, Penalty

GAMMA, ZETA = -0.1, 1.1
"""The interval that a concrete variable is stretched to before it is clipped to [0, 1] (section 4 of the paper)."""

EPSILON = 1e-6
"""Uniform noise is kept this far from 0 and 1, where its logit is infinite."""

MULTIPLIER = "multiplier"
"""What the penalty is multiplied by beside lambda_c, among the gates: ``[member, 2]``, the factor in use and its integral."""

BASIS = ".basis"
"""How the names of tensors among the gates end that hold directions."""

ASCENT = 0.02
"""How much the integral of the multiplier grows at each gradient step for each unit of density that is too much. Gates that a
penalty closes at a learning rate of some hundredths need a few hundred steps, in which 0.1 too much changes it by about 1."""

DAMPING = 20.0
"""What is added to the multiplier for each unit of density that is too much at the moment (Platt and Barr 1988): without it the
density would swing around its target."""


BISECTIONS = 40
"""How often an interval is halved: to less than float32 can tell apart."""


@dataclass(frozen=True, kw_only=True)
class HardConcrete(Penalized):
    """Regularisers with hard-concrete gates: a schedule, a penalty and gates that are frozen in the end. Keys: see ``L0``."""

    beta: Float[Tensor, "member"] = per_member(Positive)
    target_sparsity: Float[Tensor, "#member"] = per_member(
        Annotated[float, Ge(0), Lt(1)] | None, default=torch.tensor(math.nan)
    )
    """The share of numbers that is not to be stored at the end; nan leaves it to lambda_c."""
    initial_open: Annotated[float, Gt(0), Lt(1)]
    gate_learning_rate: Annotated[Schedule, Ge(0)]
    max_gate_grad_norm: Positive | None
    log_alpha_limit: Positive
    freeze_at_step: Steps | None
    deterministic_gate: Literal["sigmoid", "median"]

    _has_targets: bool = field(init=False, repr=False, compare=False)
    """Whether any member has one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_has_targets", not bool(self.target_sparsity.isnan().all()))
        if self.freeze_at_step is not None and self.freeze_at_step <= self.delay_steps:
            raise ValueError(
                f"regularizer.freeze_at_step is {self.freeze_at_step}; it must be above regularizer.delay_steps, "
                f"{self.delay_steps}, or no gate ever moves"
            )

    # ------------------------------------------------------------ what a regulariser says of its gates

    @abstractmethod
    def shapes(self, layers: Layers) -> dict[str, tuple[int, ...]]:
        """The shapes of the gates by name, without the member axis."""

    @abstractmethod
    def stored(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        """The numbers that cost something where each gate is open (1), closed (0), or open with a probability.

        Gates are independent of each other, so that products of probabilities are probabilities.
        """

    def kept(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        """The numbers that stand for all weights under such gates: what ``target_sparsity`` is about."""
        return self.stored(is_open, layers)

    # ------------------------------------------------------------ when and how fast gates learn

    def gate_grad_limit(self) -> float | None:
        return self.max_gate_grad_norm

    def gates_active(self, step: int) -> bool:
        """Whether gates are random and learn: after the delay and before they are frozen."""
        return self.delay_steps <= step and (self.freeze_at_step is None or step < self.freeze_at_step)

    def gate_rate(self, step: int) -> float:
        return self.gate_learning_rate(step) if self.gates_active(step) else 0.0

    # ------------------------------------------------------------ gates

    def init(self, layers: Layers, generators: Generators) -> Gates:
        log_alpha = math.log(self.initial_open / (1 - self.initial_open))
        like = next(iter(layers.values()))
        gates = {name: like.new_full((len(like), *shape), log_alpha) for name, shape in self.shapes(layers).items()}
        return gates | {MULTIPLIER: like.new_ones(len(like), 2)} if gates else {}

    def _phase(self, step: int) -> Literal["delayed", "active", "frozen"]:
        if self.gates_active(step):
            return "active"
        return "delayed" if step < self.delay_steps else "frozen"

    def is_due(self, previous_step: int, step: int) -> bool:
        return self._phase(previous_step) != self._phase(step)

    def scheduled(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        """When the gates are frozen, those of members with a target are shifted to it."""
        return gates if self.gates_active(step) else self.finished(layers, gates, previous_step, step)

    def finished(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        """Where the gates learned until the end, those of members with a target are shifted to it then.

        Once: not where an earlier step has frozen them. All that they learned may lie between two steps, in one rollout.
        """
        were_frozen = self.freeze_at_step is not None and self.freeze_at_step <= previous_step
        shifted = self._has_targets and self.delay_steps <= step and not were_frozen
        return self._at_target(layers, gates) if shifted else gates

    def _at_target(self, layers: Layers, gates: Gates) -> Gates:
        """Each member's log_alpha, all moved by one number: the one at which as much is kept as its target says.

        The order of the gates decides, so what ascent has left to do is done without changing it. What is kept grows with that
        number: it is found by bisection. Gates that are equal, as those are that no loss has moved, would all open at one
        number: of them so many are opened, in an order that is drawn once and for all, as may be.
        """
        wanted = (1 - self.target_sparsity) * weights_of(layers)
        # from where all gates are closed to where all are open
        high = (
            torch.stack([its.abs().flatten(1).amax(dim=1) for its in log_alphas(gates).values()]).amax(dim=0) + self._margin()
        )
        low = -high
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            too_much = self.kept(self._is_open(_shifted(gates, middle)), layers) > wanted
            low, high = torch.where(too_much, low, middle), torch.where(too_much, middle, high)
        closed, opened = _shifted(gates, low), _shifted(gates, high)
        order = _order(log_alphas(gates))
        few, many = torch.zeros_like(high), torch.full_like(high, sum(its.numel() for its in order.values()))
        for _ in range(BISECTIONS):
            middle = (few + many) / 2
            too_much = self.kept(self._is_open(_first(order, middle, opened, closed)), layers) > wanted
            few, many = torch.where(too_much, few, middle), torch.where(too_much, middle, many)
        shifted = _first(order, few, opened, closed)
        has_target = ~self.target_sparsity.isnan()
        return {name: torch.where(_over(has_target, its), shifted[name], its) for name, its in gates.items()}

    def _margin(self) -> Float[Tensor, "#member"]:
        """How far beyond 0 a log_alpha opens or closes a gate without noise for certain."""
        scale = self.beta if self.deterministic_gate == "median" else torch.ones_like(self.beta)
        return scale * (math.log(-ZETA / GAMMA) + 1)

    def _is_open(self, gates: Gates) -> dict[str, Tensor]:
        """1 where a gate without noise lets something through, 0 where not."""
        return {name: (z > 0).to(z.dtype) for name, z in self.gate_values(gates).items()}

    def noise(self, gates: Gates, generators: Generators, step: int) -> Noise:
        """Logistic noise, the logit of uniform numbers: one draw for each member, cut to the shapes of the gates."""
        if not self.gates_active(step):
            return {}
        random = log_alphas(gates)
        sizes = [log_alpha[0].numel() for log_alpha in random.values()]
        logistic = torch.logit(generators.uniform(sum(sizes)), eps=EPSILON)
        return {
            name: part.view_as(log_alpha)
            for (name, log_alpha), part in zip(random.items(), torch.split(logistic, sizes, dim=1), strict=True)
        }

    def sample(self, gates: Gates, noise: Noise) -> dict[str, Tensor]:
        """The hard-concrete z of equations 10 and 11."""
        return {name: random_gate(its, noise[name], _over(self.beta, its)) for name, its in log_alphas(gates).items()}

    def gate_values(self, gates: Gates) -> dict[str, Tensor]:
        """The paper's gate at test time, without noise and beta (equation 13), or the median of the random gate."""
        if self.deterministic_gate == "sigmoid":
            return {name: hard_sigmoid(its) for name, its in log_alphas(gates).items()}
        return {name: hard_sigmoid(its / _over(self.beta, its)) for name, its in log_alphas(gates).items()}

    def open_probability(self, gates: Gates) -> dict[str, Tensor]:
        """P(z != 0) of each gate, by the name of the gates: equation 12."""
        shift = math.log(-GAMMA / ZETA)
        return {name: sigmoid(its - _over(self.beta, its) * shift) for name, its in log_alphas(gates).items()}

    # ------------------------------------------------------------ what is made small

    def penalty(self, layers: Layers, gates: Gates) -> Penalty:
        """The expected number (or, under ``mean``, share) of stored numbers, times the multiplier."""
        if not gates:
            return super().penalty(layers, gates)
        stored = self.stored(self.open_probability(gates), layers) * gates[MULTIPLIER][:, 0].detach()
        return stored / weights_of(layers) if self.reduction == "mean" else stored

    def expected_nonzero(self, layers: Layers, gates: Gates) -> Float[Tensor, "member"] | None:
        return self.kept(self.open_probability(gates), layers) if gates else None

    def project(self, layers: Layers, gates: Gates, step: int, pull: Float[Tensor, "member"] | float) -> tuple[Layers, Gates]:
        """log_alpha is kept where its sigmoid still has a slope, and the multiplier climbs while too much is stored.

        Its ascent (Platt and Barr 1988, Constrained Differential Optimization) goes by the gates without noise, since these
        are deployed, and may go below 0: that opens gates. What is too much is counted from a line that falls to the target
        while lambda_c rises.
        """
        if not gates:
            return layers, gates
        limit = self.log_alpha_limit
        projected = {name: its.clamp(-limit, limit) for name, its in log_alphas(gates).items()}
        if not self._has_targets:
            return layers, gates | projected
        wanted = 1 - self.target_sparsity * DelayedRamp(self.delay_steps, self.ramp_steps)(step)
        too_much = self.kept(self._is_open(gates), layers) / weights_of(layers) - wanted
        integral = gates[MULTIPLIER][:, 1] + ASCENT * too_much
        changed = torch.stack([integral + DAMPING * too_much, integral], dim=1)
        has_target = ~self.target_sparsity.isnan().view(-1, 1)
        return layers, gates | projected | {MULTIPLIER: torch.where(has_target, changed, gates[MULTIPLIER])}


def log_alphas(gates: Gates) -> Gates:
    """The gates but for the tensors among them that are none."""
    return {name: tensor for name, tensor in gates.items() if name != MULTIPLIER and not name.endswith(BASIS)}


def weights_of(layers: Layers) -> int:
    """How many weights one member has."""
    return sum(weight[0].numel() for weight in regularized(layers).values())


def _order(gates: Gates) -> dict[str, Tensor]:
    """A number for each gate of a member, 0 and on, the same in every call: a random order over all tensors."""
    sizes = {name: its[0].numel() for name, its in gates.items()}
    drawn = torch.randperm(sum(sizes.values()), generator=torch.Generator().manual_seed(0))
    numbers = zip(gates.items(), drawn.split([*sizes.values()]), strict=True)
    return {name: number.view(its.shape[1:]).to(its) for (name, its), number in numbers}


def _first(order: dict[str, Tensor], count: Float[Tensor, "member"], opened: Gates, closed: Gates) -> Gates:
    """Gates as in ``opened`` where their number is below a member's count, and else as in ``closed``."""
    return closed | {
        name: torch.where(its < _over(count, opened[name]), opened[name], closed[name]) for name, its in order.items()
    }


def _shifted(gates: Gates, shift: Float[Tensor, "member"]) -> Gates:
    return gates | {name: its + _over(shift, its) for name, its in log_alphas(gates).items()}


def _over(values: Shaped[Tensor, "member"], tensor: Float[Tensor, "member ..."]) -> Tensor:
    """One value for each member, in a shape that broadcasts over ``tensor``."""
    return values.view(-1, *[1] * (tensor.dim() - 1))


def sigmoid(x: Tensor) -> Tensor:
    """torch.sigmoid rounds differently in the tail of a vector, so that a member would depend on its neighbours."""
    return torch.reciprocal(1 + torch.exp(-x))


def hard_sigmoid(logit: Tensor) -> Tensor:
    """A sigmoid stretched to [GAMMA, ZETA] and clipped to [0, 1]."""
    return (sigmoid(logit) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def random_gate(log_alpha: Tensor, noise: Tensor, beta: Tensor) -> Tensor:
    """``hard_sigmoid((noise + log_alpha) / beta)``. The sigmoid is written as ``(1 + tanh(x / 2)) / 2``, which is faster."""
    tanh = (log_alpha + noise).mul_(1 / (2 * beta)).tanh_()
    return (tanh * ((ZETA - GAMMA) / 2)).add_((ZETA + GAMMA) / 2).clamp_(0, 1)
