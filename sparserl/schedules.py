"""Numbers that change with the environment steps of each member. Named in YAML by ``_target_``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sparserl.fields import Count, Steps


class Schedule(ABC):
    """A number as a function of the environment steps that each member has taken."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The number after ``step`` environment steps of each member."""


@dataclass(frozen=True)
class Constant(Schedule):
    """Always ``value``. In a config a plain number means the same."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear(Schedule):
    """From ``start`` to ``end`` in ``steps`` environment steps after ``delay_steps``; constant before and after."""

    start: float
    end: float
    steps: Count
    delay_steps: Steps = 0

    def __call__(self, step: int) -> float:
        progress = min(1.0, max(0.0, (step - self.delay_steps) / self.steps))
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class DelayedRamp(Schedule):
    """0 for ``delay_steps`` environment steps, then up to 1 within ``ramp_steps`` (at once when that is 0)."""

    delay_steps: Steps
    ramp_steps: Steps

    def __call__(self, step: int) -> float:
        if step < self.delay_steps:
            return 0.0
        return 1.0 if self.ramp_steps == 0 else min(1.0, (step - self.delay_steps) / self.ramp_steps)


def crossed(before: int, now: int, interval: int) -> bool:
    """Whether a counter that went from ``before`` to ``now`` reached or passed a multiple of ``interval``."""
    return now // interval > before // interval
