"""The gradient step as a program: traced from the parts as they are written, and compiled ahead of time by AOTInductor.

The number of members is open, so one program serves every population, and a member's numbers in it do not depend on the
others. All that changes between steps is an input: the state, which is changed in place, the batch, random numbers, and the
values of schedules. Whatever else a step decides by is part of the key of the program or one of its guards.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.population.random import MemberRng
from sparserl.regularizers.base import Regularizer
from sparserl.schedules import Schedule
from sparserl.terminal import describe, say
from sparserl.training import programs
from sparserl.training.guards import Guard, TracedNumber, hold
from sparserl.training.programs import Description, Program
from sparserl.training.step import FixedGates, GradientStep, LearnerState, Scalars
from sparserl.types import Batch, Metrics, Noise, Time

T = TypeVar("T")

MEMBER_COUNTS = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
"""The numbers of members that a step is traced with. Sizes that are equal are taken to be the same size, so it must be one that
no other axis has."""

MOST_MEMBERS = 65_536
"""A bound that the compiler asks for."""

COMPILER = {"cpp.threads": 1, "aot_inductor.precompile_headers": False}
"""Its settings. Precompiled headers would leave 300 MB in /tmp, and need openssl; without them a program takes 4 s longer."""

TIME = ("step", "previous_step", "update")


class CompileError(Exception):
    """A step cannot run compiled, and why, in a sentence."""


@dataclasses.dataclass(frozen=True)
class Given(Schedule):
    """A schedule whose value is an input of the program."""

    value: Tensor

    def __call__(self, step: int) -> Any:
        return self.value


class RecordedDraws:
    """Stands for a MemberRng while a step is traced: hands out given tensors, or zeros, and writes down what was asked for."""

    def __init__(self, members: int, given: Sequence[Tensor] | None = None) -> None:
        self._members, self._given = members, iter(given) if given is not None else None
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.device = torch.device("cpu")

    def _take(self, distribution: str, shape: tuple[int, ...]) -> Tensor:
        self.asked.append((distribution, tuple(int(size) for size in shape)))
        return torch.zeros(self._members, *shape) if self._given is None else next(self._given)

    def uniform(self, *shape: int) -> Tensor:
        return self._take("uniform", shape)

    def normal(self, *shape: int) -> Tensor:
        return self._take("normal", shape)


class CompiledStep:
    """A GradientStep whose programs are found, or compiled, when they are needed first."""

    def __init__(self, step: GradientStep) -> None:
        self._step = step
        self._programs: dict[Any, list[Program]] = {}
        self._schedules = [its for part in (step.algorithm, step.regularizer) for its in _schedules(part).values()]

    def __call__(
        self,
        state: LearnerState,
        batch: Batch,
        scalars: Scalars,
        noise: Mapping[str, Noise],
        with_noise_free: bool,
        rng: MemberRng,
    ) -> Metrics:
        """As GradientStep, which see; ``with_noise_free`` says whether components without noise are needed.

        Raises CompileError, before anything has changed, where there is no program and none can be made.
        """
        arguments = _Arguments(self._step, state, batch, scalars, noise, with_noise_free)
        numbers = {name: getattr(scalars.time, name) for name in TIME}
        known = self._programs.setdefault(arguments.signature(), [])
        program = next((its for its in known if hold(its.description.guards, numbers)), None)
        if program is None:
            program = self._program(arguments, numbers)
            known.append(program)
        members = len(state.learns)
        draws = [getattr(rng, distribution)(*shape).contiguous() for distribution, shape in program.description.draws]
        values = [schedule(scalars.time.step) for schedule in self._schedules]
        (rows,) = program.run([*arguments.tensors(members), *draws, arguments.numbers(values)])
        return dict(zip(program.description.metrics, rows.unbind(0), strict=True))

    def _program(self, arguments: _Arguments, numbers: Mapping[str, int]) -> Program:
        try:
            if (device := arguments.state.learns.device).type != "cpu":  # where a run that began on a CPU goes on elsewhere
                raise CompileError(f"they are compiled for a CPU only, and this run is on {device.type}")
            if not has_compiler():
                raise CompileError("no C++ compiler is found: install g++ (clang++ on macOS), or name another in CXX")
            key = programs.key_of(arguments.key(), *_surroundings(), *_compiler())
            if (found := programs.find(key, numbers)) is not None:
                return found
            with programs.locked(programs.folder()):
                if (found := programs.find(key, numbers)) is not None:  # another process has made it
                    return found
                return self._compile(key, arguments, numbers)
        except CompileError:
            raise
        except Exception as error:
            raise CompileError(describe(error)) from error

    def _compile(self, key: str, arguments: _Arguments, numbers: Mapping[str, int]) -> Program:
        say("compiling the gradient step; this takes half a minute, once")
        started = time.perf_counter()
        traced = Trace(arguments, numbers, len(self._schedules))
        programs.keep(key, traced.description, traced.compile_to)
        say(f"compiled the gradient step in {time.perf_counter() - started:.0f} s")
        found = programs.find(key, numbers)
        if found is None:
            raise CompileError("the program that was compiled is not one for this step")
        return found


def _values(part: Any) -> dict[str, Any]:
    """The values of a part by the name of the field; of the parts in it by path, as ``terms.l1.lambda_c``."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        if "parts" in field.metadata:
            for name, its in getattr(part, field.name).items():
                found |= {f"{field.name}.{name}.{path}": value for path, value in _values(its).items()}
        elif field.init:
            found[field.name] = getattr(part, field.name)
    return found


