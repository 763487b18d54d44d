"""The ways in which many environments of Gymnasium's take a step: one after the other, in threads, in processes.

All give the same results. Sub-environments catch their own faults (containment.py), so what is raised here is about threads
and processes only.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any, Literal

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import _async_worker
from gymnasium.vector.utils import iterate

Make = Callable[[], gymnasium.Env[Any, Any]]
Vectorization = Literal["sync", "threads", "processes"]

CLOSING_SECONDS = 10.0
"""How long the processes of a vector together have to close their environments, before they are killed."""


def vectorize(make: Make, count: int, how: Vectorization, name: str, threads: int | None = None) -> VectorEnv[Any, Any, Any]:
    """``count`` environments that ``make`` makes, which reset only where they are told to.

    At most so many ``threads`` are used; None leaves that to Python.

    Raises what ``make`` raises, and closes what was made before.
    """
    if how == "processes":
        return ProcessVectorEnv(make, count, name)
    with ExitStack() as opened:
        envs = [opened.enter_context(closing(make())) for _ in range(count)]
        vector = (
            ThreadVectorEnv(envs, threads)
            if how == "threads"
            else SyncVectorEnv(_makers(envs), autoreset_mode=AutoresetMode.DISABLED)
        )
        opened.pop_all()
    return vector


def _makers(envs: Sequence[gymnasium.Env[Any, Any]]) -> list[Make]:
    return [lambda env=env: env for env in envs]  # type: ignore[misc]


class _Ahead(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives what its environment was told to do in another thread."""

    given: Future[Any]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.given.result()

    def step(self, action: Any) -> Any:
        return self.given.result()


class ThreadVectorEnv(SyncVectorEnv):
    """All sub-environments take their step at the same time, which is faster where stepping releases the GIL."""

    envs: list[_Ahead]  # type: ignore[assignment]

    def __init__(self, envs: Sequence[gymnasium.Env[Any, Any]], threads: int | None) -> None:
        super().__init__(_makers([_Ahead(env) for env in envs]), autoreset_mode=AutoresetMode.DISABLED)
        self._pool = ThreadPoolExecutor(threads)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        assert options is not None
        rest = {key: value for key, value in options.items() if key != "reset_mask"}
        for env, its_seed, due in zip(self.envs, seed, options["reset_mask"], strict=True):
            if due:
                env.given = self._pool.submit(env.env.reset, seed=its_seed, options=rest)
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        for env, action in zip(self.envs, iterate(self.action_space, actions), strict=True):
            env.given = self._pool.submit(env.env.step, action)
        return super().step(actions)

    def close_extras(self, **_: Any) -> None:
        """Wait for the steps under way, then close the sub-environments."""
        self._pool.shutdown(cancel_futures=True)
        super().close_extras()


class ProcessVectorEnv(AsyncVectorEnv):
    """One process for each sub-environment: one that dies is an error, not a hang, and at exit all have ended."""

    def __init__(self, make: Make, count: int, name: str) -> None:
        self.parent_pipes, self.processes = [], []
        self._name = name
        try:
            super().__init__([make] * count, autoreset_mode=AutoresetMode.DISABLED, worker=_work)
        except (EOFError, OSError) as error:
            raise self._died() from error
        except BaseException:
            _end(self.parent_pipes, self.processes)
            raise
        self._finalize = Finalize(self, _end, (self.parent_pipes, self.processes), exitpriority=1)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        try:
            return super().reset(seed=seed, options=options)
        except (EOFError, OSError) as error:
            raise self._died() from error

    def step(self, actions: Any) -> Any:
        try:
            return super().step(actions)
        except (EOFError, OSError) as error:
            raise self._died() from error

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the sub-environments and end their processes, also in the middle of a step."""
        self._finalize()

    def _died(self) -> RuntimeError:
        """The error of a process that is gone; ends the others."""
        gone = wait([process.sentinel for process in self.processes], timeout=1)  # its pipe may have closed a little earlier
        codes = set()
        for process in self.processes:
            if process.sentinel in gone:
                process.join()
                codes.add(process.exitcode or 0)
        _end(self.parent_pipes, self.processes)
        how = [f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}" for code in sorted(codes)]
        return RuntimeError(f"a process of {self._name} ended {' or '.join(how) or 'unexpectedly'}, and its episode with it")


def _end(pipes: Sequence[Any], processes: Sequence[Any]) -> None:
    """Ask each process to close its environment, and kill those that take too long; once more is harmless."""
    open_pipes = [pipe for pipe in pipes if pipe is not None and not pipe.closed]
    for pipe in open_pipes:
        with suppress(OSError):
            pipe.send(("close", None))
    deadline = time.monotonic() + CLOSING_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in open_pipes:
        pipe.close()


def _work(*arguments: Any) -> None:
    """Gymnasium's worker. A terminal or a scheduler signals all processes, but the main one ends in order and closes this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _async_worker(*arguments)
