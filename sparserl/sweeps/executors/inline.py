"""One after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparserl.sweeps.executors.base import Executor, R, T


class Inline(Executor):
    """The simplest: a debugger and a progress bar work as ever."""

    shares_terminal = False

    def execute(self, work: Callable[[T], R], items: Sequence[T], names: Sequence[str]) -> list[R | Exception]:
        return [self._do(work, item) for item in items]

    @staticmethod
    def _do(work: Callable[[T], R], item: T) -> R | Exception:
        try:
            return work(item)
        except Exception as error:  # noqa: BLE001 (whatever it is, the other items are done)
            return error
