"""What every network offers. A network holds no weights: it makes them, runs them and turns one member's into a module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sparserl.population.random import Generators
from sparserl.types import Layers


@dataclass(frozen=True)
class Matrix:
    """How a weight of Layers is a matrix ``[outputs, inputs]``, and where its outputs go.

    ``layout``: a ``linear`` weight is ``[member, inputs, outputs]``, a ``kernel`` one ``[member, outputs, channels, height,
    width]``.
    ``feeds``: the weights whose inputs its outputs become; none for the last. An output may feed several neighbouring inputs: a
    channel feeds all its positions.
    ``positions``: at how many places of one observation it is applied, a kernel's output positions.
    ``activation``: what its outputs, which are hidden units, go through (``relu``, ``tanh``); None for those of a network.
    """

    layout: Literal["linear", "kernel"]
    feeds: tuple[str, ...] = ()
    positions: int = 1
    activation: Literal["relu", "tanh"] | None = None

    def renamed(self, prefix: str) -> Matrix:
        """The same where the names of all weights have a prefix."""
        return replace(self, feeds=tuple(prefix + name for name in self.feeds))

    def feeding(self, names: tuple[str, ...]) -> Matrix:
        """The same with other weights after it."""
        return replace(self, feeds=names)


Structure: TypeAlias = dict[str, Matrix]
"""The weights of a network by name, in the order in which they are applied."""


class Network(ABC):
    """A frozen dataclass whose fields are the keys of ``conf/network/<name>.yaml``."""

    exact: ClassVar[bool]
    """Whether what a member gives and learns is the same beside any others, bit for bit on a CPU, or but for rounding."""

    @abstractmethod
    def init(self, observation_shape: tuple[int, ...], outputs: int, generators: Generators, gain: float = 1.0) -> Layers:
        """Fresh weights of every member, each drawn from its own generator. A bias is ``[member, 1, outputs]``.

        ``gain`` scales those of the last layer where their norm does not depend on the number of inputs alone.
        """

    @abstractmethod
    def __call__(
        self, layers: Layers, observation: Float[Tensor, "member batch *obs"] | UInt8[Tensor, "member batch *obs"]
    ) -> Float[Tensor, "member batch out"]:
        """Run every member's network on its own batch."""

    @abstractmethod
    def structure(self, observation_shape: tuple[int, ...]) -> Structure:
        """Which tensors of its layers are weights, and which feeds which.

        Raises ValueError, in a sentence for the user, where the network cannot read observations of this shape.
        """

    def for_policy(self, observation_shape: tuple[int, ...], outputs: int) -> Network:
        """The network of what is deployed, where its sizes depend on what it is given and gives.

        Only sizes differ, so either runs the other's layers. Raises ValueError where it cannot be made.
        """
        return self

    @property
    def features(self) -> int:
        """How many numbers ``trunk`` gives. Raises ValueError where the network has no hidden layer."""
        raise ValueError(f"network: {type(self).__name__} cannot be split into a trunk and heads")

    def trunk(self) -> Network:
        """All but the last layer, with the activation after it: what several heads may share. To be made with ``features``."""
        raise ValueError(f"network: {type(self).__name__} cannot be split into a trunk and heads")

    def head(self) -> Network:
        """The last layer, of ``features``."""
        raise ValueError(f"network: {type(self).__name__} cannot be split into a trunk and heads")

    @abstractmethod
    def module(self, layers: Layers) -> nn.Module:
        """One member's network (``layers`` without the member axis) as an ordinary module of ``[batch, *obs]``."""
