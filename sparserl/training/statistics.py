"""Running statistics of a training loop: returns of episodes, means of metrics, and where the time goes."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from sparserl.environments.base import StepResult
from sparserl.population.members import Population
from sparserl.population.state import State
from sparserl.training.updates import Updates
from sparserl.types import Metrics, Rollout

TRAINING_PHASES = ("acting", "environment", "replay", "update")
"""The phases of a Clock that are training: acting, stepping, storing and updating. Steps of the environment that are in a
program with acting are part of that, and where a gradient step is in it too, all of it is updating."""


class Episodes:
    """Means over the training episodes of each member: of their returns, and of the measures that the environment gives.

    An episode that a checkpoint ended has no return: it is in no mean, and counted apart. It is more often a long one, so
    the mean over the others leans towards short episodes. What ``take`` gives says how many are left out.
    """

    block = 100
    """After how many additions they are looked at together: one by one that takes longer than to store them."""

    def __init__(self, members: Population, envs: int) -> None:
        self._running = torch.zeros(members.size, envs, device=members.device)
        self._sum = torch.zeros(members.size, device=members.device)
        self._count = torch.zeros(members.size, device=members.device)
        self._cut = torch.zeros(members.size, device=members.device)
        self._has_begun = torch.zeros(members.size, envs, dtype=torch.bool, device=members.device)
        self._measured: dict[str, Tensor] = {}  # sums over the episodes that ended
        self._waiting: list[tuple[Tensor, ...]] = []

    def add(self, outcome: StepResult) -> None:
        """One step of every sub-environment."""
        for name in outcome.measures:
            self._measured.setdefault(name, torch.zeros_like(self._sum))
        found = outcome.reward, outcome.terminated, outcome.truncated, *outcome.measures.values()
        self._wait(tuple(its.unsqueeze(1) for its in found))

    def add_all(self, rollout: Rollout) -> None:
        """Consecutive steps ``[member, time, env]`` of an environment without measures."""
        self._wait(tuple(rollout[name] for name in ("reward", "terminated", "truncated")))

    def _wait(self, found: tuple[Tensor, ...]) -> None:
        self._waiting.append(found)
        if len(self._waiting) == self.block:
            self._count_up()

    def abandon(self) -> None:
        """Leave the episodes under way out of the means: they were ended by a checkpoint, and are only counted."""
        self._count_up()
        self._cut += self._has_begun.sum(dim=1)
        self._has_begun.zero_()
        self._running.zero_()

    def state_dict(self) -> State:
        """The episodes under way, after ``take``."""
        return {"returns": self._running, "has_begun": self._has_begun}

    def load_state_dict(self, state: State) -> None:
        """Go on with the episodes of a state."""
        self._running, self._has_begun = (state[name].to(self._sum.device) for name in ("returns", "has_begun"))

    def take(self) -> Metrics:
        """The mean return of the episodes that ended since the last call (nan where none did), and their number.

        Of each measure of the environment also its mean, such as ``train/success_rate``. ``train/episodes_cut`` is how many
        episodes of one step or more checkpoints ended: they are in no mean.
        """
        self._count_up()
        metrics = {"train/return": self._sum / self._count, "train/episodes": self._count, "train/episodes_cut": self._cut}
        for name, total in self._measured.items():
            metrics[f"train/{name}"] = total / self._count
            self._measured[name] = torch.zeros_like(total)
        self._sum, self._count, self._cut = (torch.zeros_like(total) for total in (self._sum, self._count, self._cut))
        return metrics

    def _count_up(self) -> None:
        if not self._waiting:
            return
        reward, terminated, truncated, *measured = (
            torch.cat(values, dim=1).transpose(1, 2).contiguous() for values in zip(*self._waiting, strict=True)
        )
        self._waiting.clear()
        ends = terminated + truncated > 0
        # the episodes that ended have all rewards up to the last end, the one under way has the others
        ended = ends.any(dim=2)
        under_way = ends.flip(2).cumsum(2).flip(2) == 0
        self._sum += (torch.where(ended, self._running, 0.0) + torch.where(under_way, 0.0, reward).sum(dim=2)).sum(dim=1)
        self._count += ends.sum(dim=(1, 2))
        self._has_begun = ~ends[:, :, -1]
        for name, values in zip(self._measured, measured, strict=True):
            self._measured[name] = self._measured[name] + torch.where(ends, values, 0.0).sum(dim=(1, 2))
        self._running = torch.where(ended, 0.0, self._running) + torch.where(under_way, reward, 0.0).sum(dim=2)


class Averages:
    """The means of the metrics of many gradient steps."""

    block = 100
    """How many steps are added up at once: one by one it would take as many operations as the loss."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, list[Tensor]] = {}

    def add(self, metrics: Metrics | Updates) -> None:
        """Those of a gradient step, or of several."""
        if isinstance(metrics, Updates):
            totals = metrics.rows.permute(2, 1, 0).contiguous().sum(dim=2)
            for name, total in zip(metrics.names, totals, strict=True):
                self._add(name, total, len(metrics))
            return
        for name, value in metrics.items():
            waiting = self._waiting.setdefault(name, [])
            waiting.append(value)
            if len(waiting) == self.block:
                self._add_up(name)

    def take(self) -> Metrics:
        """The means since the last call; what is due only now and then is averaged over the times when it was due."""
        for name, waiting in self._waiting.items():
            if waiting:
                self._add_up(name)
        # by name: some metrics begin late, those of gates for example, and a resumed run has seen them in another order
        means = {name: self._sums[name] / self._counts[name] for name in sorted(self._sums)}
        self._sums, self._counts = {}, {}
        return means

    def _add_up(self, name: str) -> None:
        values = self._waiting[name]
        self._add(name, torch.stack(values, dim=1).sum(dim=1), len(values))
        self._waiting[name] = []

    def _add(self, name: str, total: Tensor, count: int) -> None:
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0) + count


class Clock:
    """Where the time goes: each lap counts for one phase."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Count the time since the last lap for ``phase``."""
        now = time.perf_counter()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def take(self) -> dict[str, float]:
        """The seconds by phase since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds
