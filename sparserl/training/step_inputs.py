"""What one gradient step of a learner is given beside its minibatch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.regularizers.base import Regularizer
from sparserl.types import Noise, Time

LARGEST_RATE = 1e15
"""Beyond any use. At a larger one a step of Adam could itself leave the range of float32, and then a member would have no last
finite weights to stop at."""


@dataclass(frozen=True)
class Scalars:
    """What schedules and counters say at one gradient step."""

    time: Time
    gates_active: bool
    penalty: Mapping[tuple[str, str], Float[Tensor, "member"] | float | Tensor]
    """The coefficient of each term of the penalty, by component that the regulariser covers and name of the term."""
    rates: Mapping[str, float | Tensor]
    """The learning rate of each learned component. None is above LARGEST_RATE; a program is given them as tensors []."""
    gate_rate: float | Tensor


@dataclass(frozen=True)
class StepInputs:
    """What schedules and counters say, and what is random."""

    scalars: Scalars
    noise: Mapping[str, Noise]
    """Of the gates of each component, where they are active."""
    needs_noise_free: bool
    """Whether components without noise are needed too."""

    def tensors(self) -> list[Tensor]:
        """Those of them that are tensors: noise, and coefficients of each member."""
        noise = [its for noise_of in self.noise.values() for its in noise_of.values()]
        return noise + [its for its in self.scalars.penalty.values() if isinstance(its, Tensor)]


def scalars_of(
    algorithm: Algorithm, regularizer: Regularizer, bound: Mapping[str, Regularizer], time: Time, gates_active: bool
) -> Scalars:
    """What schedules say at a time; ``bound`` are the regularisers of each component that one covers."""
    return Scalars(
        time=time,
        gates_active=gates_active,
        penalty={
            (c, name): term.coefficient(time.step, c in algorithm.policy)
            for c, its in bound.items()
            for name, term in its.summands().items()
        },
        rates={c: min(schedule(time.step), LARGEST_RATE) for c, schedule in algorithm.learning_rates.items()},
        gate_rate=min(regularizer.gate_rate(time.step), LARGEST_RATE),
    )