def _schedules(part: Algorithm | Regularizer) -> dict[str, Schedule]:
    return {path: value for path, value in _values(part).items() if isinstance(value, Schedule)}


def _per_member(part: Algorithm | Regularizer) -> dict[str, Tensor]:
    return {path: value for path, value in _values(part).items() if isinstance(value, Tensor)}


def _with(part: T, values: Mapping[str, Any]) -> T:
    """A copy of a part with other values at some paths; what it has computed from the others stays.

    Paths in parts that it lacks are left out: bound to a component, a sum has only the terms that cover it.
    """
    changed, within = copy.copy(part), dict[tuple[str, str], dict[str, Any]]()
    for path, value in values.items():
        if "." in path:
            field, name, rest = path.split(".", 2)
            within.setdefault((field, name), {})[rest] = value
        else:
            object.__setattr__(changed, path, value)
    for (field, name), its in within.items():
        if name in (held := getattr(changed, field)):
            object.__setattr__(changed, field, {**held, name: _with(held[name], its)})
    return changed


class _Arguments:
    """What a step is given, as a list of tensors, and back. In the list a tensor has the member axis first, or no axis.

    All are contiguous: a program takes that for granted, and would read other numbers where they are not.
    """

    def __init__(
        self,
        step: GradientStep,
        state: LearnerState,
        batch: Batch,
        scalars: Scalars,
        noise: Mapping[str, Noise],
        with_noise_free: bool,
    ) -> None:
        self.step, self.state, self.batch, self.scalars, self.noise = step, state, batch, scalars, noise
        self.with_noise_free = with_noise_free

    # ------------------------------------------------------------ to tensors

    def tensors(self, members: int) -> list[Tensor]:
        """All but random numbers and scalars."""
        read = [*self.batch.values(), *(its for noise in self.noise.values() for its in noise.values())]
        read += [
            _over_members(its, members)
            for part in (self.step.algorithm, self.step.regularizer)
            for its in _per_member(part).values()
        ]
        read += [its for its in self.scalars.penalty.values() if isinstance(its, Tensor)]
        fixed = [its for each in self.state.fixed_gates.values() for its in (*each.multipliers.values(), each.penalty)]
        return [*self._changed(), *(tensor.contiguous() for tensor in (*fixed, *read))]

    def _changed(self) -> list[Tensor]:
        """What the program changes in place."""
        state = self.state
        found: list[Tensor] = [state.learns]
        for group in (state.weights, state.gates):
            for its in group.values():
                found += [its.buffer, *its.moments.values()]
        found += [its.buffer for its in state.targets.values()]
        for layers in state.statistics.values():
            for name, tensor in layers.items():
                layers[name] = tensor.contiguous()  # another tensor only where an algorithm has made it so
                found.append(layers[name])
        return found

    def numbers(self, schedules: Sequence[float]) -> Tensor:
        """The scalars, one vector of float64."""
        scalars = self.scalars
        penalties = [its for its in scalars.penalty.values() if not isinstance(its, Tensor)]
        time = [getattr(scalars.time, name) for name in TIME]
        return torch.tensor([*time, scalars.gate_rate, *scalars.rates.values(), *penalties, *schedules], dtype=torch.float64)

    # ------------------------------------------------------------ what a program is for

    def signature(self) -> tuple[Any, ...]:
        """What may differ between two steps of one learner and makes them two programs, but for guards."""
        fixed = tuple((component, *its.multipliers) for component, its in self.state.fixed_gates.items())
        batch = tuple((name, tensor.shape[1:], tensor.dtype) for name, tensor in self.batch.items())
        return fixed, batch, tuple(self.noise), self.scalars.gates_active, self.with_noise_free

    def key(self) -> tuple[Any, ...]:
        """All that a program is made from, but for the code."""
        shapes = [(tuple(tensor.shape[1:]), tensor.dim(), tensor.dtype) for tensor in self.tensors(len(self.state.learns))]
        state = self.state
        names = [
            {component: tuple(its.views) for component, its in group.items()}
            for group in (state.weights, state.gates, state.targets)
        ]
        parts = [_described(part) for part in (self.step.algorithm, self.step.regularizer)]
        structures = {component: regularizer.structure for component, regularizer in self.step.bound.items()}
        statistics = {component: tuple(its) for component, its in state.statistics.items()}
        penalties = [(name, isinstance(its, Tensor)) for name, its in self.scalars.penalty.items()]
        code = _code_of(self.step.algorithm, self.step.regularizer)
        return self.signature(), shapes, names, statistics, parts, self.step.algorithm.spec, structures, penalties, code

    # ------------------------------------------------------------ and back, while tracing

    def run(
        self, tensors: Sequence[Tensor], draws: RecordedDraws, numbers: Tensor, plain: Mapping[str, int], guards: list[Guard]
    ) -> tuple[list[str], Tensor]:
        """The step on a list of tensors like that of ``tensors``. Returns the names of the metrics, and the metrics."""
        rest = iter(tensors)
        values = iter(numbers.unbind(0))
        state = self._state(rest)
        batch = {name: next(rest) for name in self.batch}
        noise = {component: {name: next(rest) for name in its} for component, its in self.noise.items()}
        algorithm, regularizer = self.step.algorithm, self.step.regularizer
        algorithm = _with(algorithm, {name: next(rest) for name in _per_member(algorithm)})
        regularizer = _with(regularizer, {name: next(rest) for name in _per_member(regularizer)})
        penalty = {name: next(rest) if isinstance(its, Tensor) else None for name, its in self.scalars.penalty.items()}
        tensors_of_time = {name: next(values).long() for name in TIME}
        time = Time(*(TracedNumber(name, plain, tensors_of_time, guards) for name in TIME))  # type: ignore[arg-type]
        gate_rate = next(values)
        rates = {name: next(values) for name in self.scalars.rates}
        penalty = {name: next(values) if its is None else its for name, its in penalty.items()}
        algorithm = _with(algorithm, {name: Given(next(values)) for name in _schedules(algorithm)})
        regularizer = _with(regularizer, {name: Given(next(values)) for name in _schedules(regularizer)})
        given = _per_member(regularizer) | _schedules(regularizer)
        bound = {component: _with(its, given) for component, its in self.step.bound.items()}
        step = GradientStep(algorithm, regularizer, bound)
        scalars = Scalars(time, self.scalars.gates_active, penalty, rates, gate_rate)  # type: ignore[arg-type]
        before = [(layers, name, tensor) for layers in state.statistics.values() for name, tensor in layers.items()]
        with torch.no_grad():
            multipliers = {component: step.multipliers(state, component) for component in bound if self.with_noise_free}
            noise_free = step.noise_free(state, multipliers) if self.with_noise_free else {}
        with torch.enable_grad():
            metrics = step(state, batch, scalars, noise, noise_free, draws)  # type: ignore[arg-type]
        for layers, name, tensor in before:
            if layers[name] is not tensor:
                tensor.copy_(layers[name])
        return list(metrics), torch.stack([metric.detach() for metric in metrics.values()])

    def _state(self, rest: Iterator[Tensor]) -> LearnerState:
        state, learns = self.state, next(rest)
        weights, gates = (
            {
                component: its.with_moments(next(rest), {name: next(rest) for name in its.moments})
                for component, its in group.items()
            }
            for group in (state.weights, state.gates)
        )
        targets = {component: its.moved(next(rest)) for component, its in state.targets.items()}
        statistics = {component: {name: next(rest) for name in layers} for component, layers in state.statistics.items()}
        fixed = {
            component: FixedGates({name: next(rest) for name in its.multipliers}, next(rest))
            for component, its in state.fixed_gates.items()
        }
        return LearnerState(weights, gates, targets, statistics, learns, fixed)


