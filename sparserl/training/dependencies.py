"""What a program depends on beside what it is given: code, compiler and machine.

A program is found by a key of all this, so that a change of any of it makes another program.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch


class CompileError(Exception):
    """There is no program and none can be made, and why, in a sentence."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    return _compiler_path() is not None


def _compiler_path() -> str | None:
    """Of the compiler that torch would take."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


def compiler() -> tuple[str, ...]:
    """The path of the C++ compiler and the line with its version: another one makes other code of the same trace."""
    path = _compiler_path()
    return () if path is None else (path, _version(path))


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.partition("\n")[0]


@cache
def surroundings() -> tuple[str, ...]:
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


def code_of(*parts: Any) -> list[tuple[str, str]]:
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
            yield from _held([*fields, *parts_in(part)])


def parts_in(part: Any) -> list[Any]:
    """The parts that a part has among its fields."""
    held = (getattr(part, field.name) for field in dataclasses.fields(part) if "parts" in field.metadata)
    return [its for parts in held for its in parts.values()]


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
