"""Rows of metrics: what has been seen since the last one, and what is observed of the learners now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sparserl.training.evaluation import Evaluation
from sparserl.training.inspection import inspect
from sparserl.training.learner_group import LearnerGroup
from sparserl.training.metrics import observe
from sparserl.training.statistics import Averages, Episodes
from sparserl.training.updates import Updates
from sparserl.types import Metrics


class Rows:
    """Makes the rows of a loop."""

    def __init__(self, group: LearnerGroup, episodes: Episodes) -> None:
        self._group, self._episodes = group, episodes
        self._averages = [Averages() for _ in group.learners]

    def add(self, updates: Sequence[Sequence[Metrics] | Sequence[Updates]]) -> None:
        """What gradient steps of each learner say, if there were any."""
        for average, its in zip(self._averages, updates, strict=True):
            for each in its:
                average.add(each)

    def take(self, evaluation: Evaluation | None) -> list[dict[str, float]]:
        """Of each member all since the last call, with an ``evaluation`` if there was one."""
        trained, evaluated = self._episodes.take(), evaluation.metrics() if evaluation else {}
        met = evaluation.states if evaluation else []
        return [
            row
            for average, learner, own in zip(self._averages, self._group.learners, self._group.rows, strict=True)
            for row in _by_member(
                _of(trained, own)
                | average.take()
                | observe(learner)
                | _of(evaluated, own)
                | (inspect(learner, met[own]) if met else {})
            )
        ]


def _of(metrics: Metrics, members: slice) -> Metrics:
    """The metrics of some members."""
    return {name: values[members] for name, values in metrics.items()}


def _by_member(metrics: Metrics) -> Iterator[dict[str, float]]:
    """The same metrics, one dictionary for each member."""
    for values in zip(*(values.tolist() for values in metrics.values()), strict=True):
        yield dict(zip(metrics, values, strict=True))
