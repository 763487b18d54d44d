"""A minibatch before it is put together: tensors that are there already, and how it is made of them.

A gradient step that runs as a program takes these tensors and puts the minibatch together itself, so that a whole ring is one
of its inputs and nothing is copied on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from sparserl.types import Batch, Transition

Assembly: TypeAlias = Callable[[Mapping[str, Tensor]], Batch]
"""How a minibatch is made of some tensors: a frozen dataclass, whose ``repr`` says all that it does beside its code. One object
makes all the minibatches of a loop.

It reads no other tensors than those that it is given, and no value of a tensor decides which operations are done.
"""


INDEX = "index"
"""Which rows ``[member, batch]`` of other tensors a minibatch is made of, where it is not put together."""

PLACE = "place"
"""Where the next transition is to be put."""


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


@runtime_checkable
class Store(Protocol):
    """An assembly that can put transitions where minibatches are made from."""

    def put(self, tensors: Mapping[str, Tensor], transition: Transition, place: Tensor) -> None:
        """Put a step of all sub-environments into some of the tensors, from a ``place`` [] on."""

    def __call__(self, tensors: Mapping[str, Tensor]) -> Batch:
        """A minibatch."""


@dataclass(frozen=True)
class Ahead:
    """What the minibatches of some steps are made from that are still to be taken, one after each step, and how."""

    stored: Mapping[str, Tensor]
    """Where transitions are, and those of these steps are to be put."""
    fixed: Mapping[str, Tensor]
    """What is the same for all of them."""
    each: Mapping[str, Tensor]
    """What each of them has of its own, ``[step, ...]``."""
    store: Store

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.each[PLACE])

    def put(self, step: int, transition: Transition) -> Selection:
        """Put the transitions of a step where they are stored; what the minibatch after it is made from."""
        each = {name: tensor[step] for name, tensor in self.each.items()}
        self.store.put(self.stored, transition, each[PLACE])
        return Selection({**self.stored, **self.fixed, **each}, self.store)

    def of(self, members: slice) -> Ahead:
        """The same for some members."""
        stored = {name: tensor[members] for name, tensor in self.stored.items()}
        fixed = {name: tensor[members] if tensor.dim() else tensor for name, tensor in self.fixed.items()}
        each = {name: tensor[:, members] if tensor.dim() > 1 else tensor for name, tensor in self.each.items()}
        return Ahead(stored, fixed, each, self.store)


def _shape(selection: Selection) -> object:
    """That of the ``index``; of one without, itself."""
    return selection.tensors[INDEX].shape if INDEX in selection.tensors else id(selection)


def in_parts(selections: Iterable[Selection], at_once: bool) -> Iterator[list[Selection]]:
    """Selections one by one, or ``at_once`` all that follow each other with an ``index`` of one shape."""
    if at_once:
        yield from ([*part] for _, part in groupby(selections, key=_shape))
    else:
        yield from ([its] for its in selections)
