"""Programs on disk: compiled once, and loaded by every process that needs the same one.

They are kept in ``$XDG_CACHE_HOME/sparserl/programs``, or in ``~/.cache``. A program is code that runs as the user, so the
folder is the user's own, and what another user owns or can write is not loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from filelock import FileLock
from torch import Tensor

from sparserl.training.guards import Guard, prepared

Output: TypeAlias = tuple[Sequence[int], str]
"""The shape of a tensor without its first axis, and the name of its type."""


@dataclass(frozen=True)
class Description:
    """What has to be known of a program before it is run; kept beside it as JSON."""

    guards: Sequence[Guard]
    """Under which it holds."""
    draws: Sequence[tuple[str, Sequence[int]]]
    """The random numbers that it is given: their kind, and their shape without the member axis."""
    names: Sequence[str]
    """The names for what the function of its call gives."""
    outputs: Sequence[Output]
    """What those tensors are like."""


@dataclass(frozen=True)
class Program:
    """A program that is loaded."""

    description: Description
    holds: Callable[[Mapping[str, int]], bool]
    """Whether it does for some counters."""
    run: Callable[[list[Tensor]], list[Tensor]]
    """From the tensors of a call to what it gives; changes some of them in place."""


class CacheError(Exception):
    """The folder of the programs cannot be used, in a sentence."""


def folder() -> Path:
    """The folder of the programs, made where it is missing. Raises CacheError where it is not this user's own."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path.home() / ".cache"  # noqa: PTH117 (as the XDG specification asks)
    own = base / "sparserl" / "programs"
    own.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    own.mkdir(exist_ok=True, mode=0o700)
    for path in (own.parent, own):
        check_owner(path)
    return own


def check_owner(path: Path) -> None:
    """Raises CacheError where another user owns a file or folder, or may write it."""
    found = path.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheError(f"{path} belongs to another user or can be written by one")


def key_of(*parts: Any) -> str:
    """A name that is the same for equal parts only, whose ``repr`` says all of them."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:32]


def lock(key: str) -> FileLock:
    """Lets one process at a time compile what a key names; that of a process that was killed is free."""
    own = folder() / key
    own.mkdir(exist_ok=True, mode=0o700)
    return FileLock(own / "lock")


def find(key: str, numbers: Mapping[str, int]) -> Program | None:
    """The program of a key that holds for these numbers, or None. Raises CacheError where it must not be loaded."""
    own = folder() / key
    for path in sorted(own.glob("*.json")):
        check_owner(own)
        check_owner(path)
        described = json.loads(path.read_text())
        guards = [(expression, result) for expression, result in described.pop("guards")]
        holds = prepared(guards)
        if holds(numbers):
            library = path.with_suffix(".pt2")
            check_owner(library)
            return Program(Description(guards, **described), holds, load(library))
    return None


def load(library: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """The function in a library, without importing the compiler."""
    loader = torch._C._aoti.AOTIModelPackageLoader(str(library), "model", True, 1, -1)  # noqa: SLF001
    run: Callable[[list[Tensor]], list[Tensor]] = loader.run
    return run


def keep(key: str, description: Description, compile_to: Callable[[Path], None]) -> None:
    """Compile into the folder. Others see the program when it is complete; of one that failed nothing is left."""
    with tempfile.TemporaryDirectory(dir=folder(), prefix="compiling-") as temporary:
        library = Path(temporary) / "program.pt2"
        compile_to(library)
        library.chmod(0o600)
        text = library.with_suffix(".json")
        text.write_text(json.dumps(asdict(description)))
        text.chmod(0o600)
        own, name = folder() / key, key_of(description.guards)
        own.mkdir(exist_ok=True, mode=0o700)
        library.replace(own / f"{name}.pt2")
        text.replace(own / f"{name}.json")  # what is looked for, so last
