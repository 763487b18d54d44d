"""SurRoL (https://github.com/med-air/SurRoL) on current packages, changed in memory only.

SurRoL was written for Python 3.7, gym 0.15, an old numpy and one simulation a process. What it needs of them:

* ``gym``: a base class, spaces, seeding, errors and ``register``. A module with these is there while SurRoL is imported.
* ``roboticstoolbox``: every arm builds a model with it, but only the tasks that steer a camera by its velocity ask the model.
  A module whose models answer nothing is there while SurRoL is imported.
* ``np.float`` and ``np.NaN``, which numpy has dropped, and ``np.random``, the global generator of the process.
* ``p``, which is pybullet: calls without a client go to the first one of the process.
* ``pkgutil.get_loader``, which Python has dropped, to find a plugin that draws on a GPU.
* ``print``.

After the import these names are replaced in SurRoL's own modules, and nowhere else: ``np`` by a copy with the old names and
with the generator of the environment that is being called, ``p`` by a copy that calls its client. So any number of
environments live in one process, one is not changed by another, and the process's own generator is never touched. Threads
take turns: what SurRoL's modules call is the same for all of them.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

CAMERA_VELOCITY = "it steers a camera by its velocity, for which SurRoL needs roboticstoolbox; sparserl does without"

_TURN = threading.RLock()
"""Whose turn it is to run SurRoL's code."""


class Clone:
    """The modules of one clone, loaded, and the simulation that they call: that of the environment under ``bound``."""

    def __init__(self, folder: Path) -> None:
        """Run the code in ``folder``. Raises ImportError where it, or a package that it needs, cannot be imported."""
        registered: dict[str, tuple[str, int]] = {}
        with _silenced():
            self._pybullet = importlib.import_module("pybullet")
            modules = _import(folder, registered)
        self._numpy: Any = _module("numpy", **vars(np) | {"float": float, "NaN": np.nan, "random": None})
        self._client = -1
        simulation = self._simulation()
        for module in modules.values():
            shims = {"np": self._numpy, "p": simulation, "pkgutil": _NO_PLUGINS}
            vars(module).update({name: shim for name, shim in shims.items() if name in vars(module)}, print=_print_nothing)
        self.tasks: Mapping[str, tuple[Callable[..., Any], int]] = {
            name.removesuffix("-v0"): (_found(modules, entry), limit) for name, (entry, limit) in registered.items()
        }
        """The class of each task and its step limit, as SurRoL registers them."""

    def connect(self) -> int:
        """A new simulation without a window; its number."""
        with _TURN:
            return int(self._pybullet.connect(self._pybullet.DIRECT))

    def disconnect(self, client: int) -> None:
        """End a simulation."""
        with _TURN:
            self._pybullet.disconnect(physicsClientId=client)

    @contextmanager
    def bound(self, client: int, generator: np.random.RandomState) -> Iterator[None]:
        """Within it SurRoL's code calls this simulation, and draws from this generator; other threads wait."""
        with _TURN:
            before = self._client, self._numpy.random
            self._client, self._numpy.random = client, generator
            try:
                yield
            finally:
                self._client, self._numpy.random = before

    def _simulation(self) -> ModuleType:
        """A copy of pybullet whose functions call the bound client, and leave connections to whoever bound it."""

        def of_client(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *arguments, **keys: function(*arguments, physicsClientId=self._client, **keys)

        functions = {
            name: of_client(function) for name, function in vars(self._pybullet).items() if inspect.isbuiltin(function)
        }
        # SurRoL's environments disconnect when they are collected, whichever is bound then
        own = {"connect": lambda *_: self._client, "disconnect": lambda *_: None, "loadPlugin": lambda *_: -1}
        return _module("pybullet", **vars(self._pybullet) | functions | own)


@cache
def load(folder: Path) -> Clone:
    """The clone in ``folder``, whose code is run the first time. Raises ImportError."""
    with _TURN:
        return Clone(folder)


def _import(folder: Path, registered: dict[str, tuple[str, int]]) -> dict[str, ModuleType]:
    """All modules of the tasks in ``folder``, which are left in no ``sys.modules``; what they register is noted."""

    def register(id: str, entry_point: str, max_episode_steps: int) -> None:  # noqa: A002 (gym's name)
        registered[id] = entry_point, max_episode_steps

    stand_ins = _gym(register) | {"roboticstoolbox": _toolbox()}
    hidden = {name: module for name, module in sys.modules.items() if name in stand_ins or _is_surrol(name)}
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        importlib.import_module("surrol.gym")
        for entry, _ in registered.values():
            importlib.import_module(entry.partition(":")[0])
        return {name: module for name, module in sys.modules.items() if _is_surrol(name)}
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name in stand_ins or _is_surrol(name)]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _is_surrol(name: str) -> bool:
    return name.partition(".")[0] == "surrol"


def _found(modules: Mapping[str, ModuleType], entry: str) -> Callable[..., Any]:
    module, _, name = entry.partition(":")
    found: Callable[..., Any] = getattr(modules[module], name)
    return found


def _gym(register: Callable[..., None]) -> dict[str, ModuleType]:
    """What of gym 0.15 SurRoL imports."""
    utils = _module("gym.utils", seeding=seeding)
    registration = _module("gym.envs.registration", register=register)
    envs = _module("gym.envs", registration=registration)
    gym = _module("gym", Env=object, spaces=spaces, error=gymnasium.error, utils=utils, envs=envs)
    return {module.__name__: module for module in (gym, utils, envs, registration)}


def _toolbox() -> ModuleType:
    return _module("roboticstoolbox", RevoluteMDH=_NoModel, PrismaticMDH=_NoModel, DHRobot=_NoModel)


class _NoModel:
    """A model of an arm that can be built and nothing else."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        raise ValueError(CAMERA_VELOCITY)


class _NoPlugin:
    def get_filename(self) -> str:
        return ""


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents, __name__=name)
    return module


def _print_nothing(*_: Any, **__: Any) -> None: ...


_NO_PLUGINS = _module("pkgutil", get_loader=lambda _: _NoPlugin())


@contextmanager
def _silenced() -> Iterator[None]:
    """Nothing is written to the terminal meanwhile, by C code either: pybullet tells when it was built."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    try:
        with Path(os.devnull).open("w") as nothing:
            for stream in (1, 2):
                os.dup2(nothing.fileno(), stream)
        yield
    finally:
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
