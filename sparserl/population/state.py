"""States of members: from those of one member each to that of a population, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

State = Any
"""Nested dicts and lists for a checkpoint. Each tensor in it has the member axis first, and everything else is common; or, as
``split`` gives it, it is of one member, and no tensor has that axis. Where members have tensors of different shapes, or Logs, a
tuple holds one of each member: of one member it holds one."""


@dataclass(frozen=True)
class Log:
    """Rows of one member that are numbered as they come and never change: those from ``first`` to before ``end`` are needed.

    So a checkpoint writes each of them once, and not again every time. Rows are read while nothing is added to them.
    """

    first: int
    end: int
    read: Callable[[int, int], Tensor]
    """The rows from a number to before another, ``[row, ...]``: a copy."""


class StateError(ValueError):
    """Why nothing can go on from a state: what its file is or holds, as a sentence without its subject, with the remedy."""


@contextmanager
def restoring() -> Iterator[None]:
    """Within, a state is read. What a part raises that does not find what it would have kept becomes a StateError.

    What says more than that, such as an environment's own error or that there is no memory left, stays what it is.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and type(error) is not ValueError:
            raise
        raise StateError(
            f"was written by an incompatible version of sparserl ({error!r}); "
            "give the run another name, or take its folder away to train from the start"
        ) from error


def stack(states: Sequence[State]) -> State:
    """One state of P members from P states of one member each (the inverse of ``split``).

    Raises ValueError where two states differ in a value that is common to a population, a counter say.
    """
    try:
        return tree_map(_stacked, *states, is_leaf=_is_tuple)
    except ValueError as error:
        raise ValueError(f"members of one population disagree: {error}") from error


def _is_tuple(node: State) -> bool:
    return isinstance(node, tuple)


def _stacked(*its: Any) -> Any:
    first = its[0]
    if any(type(each) is not type(first) for each in its):
        raise ValueError(", ".join(sorted({type(each).__name__ for each in its})))
    if isinstance(first, Tensor):
        if any(each.shape != first.shape for each in its):
            raise ValueError(f"shapes are {', '.join(sorted({str(tuple(each.shape)) for each in its}))}")
        return torch.stack(its)
    if isinstance(first, tuple):
        return tuple(tensor for each in its for tensor in each)
    if any(each != first for each in its):
        raise ValueError(f"a common value is {', '.join(sorted(map(str, set(its))))}")
    return first


def split(state: State, member: int) -> State:
    """The state of one member, without the member axis and, but for a Log, sharing no memory with the population's."""

    def own(leaf: Any) -> Any:
        its = leaf[member] if isinstance(leaf, Tensor | tuple) else leaf
        copied = its.detach().clone() if isinstance(its, Tensor) else its
        return (copied,) if isinstance(leaf, tuple) else copied

    return tree_map(own, state, is_leaf=_is_tuple)


def on_device(tensors: dict[str, dict[str, Tensor]], device: torch.device) -> dict[str, dict[str, Tensor]]:
    """The same tensors of each component where a population's members live."""
    return {component: {name: tensor.to(device) for name, tensor in its.items()} for component, its in tensors.items()}
