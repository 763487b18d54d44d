"""Calls that are made several times, one after another: a program that has a loop around what one call does."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sparserl.population.random import MemberRng
from sparserl.training.compiled import Call, Compiled, RecordedDraws, members_axis
from sparserl.training.programs import Output, Program

Outputs: TypeAlias = tuple[Sequence[str], list[Tensor]]
"""What several calls give, one behind another: names, and tensors ``[time, member, ...]``."""

EXAMPLE_TIMES = 3
"""How often the call is made that a program is compiled from. Once would be taken to be always once."""

MOST_TIMES = 65_536
"""A bound that the compiler asks for."""

MOST_AT_ONCE = 64
"""Times in one call of a program, after which Ctrl-C is noticed."""


@cache
def can_repeat() -> bool:
    """Whether this version of torch compiles loops that change tensors in place: from 2.13 on."""
    try:
        from torch._higher_order_ops.while_loop import while_loop_op
    except ImportError:  # it is private
        return False
    return "mutated_arg_indices" in inspect.signature(type(while_loop_op).__call__).parameters


def room(times: int, members: int, outputs: Sequence[Output]) -> list[Tensor]:
    """Room for what calls give at all times, ``[time, member, ...]``."""
    return [torch.empty(times, members, *shape, dtype=getattr(torch, type_)) for shape, type_ in outputs]


class RepeatedCall(Call):
    """Several calls. ``tensors``, ``counters`` and ``numbers`` are those of the first, and tensors that differ come last.

    What a call changes in place is what the next one is given. All that it gives has the member axis first.
    """

    stacks: Sequence[Tensor]
    """Of the last tensors those of all times, ``[time, ...]``."""
    times: Sequence[Mapping[str, int]]
    """The counters of all times."""

    streams: Mapping[str, MemberRng] = MappingProxyType({})
    """Where the function takes random numbers from beside the stream that it is given, by name."""

    def stream(self, name: str, draws: RecordedDraws | MemberRng) -> RecordedDraws | MemberRng:
        """One of those, where ``run`` is given these draws."""
        return draws.of(name) if isinstance(draws, RecordedDraws) else self.streams[name]

    @abstractmethod
    def numbers_of(self, times: slice) -> list[list[float]]:
        """The numbers of some times, asked for when all before them are over."""

    def module(self, traced: torch.nn.Module, outputs: Sequence[Output]) -> torch.nn.Module:
        return _Loop(traced, self.changed, len(self.tensors) - len(self.stacks), len(outputs))

    def examples(self, given: Sequence[Tensor], outputs: Sequence[Output]) -> list[Tensor]:
        fixed, members = len(self.tensors) - len(self.stacks), len(given[0])
        each = [torch.stack([tensor] * EXAMPLE_TIMES) for tensor in given[fixed:]]
        return [*given[:fixed], *each, *room(EXAMPLE_TIMES, members, outputs), torch.tensor(EXAMPLE_TIMES)]

    def dynamic_axes(self, given: Sequence[Tensor], outputs: Sequence[Output]) -> list[dict[int, Any] | None]:
        members, times = members_axis(), torch.export.Dim("times", min=1, max=MOST_TIMES)
        fixed = len(self.tensors) - len(self.stacks)
        first = [{0: members} if tensor.dim() else None for tensor in given[:fixed]]
        each = [{0: times, 1: members} if tensor.dim() else {0: times} for tensor in given[fixed:-1]]
        return [*first, *each, {0: times}, *[{0: times, 1: members} for _ in outputs], None]

    def drawn(self, rng: MemberRng, asked: Sequence[tuple[str, Sequence[int]]], times: int) -> list[Tensor]:
        """The random numbers ``[time, member, ...]``, in the order in which the function asks for them."""

        def source(name: str) -> tuple[MemberRng, str]:
            stream, _, distribution = name.rpartition("/")
            return self.streams[stream] if stream else rng, distribution

        # numbers of one stream are in the order of the times, so all times at once only where each time asks it once
        if len({name.rpartition("/")[0] for name, _ in asked}) == len(asked):
            sources = [(*source(name), shape) for name, shape in asked]
            return [getattr(its, f"{distribution}s")(times, *shape) for its, distribution, shape in sources]
        drawn = []
        for _ in range(times):
            sources = [(*source(name), shape) for name, shape in asked]
            drawn.append([getattr(its, distribution)(*shape) for its, distribution, shape in sources])
        return [torch.stack(its) for its in zip(*drawn, strict=True)]

    def eagerly(self, rng: MemberRng) -> list[Outputs]:
        """What ``Repeated.repeat`` gives, without a program."""
        fixed = self.tensors[: len(self.tensors) - len(self.stacks)]
        found = list[Outputs]()
        for time, counters in enumerate(self.times):
            given = [*fixed, *(stack[time] for stack in self.stacks)]
            (numbers,) = self.numbers_of(slice(time, time + 1))
            names, made = self.run(given, rng, counters, numbers)
            found.append((names, [its.unsqueeze(0) for its in made]))
        return found


class _Loop(torch.nn.Module):
    """The calls, one after another. It changes tensors, and puts what the calls give into the last ones."""

    def __init__(self, traced: torch.nn.Module, changed: int, varying: int, outputs: int) -> None:
        super().__init__()
        self.traced, self._changed, self._varying, self._outputs = traced, changed, varying, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """``tensors`` are those that calls change, others, those that have a time, room for outputs, and how many times."""
        from torch._higher_order_ops.while_loop import while_loop_op

        end = len(tensors) - 1 - self._outputs
        varying = self._varying

        def goes_on(time: Tensor, *given: Tensor) -> Tensor:
            return time < given[-1]

        def once(time: Tensor, *given: Tensor) -> tuple[Tensor]:
            place = time.reshape(1)
            at_time = [tensor.index_select(0, place).squeeze(0) for tensor in given[varying:end]]
            for output, one in zip(given[end:-1], self.traced(*given[:varying], *at_time), strict=True):
                output.index_copy_(0, place, one.unsqueeze(0))
            return (time + 1,)

        changed = [*range(self._changed), *range(end, len(tensors) - 1)]
        start = (torch.zeros((), dtype=torch.long),)
        # what no output depends on would be left out: so the number of times is one
        indices = ",".join(str(len(start) + its) for its in changed)
        found: tuple[Tensor, ...] = while_loop_op(goes_on, once, start, tensors, mutated_arg_indices=indices)
        return found


class Repeated(Compiled):
    """Calls of one kind that are made several times. Where what is decided by counters changes, another program goes on."""

    def repeat(self, call: RepeatedCall, rng: MemberRng) -> list[Outputs]:
        """Names and tensors ``[time, member, ...]`` of one program after another.

        Raises CompileError, before anything has changed, where there is no program and none can be made.
        """
        fixed = call.tensors[: len(call.tensors) - len(call.stacks)]
        parts, start = list[tuple[Program, slice]](), 0
        while start < len(call.times):
            call.counters = call.times[start]
            program = self.program(call)
            end = start + 1
            while end < min(len(call.times), start + MOST_AT_ONCE) and program.holds(call.times[end]):
                end += 1
            parts.append((program, slice(start, end)))
            start = end
        return [self._run(call, program, times, fixed, rng) for program, times in parts]

    @staticmethod
    def _run(call: RepeatedCall, program: Program, times: slice, fixed: Sequence[Tensor], rng: MemberRng) -> Outputs:
        counters, numbers, about = call.times[times], call.numbers_of(times), program.description
        draws = call.drawn(rng, about.draws, len(counters))
        pairs = zip(counters, numbers, strict=True)
        vectors = torch.tensor([[*counted.values(), *its] for counted, its in pairs], dtype=torch.float64)
        stacks, outputs = [stack[times] for stack in call.stacks], room(len(counters), call.members, about.outputs)
        program.run([*fixed, *stacks, *draws, vectors, *outputs, torch.tensor(len(counters))])
        return about.names, outputs
