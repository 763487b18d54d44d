"""A minibatch before it is put together: tensors that are there already, and how it is made of them.

A gradient step that runs as a program takes these tensors and puts the minibatch together itself, so that a whole ring is one
of its inputs and nothing is copied on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from sparserl.types import Batch

Assembly: TypeAlias = Callable[[Mapping[str, Tensor]], Batch]
"""How a minibatch is made of some tensors: a frozen dataclass, whose ``repr`` says all that it does beside its code. One object
makes all the minibatches of a loop.

It reads no other tensors than those that it is given, and no value of a tensor decides which operations are done.
"""


INDEX = "index"
"""Which rows ``[member, batch]`` of other tensors a minibatch is made of, where it is not put together."""


@dataclass(frozen=True)
class Whole:
    """The assembly of minibatches that are put together already."""

    def __call__(self, tensors: Mapping[str, Tensor]) -> Batch:
        return dict(tensors)


@dataclass(frozen=True)
class Selection:
    """What a minibatch is made from, and how."""

    tensors: Mapping[str, Tensor]
    """Each has the member axis first, or no axis."""
    assembly: Assembly = Whole()

    def batch(self) -> Batch:
        """The minibatch."""
        return self.assembly(self.tensors)

    def of(self, members: slice) -> Selection:
        """What the minibatch of some members is made from."""
        its = {name: tensor[members] if tensor.dim() else tensor for name, tensor in self.tensors.items()}
        return Selection(its, self.assembly)