def _over_members(tensor: Tensor, members: int) -> Tensor:
    """A value of each member, of one that may hold for all."""
    return tensor.expand(members)


def _described(part: Algorithm | Regularizer) -> tuple[list[str], dict[str, str]]:
    """The classes of a part and of the parts in it, and their values; of what is an input only that it is one."""
    inputs = {**_schedules(part), **_per_member(part)}
    classes = [type(its).__qualname__ for its in (part, *_parts_in(part))]
    return classes, {path: "input" if path in inputs else repr(its) for path, its in _values(part).items()}


def _parts_in(part: Any) -> list[Any]:
    held = (getattr(part, field.name) for field in dataclasses.fields(part) if "parts" in field.metadata)
    return [its for parts in held for its in parts.values()]


class Trace:
    """A step as a graph of operations, with what has to be known of it."""

    def __init__(self, arguments: _Arguments, numbers: Mapping[str, int], schedules: int) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        given = arguments.tensors(len(arguments.state.learns))
        scalars = arguments.numbers([0.0] * schedules)
        taken = {size for tensor in given for size in tensor.shape[1:]} | {len(scalars)}
        members = next(count for count in MEMBER_COUNTS if count not in taken)
        examples = [
            tensor.new_zeros(members, *tensor.shape[1:]) if tensor.dim() else torch.zeros_like(tensor) for tensor in given
        ]
        probe = RecordedDraws(members)
        names, _ = arguments.run([tensor.clone() for tensor in examples], probe, scalars, numbers, [])
        draws = [torch.zeros(members, *shape) for _, shape in probe.asked]
        guards: list[Guard] = []

        def flat(*tensors: Tensor) -> tuple[Tensor]:
            state, drawn = tensors[: len(examples)], tensors[len(examples) : -1]
            guards.clear()
            _, rows = arguments.run(state, RecordedDraws(members, drawn), tensors[-1], numbers, guards)
            return (rows,)

        self._examples = (*examples, *draws, scalars)
        with torch.no_grad():
            self.graph = make_fx(flat, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*self._examples)
        self.description = Description(guards, probe.asked, names)

    def compile_to(self, library: Path) -> None:
        """Write the program to a file."""
        from torch._inductor import aoti_compile_and_package
        from torch._inductor.utils import fresh_cache

        members = torch.export.Dim("members", min=1, max=MOST_MEMBERS)
        inputs = self._examples[:-1]
        shapes = tuple({0: members} if tensor.dim() else None for tensor in inputs)
        with torch.no_grad(), _quiet(), fresh_cache(dir=str(library.parent)):
            exported = torch.export.export(
                _Module(self.graph), self._examples, dynamic_shapes={"tensors": (*shapes, None)}, strict=False
            )
            aoti_compile_and_package(exported, package_path=str(library), inductor_configs=COMPILER)


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


