"""States of members: from those of one member each to that of a population, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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


def stack(states: Sequence[State]) -> State:
    """One state of P members from P states of one member each (the inverse of ``split``).

    Raises ValueError where two states differ in a value that is common to a population, a counter say.
    """
    first = states[0]
    if any(type(state) is not type(first) for state in states):
        raise ValueError(f"members of one population disagree: {', '.join(sorted({type(s).__name__ for s in states}))}")
    if isinstance(first, dict | list) and any(len(state) != len(first) or _keys(state) != _keys(first) for state in states):
        raise ValueError("members of one population disagree on what there is to keep")
    if isinstance(first, Tensor):
        return torch.stack(list(states))
    if isinstance(first, tuple):
        return tuple(tensor for state in states for tensor in state)
    if isinstance(first, dict):
        return {key: stack([state[key] for state in states]) for key in first}
    if isinstance(first, list):
        return [stack(items) for items in zip(*states, strict=True)]
    if any(state != first for state in states):
        raise ValueError(f"members of one population disagree on a common value: {sorted(map(str, set(states)))}")
    return first


def _keys(state: State) -> set[Any]:
    return set(state) if isinstance(state, dict) else set()


def split(state: State, member: int) -> State:
    """The state of one member, without the member axis and, but for a Log, sharing no memory with the population's."""
    if isinstance(state, Tensor):
        return state[member].detach().clone()
    if isinstance(state, tuple):
        its = state[member]
        return (its if isinstance(its, Log) else its.detach().clone(),)
    if isinstance(state, dict):
        return {key: split(value, member) for key, value in state.items()}
    if isinstance(state, list):
        return [split(value, member) for value in state]
    return state


def on_device(tensors: dict[str, dict[str, Tensor]], device: torch.device) -> dict[str, dict[str, Tensor]]:
    """The same tensors of each component where a population's members live."""
    return {component: {name: tensor.to(device) for name, tensor in its.items()} for component, its in tensors.items()}
