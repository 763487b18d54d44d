"""Programs: functions that are traced from the parts as they are written, and compiled ahead of time by AOTInductor.

The number of members is open, so one program serves every population, and a member's numbers in it do not depend on the
others. All that changes between two calls is an input: tensors, of which some are changed in place, random numbers, and
numbers. Whatever else a call decides by is part of the key of the program or one of its guards.
"""

from __future__ import annotations

import copy
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from filelock import Timeout
from torch import Tensor

from sparserl.networks.products import kernel, traced_for_program
from sparserl.population.random import MemberRng
from sparserl.terminal import describe, say
from sparserl.training import programs
from sparserl.training.decompositions import DECOMPOSITIONS
from sparserl.training.dependencies import CompileError, code_of, compiler, has_compiler, surroundings
from sparserl.training.guards import Guard, TracedNumber
from sparserl.training.interrupts import check_all
from sparserl.training.kernels import IN_CPP
from sparserl.training.programs import Description, Output, Program

MEMBER_COUNTS = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
"""The numbers of members that a call is traced with. Sizes that are equal are taken to be the same size, so it must be one that
no other axis has."""

MOST_MEMBERS = 65_536
"""A bound that the compiler asks for."""

LARGE = 1_000_000
"""Numbers of a tensor that stands for an input, and is not filled: of a ring of replay it would take as much memory as the
ring."""

COMPILER = {
    "cpp.threads": 1,
    "aot_inductor.precompile_headers": False,
    "aot_inductor.custom_ops_to_c_shims": {kernel._opoverload: IN_CPP},  # noqa: SLF001
}
"""Its settings. Precompiled headers would leave 300 MB in /tmp, and need openssl; without them a program takes 4 s longer."""


Counters: TypeAlias = Mapping[str, TracedNumber] | Mapping[str, int]
"""What a function may decide by: numbers that write it down while it is traced, or plain ones where it runs eagerly."""


Number: TypeAlias = Tensor | float
"""One of the further numbers: a tensor [] in a program, and a plain one where the function runs eagerly."""


class Call(ABC):
    """What a program is given once, and the function that it is made from."""

    what: ClassVar[str]
    """Its name for the user."""

    tensors: Sequence[Tensor]
    """Each has the member axis first, or no axis. All are contiguous: a program takes that for granted, and would read other
    numbers where they are not."""
    changed: int
    """How many of them, the first, the program changes in place."""
    counters: Mapping[str, int]
    """What the function may decide by; what it decides becomes a guard."""
    numbers: Sequence[float]
    """Further numbers."""
    signature: Hashable
    """What may differ between two calls of one holder and makes them two programs, but for guards."""

    @property
    @abstractmethod
    def members(self) -> int:
        """How many there are."""

    @abstractmethod
    def key(self) -> tuple[Any, ...]:
        """All that the program is made from, but for code, and types and shapes of ``tensors``."""

    @abstractmethod
    def parts(self) -> list[Any]:
        """The objects whose code it is made from."""

    @abstractmethod
    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws | MemberRng,
        counters: Counters,
        numbers: Sequence[Number],
    ) -> tuple[list[str], list[Tensor]]:
        """The function, on tensors and numbers like those of this call: names for what it gives, and the tensors."""

    def draw(self, rng: MemberRng, asked: Sequence[tuple[str, Sequence[int]]]) -> list[Tensor]:
        """The random numbers that the function asks for, in its order."""
        return [getattr(rng, distribution)(*shape).contiguous() for distribution, shape in asked]

    def module(self, traced: torch.nn.Module, outputs: Sequence[Output]) -> torch.nn.Module:
        """What is compiled: the ``traced`` function, or something that calls it."""
        return _Module(traced)

    def examples(self, given: Sequence[Tensor], outputs: Sequence[Output]) -> list[Tensor]:
        """What the module takes, made of what the function was traced with."""
        return [*given]

    def dynamic_axes(self, given: Sequence[Tensor], outputs: Sequence[Output]) -> list[dict[int, Any] | None]:
        """The axes of that whose size a program leaves open."""
        members = members_axis()
        return [*({0: members} if tensor.dim() else None for tensor in given[:-1]), None]


