"""What a training process needs of its libraries and its operating system, and an orderly end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MIB = 1 << 20


def prepare() -> None:
    """Set this process up for many small tensor operations; harmless when called again.

    One thread: for networks of this size the others only wait for each other. And glibc gives every block over 128 KiB back
    to the kernel at once and gets it again, zeroed page by page, for the next operation; keeping them makes an update of 64
    members nearly twice as fast. Last, MKL may choose another order of summation where a matrix is aligned otherwise in memory,
    so that a member would depend on its place in the population: its reproducible mode costs nothing measurable. It must be
    set before the first product of matrices in the process.
    """
    import torch  # here, so that whoever only waits for others is spared its seconds

    os.environ.setdefault("MKL_CBWR", "AUTO")
    torch.set_num_threads(1)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not there in musl
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)  # the largest that glibc takes
            mallopt(_M_TRIM_THRESHOLD, 1024 * _MIB)


@contextmanager
def own_defaults() -> Iterator[None]:
    """Set torch's defaults to what training needs, gradients and float32, whatever the program around it has chosen."""
    import torch  # as above

    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)


_entered: list[Interrupts] = []


def check_all() -> None:
    """Raise KeyboardInterrupt where any that is entered has received a signal: for what takes long and is far from the loop."""
    for interrupts in _entered:
        interrupts.check_interrupt()


class Interrupts:
    """While it is entered, SIGINT and SIGTERM only set ``received``, so that a loop can end at a clean place.

    One that is ignored before stays ignored. Signal handlers belong to the main thread; entered in another one it never
    receives any.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        _entered.append(self)
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        except ValueError:  # not the main thread
            self._previous = {}
        return self

    def __exit__(self, *_: object) -> None:
        _entered.remove(self)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check_interrupt(self) -> None:
        """Raise KeyboardInterrupt where one was received."""
        if self.received is not None:
            raise KeyboardInterrupt(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.default_int_handler)  # a second one does not wait
