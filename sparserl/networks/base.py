"""What every network offers. A network holds no weights: it makes them, runs them and turns one member's into a module."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from sparserl.population.random import Generators
from sparserl.types import Layers


class Network(ABC):
    """A frozen dataclass whose fields are the keys of ``conf/network/<name>.yaml``."""

    @abstractmethod
    def init(self, observation_shape: tuple[int, ...], outputs: int, generators: Generators) -> Layers:
        """Fresh weights of every member, each drawn from its own generator."""

    @abstractmethod
    def __call__(self, layers: Layers, observation: Float[Tensor, "member batch *obs"]) -> Float[Tensor, "member batch out"]:
        """Run every member's network on its own batch."""

    def positions(self, observation_shape: tuple[int, ...]) -> dict[str, int]:
        """At how many places of one observation a weight is applied: a kernel's output positions. 1 where it is not named."""
        return {}

    @abstractmethod
    def module(self, layers: Layers) -> nn.Module:
        """One member's network (``layers`` without the member axis) as an ordinary module of ``[batch, *obs]``."""