class RecordedDraws:
    """Stands for a MemberRng while a call is traced: hands out given tensors, or zeros, and writes down what was asked for."""

    def __init__(self, members: int, given: Sequence[Tensor] | None = None) -> None:
        self._members, self._given = members, iter(given) if given is not None else None
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.device = torch.device("cpu")
        self._stream = ""

    def _take(self, distribution: str, shape: tuple[int, ...]) -> Tensor:
        self.asked.append((f"{self._stream}{distribution}", tuple(int(size) for size in shape)))
        return torch.zeros(self._members, *shape) if self._given is None else next(self._given)

    def of(self, stream: str) -> RecordedDraws:
        """The same, with numbers that are drawn from another stream: its name is written before the kind of the numbers."""
        other = copy.copy(self)
        other._stream = f"{stream}/"  # noqa: SLF001 (it is one of this class)
        return other

    def uniform(self, *shape: int) -> Tensor:
        return self._take("uniform", shape)

    def normal(self, *shape: int) -> Tensor:
        return self._take("normal", shape)


class Compiled:
    """Calls of one kind, whose programs are found, or compiled, when they are needed first."""

    def __init__(self) -> None:
        self._programs: dict[Hashable, list[Program]] = {}

    def __call__(self, call: Call, rng: MemberRng | None = None) -> tuple[Sequence[str], list[Tensor]]:
        """Names and tensors that the function of the call gives; ``rng`` is not needed by one that draws nothing.

        Raises CompileError, before anything has changed, where there is no program and none can be made.
        """
        program = self.program(call)
        draws = call.draw(rng, program.description.draws) if rng else []
        return program.description.names, program.run([*call.tensors, *draws, vector_of(call)])

    def program(self, call: Call) -> Program:
        """That of a call. Raises CompileError where there is none and none can be made."""
        known = self._programs.setdefault(call.signature, [])
        program = next((its for its in known if its.holds(call.counters)), None)
        if program is None:
            program = _find_or_compile(call)
            known.append(program)
        return program


def members_axis() -> Any:
    """The axis of the members, as an export names it."""
    return torch.export.Dim("members", min=1, max=MOST_MEMBERS)


def vector_of(call: Call) -> Tensor:
    """The counters and numbers of a call, one vector of float64."""
    return torch.tensor([*call.counters.values(), *call.numbers], dtype=torch.float64)


def key_of(call: Call) -> str:
    """The name of its program, by all that the program depends on."""
    shapes = [(tuple(tensor.shape[1:]), tensor.dim(), tensor.dtype) for tensor in call.tensors]
    given = type(call).__qualname__, call.signature, shapes, call.changed, [*call.counters], len(call.numbers), call.key()
    return programs.key_of(given, code_of(*call.parts()), surroundings(), compiler())


def _find_or_compile(call: Call) -> Program:
    try:
        if elsewhere := {tensor.device.type for tensor in call.tensors} - {"cpu"}:  # of a run that began on a CPU
            raise CompileError(f"they are compiled for a CPU only, and this run is on {elsewhere.pop()}")
        if not has_compiler():
            raise CompileError("no C++ compiler is found: install g++ (clang++ on macOS), or name another in CXX")
        key = key_of(call)
        if (found := programs.find(key, call.counters)) is not None:
            return found
        with _alone(key, call.what):
            if (found := programs.find(key, call.counters)) is not None:  # another process has made it
                return found
            return _compile(key, call)
    except CompileError:
        raise
    except Exception as error:
        check_all()  # Ctrl-C ends the compiler too
        raise CompileError(describe(error)) from error