# ---------------------------------------------------------------- what a program depends on beside its arguments


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    return _compiler_path() is not None


def _compiler_path() -> str | None:
    """Of the compiler that torch would take."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


def _compiler() -> tuple[str, ...]:
    """The path of the C++ compiler and the line with its version: another one makes other code of the same trace."""
    path = _compiler_path()
    return () if path is None else (path, _version(path))


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.partition("\n")[0]


@cache
def _surroundings() -> tuple[str, ...]:
    """What a program depends on beside what is traced."""
    capability = torch.backends.cpu.get_cpu_capability()
    return torch.__version__, platform.machine(), _processor(), capability, _sources()


def _processor() -> str:
    """The instructions that the processor knows, since code is compiled for just this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@cache
def _sources() -> str:
    """A digest of the sources of this package: all of them, since any may be part of a step."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _code_of(*parts: Algorithm | Regularizer) -> list[tuple[str, str]]:
    """The modules that are not this package's own and from which parts, and what they hold, have code: names and digests.

    Of a package outside site-packages they are all that are loaded, and those of the packages that it imports: a class may
    call a function of any of them. Of an installed package it is the module of the class. Raises CompileError where the
    source of a class is in no file, since a change of it would not be seen.
    """
    owners = {cls.__module__ for part in _held(parts) for cls in type(part).__mro__}
    found: dict[str, bytes] = {}
    packages: set[str] = set()
    waiting = sorted(owner for owner in owners if _package(owner) not in KNOWN_PACKAGES)
    for owner in waiting:
        path = _file_of(owner)
        if path is None:
            raise CompileError(f"the source of {owner} is in no file")
        found[owner] = path.read_bytes()
    while waiting:
        package = _package(waiting.pop())
        if package in packages or package in KNOWN_PACKAGES:
            continue
        packages.add(package)
        for name in [name for name in tuple(sys.modules) if _package(name) == package]:  # which another thread may add to
            path = _file_of(name)
            if path is not None and not INSTALLED & set(path.parts):
                found[name] = path.read_bytes()
                waiting += _imports(found[name]) if path.suffix == ".py" else []
    return [(name, hashlib.sha256(source).hexdigest()) for name, source in sorted(found.items())]


KNOWN_PACKAGES = {"sparserl", "torch", *sys.stdlib_module_names} - {"__main__"}
"""Packages whose code the rest of a key stands for, or Python does."""

INSTALLED = {"site-packages", "dist-packages"}


def _held(parts: Sequence[Any]) -> Iterator[Any]:
    """Parts, what they hold, and what that holds."""
    for part in parts:
        yield part
        if dataclasses.is_dataclass(part):
            fields = [getattr(part, field.name) for field in dataclasses.fields(part) if hasattr(part, field.name)]
            yield from _held([*fields, *_parts_in(part)])


def _package(module: str) -> str:
    """The top-level package of a module."""
    return module.partition(".")[0]


def _file_of(module: str) -> Path | None:
    """The file that a module was loaded from, if it is loaded and was from one."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file else None


def _imports(source: bytes) -> list[str]:
    """The modules that a source imports by their whole names, wherever in it."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
