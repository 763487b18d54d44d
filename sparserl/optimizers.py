"""How a gradient moves tensors: the contract, Adam and RMSprop. Named in YAML by ``_target_``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias, TypeVar

import torch
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam

from sparserl.fields import Positive

Moments: TypeAlias = dict[str, Tensor]
"""What an optimiser keeps between steps: tensors ``[member, number]``, which are zero for a number that has never moved, and
``step``, the number of steps taken, one number for all members."""


N = TypeVar("N", float, Tensor)


class Optimizer(ABC):
    """A frozen dataclass whose fields are keys of ``conf/algorithm/<name>.yaml``."""

    @abstractmethod
    def init(self, values: Float[Tensor, "member number"]) -> Moments:
        """Fresh moments."""

    @abstractmethod
    def step(
        self,
        values: Float[Tensor, "member number"],
        gradient: Float[Tensor, "member number"],
        moments: Moments,
        learning_rate: float,
    ) -> None:
        """Take one step: changes ``values`` and ``moments`` in place.

        A row whose gradient and moments are all zero stays, bit for bit, what it is.
        """

    @abstractmethod
    def factors(self, steps: N, learning_rate: N) -> tuple[N, ...]:
        """What ``step_by`` is to be given after so many steps: of numbers numbers, of tensors ``[member, 1]`` such tensors."""

    @abstractmethod
    def step_by(
        self,
        values: Float[Tensor, "member number"],
        gradient: Float[Tensor, "member number"],
        moments: Moments,
        factors: Sequence[Float[Tensor, "*member"]],
    ) -> None:
        """The same as ``step`` but for rounding, in operations that a compiler can read, by one number or one of each member.

        A number that is computed inside of a program is computed again for each weight, and so ``factors`` come from outside.
        """


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as torch computes it.

    The function, not torch's optimiser: at a few members the bookkeeping of that one takes longer than the step.
    """

    betas: Sequence[Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the root of the average square."""

    def __post_init__(self) -> None:
        if len(self.betas) != 2:
            raise ValueError(f"optimizer.betas is {list(self.betas)}; it must be two numbers")

    def init(self, values: Float[Tensor, "member number"]) -> Moments:
        return {
            "exp_avg": torch.zeros_like(values),
            "exp_avg_sq": torch.zeros_like(values),
            "step": torch.zeros((), device=values.device),
        }

    def step(
        self,
        values: Float[Tensor, "member number"],
        gradient: Float[Tensor, "member number"],
        moments: Moments,
        learning_rate: float,
    ) -> None:
        adam(
            [values],
            [gradient],
            [moments["exp_avg"]],
            [moments["exp_avg_sq"]],
            [],
            [moments["step"]],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def factors(self, steps: N, learning_rate: N) -> tuple[N, ...]:
        """The size of a step, and the root of what the average square is to be divided by (algorithm 1 of the paper)."""
        first, second = (1 - beta ** (steps + 1) for beta in self.betas)
        return learning_rate / first, second**0.5

    def step_by(
        self,
        values: Float[Tensor, "member number"],
        gradient: Float[Tensor, "member number"],
        moments: Moments,
        factors: Sequence[Float[Tensor, "*member"]],
    ) -> None:
        first, second = self.betas
        size, root = factors
        moments["step"].add_(1)
        average = moments["exp_avg"].lerp_(gradient, 1 - first)
        squares = moments["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        values.sub_(size * average / (squares.sqrt() / root + self.eps))


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012), as torch computes it: without momentum, and not centred."""

    alpha: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Decay of the average of the square of the gradient."""
    eps: Positive = 1e-5
    """Added to the root of that average."""

    def init(self, values: Float[Tensor, "member number"]) -> Moments:
        return {"square_avg": torch.zeros_like(values), "step": torch.zeros((), device=values.device)}

    def step(
        self,
        values: Float[Tensor, "member number"],
        gradient: Float[Tensor, "member number"],
        moments: Moments,
        learning_rate: float,
    ) -> None:
        average = self._average(gradient, moments)
        values.addcdiv_(gradient, average.sqrt().add_(self.eps), value=-learning_rate)

    def factors(self, steps: N, learning_rate: N) -> tuple[N, ...]:
        """The learning rate."""
        return (learning_rate,)

    def step_by(
        self,
        values: Float[Tensor, "member number"],
        gradient: Float[Tensor, "member number"],
        moments: Moments,
        factors: Sequence[Float[Tensor, "*member"]],
    ) -> None:
        average = self._average(gradient, moments)
        values.sub_(factors[0] * gradient / (average.sqrt() + self.eps))

    def _average(self, gradient: Float[Tensor, "member number"], moments: Moments) -> Float[Tensor, "member number"]:
        moments["step"].add_(1)
        return moments["square_avg"].mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
