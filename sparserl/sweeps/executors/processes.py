"""Several at once, in processes of this machine that take one item after another."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any

from sparserl.sweeps.executors.base import Executor, R, T
from sparserl.terminal import describe
from sparserl.training.interrupts import Interrupts

_SPAWN = multiprocessing.get_context("spawn")  # a fork would share this process's threads and locks


def usable_cores() -> list[int]:
    """The cores that this process may use: on macOS, which does not say, all."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]


class ProcessDiedError(RuntimeError):
    """Where an item's process ended without a word."""


class Processes(Executor):
    """As many processes as there are ``workers`` (None: one for each core that this process may use), one thread each.

    A process that dies takes only its own item along: another one comes in its place.
    """

    workers: int

    def __init__(self, workers: int | None) -> None:
        self.workers = workers or len(usable_cores())

    def execute(self, work: Callable[[T], R], items: Sequence[T], names: Sequence[str]) -> list[R | Exception]:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # in a process it would come too late for libraries that are loaded
        results: dict[int, R | Exception] = {}
        waiting = list(range(len(items)))[::-1]
        idle: list[_Worker] = []
        busy: dict[_Worker, int] = {}
        told = False
        with Interrupts() as interrupts:
            try:
                # all at once, since one that begins listens only after seconds of imports
                idle.extend(_Worker() for _ in items[: self.workers])
                while busy or (waiting and not told):
                    while waiting and interrupts.received is None and len(busy) < self.workers:
                        worker = idle.pop() if idle else _Worker()
                        busy[worker] = waiting.pop()
                        worker.give(work, items[busy[worker]])
                    if interrupts.received is not None and not told:
                        told = True
                        for worker in busy:
                            worker.stop()
                    for worker in _ready(list(busy)):
                        index = busy.pop(worker)
                        try:
                            results[index] = worker.take()
                            idle.append(worker)
                        except EOFError:
                            results[index] = ProcessDiedError(f"the process of {names[index]} {worker.end()}")
            finally:
                for worker in busy:  # a second signal does not wait
                    worker.kill()
                for worker in (*idle, *busy):
                    worker.end()
            interrupts.check_interrupt()
        return [results[index] for index in range(len(items))]


class _Worker:
    """One process, seen from here."""

    def __init__(self) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=[theirs], daemon=False)
        resource_tracker.ensure_running()  # or it is begun below, and lets SIGINT through when it is
        # a terminal sends SIGINT to all, also while they are still importing; who is to end is told by SIGTERM
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def give(self, work: Callable[[Any], Any], item: Any) -> None:
        with suppress(ConnectionError):  # it has died, which take will find out
            self.connection.send((work, item))

    def take(self) -> Any:
        """The answer. Raises EOFError where there will be none."""
        try:
            return self.connection.recv()
        except ConnectionError as error:
            raise EOFError from error

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it as it stands."""
        self._process.kill()

    def end(self) -> str:
        """Let it go; how it ended."""
        self.connection.close()
        self._process.join()
        code = self._process.exitcode or 0
        return f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Those that have something to say, or nothing any more; waits a little for the first."""
    found = wait([worker.connection for worker in workers], timeout=0.2)  # signals are checked between two waits
    return [worker for worker in workers if worker.connection in found]


# ---------------------------------------------------------------- in the process


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for whatever it starts in turn: it was blocked before
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Thread(target=_follow_parent, daemon=True).start()
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))
    except (EOFError, ConnectionError):  # no more items, or the parent is gone
        pass
    except KeyboardInterrupt:
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # now that all is in order, end by the signal itself: it is the reason
        signal.raise_signal(signal.SIGTERM)


def _answer(asked: bytes) -> bytes:
    """What came of an item, pickled, and as an exception in words where it cannot be read again."""
    try:
        work, item = pickle.loads(asked)
        answer = work(item)
    except Exception as error:  # noqa: BLE001 (it is the answer)
        answer = error
    try:
        found = pickle.dumps(answer)
        pickle.loads(found)
    except Exception as error:  # noqa: BLE001 (classes are free to raise whatever they like)
        what = describe(answer) if isinstance(answer, Exception) else f"a result that is lost: {describe(error)}"
        found = pickle.dumps(RuntimeError(what))
    return found


def _follow_parent() -> None:
    """End this process in its orderly way once the one that started it is gone: its results would go nowhere."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