@contextmanager
def _alone(key: str, what: str) -> Iterator[None]:
    """Within it no other process compiles what this key names. Raises KeyboardInterrupt where one was received before."""
    lock = programs.lock(key)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that compiles {what}")
        while not lock.is_locked:
            check_all()
            with suppress(Timeout):
                lock.acquire(timeout=1)
    try:
        check_all()
        yield
    finally:
        lock.release()


def _compile(key: str, call: Call) -> Program:
    say(f"compiling {call.what}; this takes half a minute, once")
    started = time.perf_counter()
    traced = Trace(call)
    programs.keep(key, traced.description, traced.compile_to)
    say(f"compiled {call.what} in {time.perf_counter() - started:.0f} s")
    found = programs.find(key, call.counters)
    if found is None:
        raise CompileError("the program that was compiled is not one for this step")
    return found


class Trace:
    """A call as a graph of operations, with what has to be known of it."""

    def __init__(self, call: Call) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        self._call, vector = call, vector_of(call)
        taken = {size for tensor in call.tensors for size in tensor.shape[1:]} | {len(vector)}
        members = next(count for count in MEMBER_COUNTS if count not in taken)
        examples = [_example(tensor, members) for tensor in call.tensors]
        guards: list[Guard] = []

        def run(tensors: Sequence[Tensor], vector: Tensor, draws: RecordedDraws) -> tuple[list[str], list[Tensor]]:
            guards.clear()
            values = vector.unbind(0)
            counted = {name: value.long() for name, value in zip(call.counters, values, strict=False)}
            counters = {name: TracedNumber(name, call.counters, counted, guards) for name in call.counters}
            return call.run(tensors, draws, counters, values[len(counters) :])

        probe = RecordedDraws(members)
        changed = [tensor.clone() if tensor.numel() < LARGE else tensor for tensor in examples[: call.changed]]
        names, made = run([*changed, *examples[call.changed :]], vector, probe)
        draws = [torch.zeros(members, *shape) for _, shape in probe.asked]

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            given, drawn = tensors[: len(examples)], tensors[len(examples) : -1]
            return tuple(run(given, tensors[-1], RecordedDraws(members, drawn))[1])

        self._examples = (*examples, *draws, vector)
        with torch.no_grad(), traced_for_program():
            trace = make_fx(flat, DECOMPOSITIONS, tracing_mode="symbolic", _allow_non_fake_inputs=True)
            self.graph = trace(*self._examples)
        outputs = [((*its.shape[1:],), str(its.dtype).removeprefix("torch.")) for its in made]
        self.description = Description(guards, probe.asked, names, outputs)

    def module(self) -> torch.nn.Module:
        """What is compiled."""
        return self._call.module(self.graph, self.description.outputs)

    def compile_to(self, library: Path) -> None:
        """Write the program to a file."""
        from torch._inductor import aoti_compile_and_package
        from torch._inductor.utils import fresh_cache

        call, given, outputs = self._call, self._examples, self.description.outputs
        with torch.no_grad(), _quiet(), fresh_cache(dir=str(library.parent)):
            examples, axes = tuple(call.examples(given, outputs)), tuple(call.dynamic_axes(given, outputs))
            exported = torch.export.export(self.module(), examples, dynamic_shapes={"tensors": axes}, strict=False)
            aoti_compile_and_package(exported, package_path=str(library), inductor_configs=COMPILER)


def _example(tensor: Tensor, members: int) -> Tensor:
    """A tensor of so many members in the place of this one: zeros, which are places that exist where they are indices."""
    if not tensor.dim():
        return torch.zeros_like(tensor)
    shape = members, *tensor.shape[1:]
    return tensor.new_zeros(shape) if tensor[0].numel() < LARGE else tensor.new_empty(shape)


class _Module(torch.nn.Module):
    """What export asks for. It turns this into a GraphModule, whose own ``graph`` an attribute of that name would hide."""

    def __init__(self, traced: torch.nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.traced(*tensors))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the compiler warns its own developers of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
