"""The loop: collect, learn, evaluate, in the order in which they happen, as a generator of what there is to record.

It knows no algorithm, no regulariser and no environment by name, writes nothing and prints nothing. Whoever consumes the
generator records what it yields; a checkpoint taken when a Snapshot is yielded continues exactly there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.environments.base import Environment
from sparserl.experience.base import Experience
from sparserl.fields import Count
from sparserl.population.members import Population
from sparserl.population.state import State, split, stack
from sparserl.regularizers.base import Regularizer
from sparserl.training.evaluation import Evaluation, Evaluator, never_interrupted, rows_of
from sparserl.training.learner import Learner
from sparserl.training.learner_group import Company
from sparserl.training.metrics import observe
from sparserl.training.statistics import Averages, Clock, Episodes
from sparserl.types import Layers, Metrics

PROGRESS_EACH_ROW = 50
"""How often the consumer hears that time has passed: often enough for a bar and for a signal, not at each step."""


@dataclass(frozen=True)
class Cohort:
    """One population: members that learn together, with the per-member values of their own."""

    members: Population
    algorithm: Algorithm
    regularizer: Regularizer


@dataclass(frozen=True)
class Parts:
    """What the members of one loop are trained with, those of all its populations."""

    members: Population
    environment: Environment
    algorithm: Algorithm
    experience: Experience
    cohorts: Sequence[Cohort]
    """Whose members are ``members``, in their order."""


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
    frozen: list[str | None]
    """Of each member why it learns no more, or None."""


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on from here."""

    env_step: int
    states: list[State]
    """Of each member: tensors without the member axis."""


@dataclass(frozen=True)
class Finished:
    """The end: the last policy, already evaluated. It comes before ``total_steps`` where every member is frozen."""

    env_step: int
    evaluation: Evaluation
    company: Company


@dataclass(frozen=True)
class Trainer:
    """The keys are described in ``conf/trainer/default.yaml``. Steps are environment steps of each member."""

    total_steps: Count
    num_envs: Count
    log_every: Count
    eval_every: Count
    eval_episodes: Count
    checkpoint_every: Count
    compile: bool

    def events(
        self,
        parts: Parts,
        states: list[State] | None = None,
        start: Sequence[Layers | None] = (),
        heed: Callable[[], object] = never_interrupted,
    ) -> Iterator[Progress | Row | Snapshot | Finished]:
        """Train from the start, or on from the states of a Snapshot; the last event is Finished.

        ``states`` is emptied, since they are large.
        ``start`` are the weights of a policy for each member to begin with (without the member axis), or None for fresh ones.
        ``heed`` is called at every step of every evaluation, which may be longer than anything between two events; what it
        raises ends the training.
        """
        members, algorithm, experience = parts.members, parts.algorithm, parts.experience
        spec = parts.environment.spec()
        vector = parts.environment.open(members.generators("environment"), self.num_envs)
        evaluator = Evaluator(parts.environment, members.size, self.eval_episodes, members.device, check_interrupt=heed)
        learners = [Learner(each.algorithm, each.regularizer, spec, each.members, self.compile) for each in parts.cohorts]
        company = Company(algorithm, learners)
        company.start_from(start)
        exploration = members.uniforms("exploration")
        experience.begin(members)
        step, evaluation = 0, None

        def greedy(observation: Tensor, rows: slice) -> Tensor:
            return algorithm.greedy(rows_of(company.acting_weights(), rows), observation)

        if states:
            company.load_states([state["learner"] for state in states])
            state = stack([{name: part for name, part in state.items() if name != "learner"} for state in states])
            states.clear()
            step = state["env_step"]
            experience.load_state_dict(state["experience"])
            vector.generators.load_state_dict(state["environment"])
            exploration.load_state_dict(state["exploration"])
            del state

        clock, episodes, averages = Clock(), Episodes(members, self.num_envs), [Averages() for _ in parts.cohorts]
        observation = vector.reset()
        while step < self.total_steps and not company.all_frozen:
            before, step = step, step + self.num_envs
            with torch.no_grad():
                action = algorithm.act(company.acting_weights(), observation, before, exploration)
            taken, _ = spec.clip_action(action.action)
            clock.lap("acting")
            outcome = vector.step(taken)
            clock.lap("environment")
            # A checkpoint cannot hold an episode under way, so it ends them all: whether or not a run is interrupted,
            # and whether or not anybody keeps the checkpoint, the world goes the same way.
            snapshot_due = crossed(before, step, self.checkpoint_every) or step >= self.total_steps
            experience.extend(
                {
                    "observation": observation,
                    "next_observation": outcome.next_observation,
                    "reward": outcome.reward,
                    "terminated": outcome.terminated,
                    "truncated": torch.ones_like(outcome.truncated) if snapshot_due else outcome.truncated,
                    "action": taken,
                    **action.extras,
                }
            )
            for batch in experience.batches(lambda recorded: algorithm.prepare(company.acting_weights(), recorded)):
                clock.lap("replay")
                for average, metrics in zip(averages, company.update(batch, step), strict=True):
                    average.add(metrics)
                clock.lap("update")
            clock.lap("replay")
            episodes.add(outcome)
            observation = outcome.observation

            over = step >= self.total_steps or company.all_frozen
            snapshot_due = snapshot_due or over
            eval_due = crossed(before, step, self.eval_every) or over
            if eval_due:
                evaluation = evaluator(greedy)
                clock.lap("evaluation")
            if eval_due or snapshot_due or crossed(before, step, self.log_every):
                trained, evaluated = episodes.take(), evaluation.metrics() if eval_due and evaluation else {}
                rows = [
                    row
                    for average, learner, own in zip(averages, company.learners, company.rows, strict=True)
                    for row in _by_member(_of(trained, own) | average.take() | observe(learner) | _of(evaluated, own))
                ]
                clock.lap("other")
                yield Row(step, rows, clock.take(), company.frozen())
            if snapshot_due:
                shared = {
                    "experience": experience.state_dict(),
                    "environment": vector.generators.state_dict(),
                    "exploration": exploration.state_dict(),
                }
                learned = enumerate(company.states())
                yield Snapshot(step, [{"env_step": step, "learner": own} | split(shared, member) for member, own in learned])
                observation = vector.reset()
                episodes.abandon()
            if crossed(before, step, max(1, self.log_every // PROGRESS_EACH_ROW)):
                yield Progress(step)
            clock.lap("records")
        last = evaluation or evaluator(greedy)
        vector.close()
        evaluator.close()
        yield Finished(step, last, company)


def crossed(before: int, now: int, interval: int) -> bool:
    """Whether a counter that went from ``before`` to ``now`` reached or passed a multiple of ``interval``."""
    return now // interval > before // interval


def _of(metrics: Metrics, members: slice) -> Metrics:
    """The metrics of some members."""
    return {name: values[members] for name, values in metrics.items()}


def _by_member(metrics: Metrics) -> Iterator[dict[str, float]]:
    """The same metrics, one dictionary for each member."""
    for values in zip(*(values.tolist() for values in metrics.values()), strict=True):
        yield dict(zip(metrics, values, strict=True))
