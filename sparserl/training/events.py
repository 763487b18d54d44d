"""What a training loop tells whoever records it, in the order in which it happens."""

from __future__ import annotations

from dataclasses import dataclass

from sparserl.population.state import State
from sparserl.training.evaluation import Evaluation
from sparserl.training.learner_group import LearnerGroup


@dataclass(frozen=True)
class Progress:
    """Nothing to record, but time has passed: every member has taken ``env_step`` steps."""

    env_step: int


@dataclass(frozen=True)
class Row:
    """What is known after ``env_step`` environment steps of each member."""

    env_step: int
    metrics: list[dict[str, float]]
    """Of each member."""
    seconds: dict[str, float]
    """Seconds since the last row by phase; the only thing here that depends on the clock."""
    stopped: list[str | None]
    """Of each member why it learns no more, or None."""
    limited: frozenset[int] = frozenset()
    """The members of whom an episode was cut off by a limit that is not the environment's own."""


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on from here."""

    env_step: int
    states: list[State]
    """Of each member: tensors without the member axis."""

    def run_by(self) -> list[dict[str, bool | int]]:
        """Of each member how its gradient steps were run and will be: members that go on in one loop have it in common."""
        names = "compiled", "compiled_updates"
        return [{"compile": state["compile"]} | {name: state["learner"][name] for name in names} for state in self.states]


@dataclass(frozen=True)
class Finished:
    """The end: the last policy, already evaluated. It comes before ``total_steps`` where every member was stopped."""

    env_step: int
    evaluation: Evaluation
    group: LearnerGroup
