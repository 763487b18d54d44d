"""The contract of executors: they do pieces of work, in this process or elsewhere, and return the result of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Executor(ABC):
    """Does the same work on several items."""

    workers: int | None = 1
    """How many items run at the same time; the launcher makes a multiple of this many groups. None: no limit, and populations
    are not merged into one group."""
    shares_terminal: bool = True
    """Whether several items write to the terminal at once."""

    @abstractmethod
    def execute(self, work: Callable[[T], R], items: Sequence[T], names: Sequence[str]) -> list[R | Exception]:
        """``work(item)`` of each item, in their order; where one raised or its process died, the exception that says so.

        ``work`` and items must be picklable, ``names`` are the items' for a reader. SIGINT and SIGTERM end the work in an
        orderly way wherever it is done, and then raise KeyboardInterrupt with the signal's number.
        """
