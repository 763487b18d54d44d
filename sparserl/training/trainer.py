"""The loop: collect, learn, evaluate, in the order in which they happen, as a generator of what there is to record.

It knows no algorithm, no regulariser and no environment by name, writes nothing and prints nothing. Whoever consumes the
generator records what it yields; a checkpoint taken when a Snapshot is yielded continues exactly there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from sparserl.experience.selection import in_parts
from sparserl.fields import Count
from sparserl.population.state import State
from sparserl.schedules import crossed
from sparserl.training.collecting import Collector
from sparserl.training.evaluation import Evaluator, never_interrupted
from sparserl.training.events import Finished, Progress, Row, Snapshot
from sparserl.training.learner import Learner
from sparserl.training.learner_group import LearnerGroup
from sparserl.training.loop_parts import LoopParts
from sparserl.training.loop_state import LoopState
from sparserl.training.rows import Rows
from sparserl.training.statistics import Clock, Episodes
from sparserl.training.worth_compiling import is_worth_compiling
from sparserl.types import Weights

PROGRESS_EACH_ROW = 50
"""Events of progress between two rows: enough for a bar and to notice a signal, without waiting for tensors at each step."""


@dataclass(frozen=True)
class Trainer:
    """The loop that collects, learns and evaluates. Steps are environment steps of each member.

    Keys (``make docs`` copies them from ``conf/trainer/default.yaml``):
        total_steps (integer, at least 1): Environment steps of each member, over all its sub-environments.
        num_envs (integer, at least 1): Sub-environments of each member; each step of the loop takes one step in all of them.
        log_every (integer, at least 1): Environment steps of each member between rows of metrics.jsonl; evaluations and
            checkpoints have rows too.
        eval_every (integer, at least 1): Environment steps of each member between evaluations of the hardened policy; there is
            always one at the end.
        eval_episodes (integer, at least 1): Episodes of each evaluation, on fixed seeds.
        checkpoint_every (integer, at least 1): Environment steps of each member between checkpoints. Each ends the running
            episodes, so this key is part of the experiment; only those of CartPole, Acrobot and Super Mario Bros go on.
        compile (``auto`` or ``true`` or ``false``): Whether gradient steps, acting and evaluations run as programs that are
            compiled ahead of time, each once (in ~/.cache/sparserl): false, true, or auto, which compiles on a CPU with a C++
            compiler where a run has as many gradient steps as earn it back (15,000 under DDPG, TD3 and SAC, 35,000 under PPO
            and A2C, 45,000 under DQN). The gradient steps on a rollout are one call of a program, and on CartPole so are 32
            steps with what is learned after each. Compiled steps equal eager ones but for rounding, so the key is no part of
            what a run is: its folder has the same name, a sweep over the key trains one run, and a run that began compiled or
            eagerly goes on so. A member equals its solo run bit for bit. What cannot be compiled runs eagerly, and a line says
            so; on a GPU auto runs eagerly, and true is refused.
    """

    total_steps: Count
    num_envs: Count
    log_every: Count
    eval_every: Count
    eval_episodes: Count
    checkpoint_every: Count
    compile: Literal["auto"] | bool

    def compiles(self, parts: LoopParts) -> bool:
        """Whether gradient steps are to run compiled."""
        if self.compile != "auto":
            return self.compile
        gradient_steps = parts.experience.gradient_steps(self.total_steps, self.num_envs)
        return is_worth_compiling(parts.algorithm, parts.members.device, gradient_steps)

    def run(
        self,
        parts: LoopParts,
        states: list[State] | None = None,
        start: Sequence[Weights | None] = (),
        check_interrupt: Callable[[], object] = never_interrupted,
    ) -> Generator[Progress | Row | Snapshot | Finished, None, None]:
        """Train from the start, or on from the states of a Snapshot; the last event is Finished.

        ``states`` is emptied, since they are large.
        ``start`` are the deployed components of a policy for each member to begin with (without the member axis), or None for
        fresh ones. ``check_interrupt`` is called at every step of every evaluation, which may be longer than anything between
        two events; what it raises ends the training. Whatever ends it, the environments are closed. Raises StateError where
        nothing can go on from ``states``.
        """
        members, environment, experience = parts.members, parts.environment, parts.experience
        spec = environment.spec()
        algorithm = parts.algorithm.bind(spec)
        compiled = bool(states[0]["compile"]) if states else self.compiles(parts)
        learners = [Learner(its.algorithm.bind(spec), its.regularizer, its.members, compiled) for its in parts.populations]
        group = LearnerGroup(algorithm, learners)
        group.start_from(start)
        exploration = members.rng("exploration")
        experience.begin(members, spec, environment.relabel)
        evaluator = Evaluator(
            environment, members.size, self.eval_episodes, members.device, check_interrupt=check_interrupt, keeps_states=True
        )
        opened = environment.open(members.generators("environment"), self.num_envs)
        with closing(opened) as vector, closing(evaluator):
            clock, episodes, evaluation = Clock(), Episodes(members, self.num_envs), None
            loop = LoopState(group, experience, vector, exploration, episodes, compiled)
            step, under_way = loop.load(states) if states else (0, None)
            rows = Rows(group, episodes)
            collector = Collector(environment, vector, group, experience, episodes, exploration, clock, compiled)
            # what is trained has no need of episodes under way
            collector.observation = loop.begin(under_way if step < self.total_steps else None)
            is_last = step >= self.total_steps or group.all_stopped
            while not is_last:
                previous = step
                if experience.rollout_begins:
                    group.begin_rollout(previous)
                # The state of most environments cannot be saved, so every checkpoint ends all episodes. It does so whether or
                # not a run is interrupted, so both give the same result.
                ends_episodes = not loop.keeps_episodes and self._ends(previous, previous + self.num_envs)
                most = self._steps_until_due(previous)
                steps, updates = collector.iterate(previous, most)
                rows.add(updates)
                step += self.num_envs * (steps or collector.collect(previous, most, ends_episodes))
                snapshot_due = self._ends(previous, step)
                for selections in in_parts(experience.selections(group.prepare), at_once=not group.acts_without_noise):
                    clock.lap("replay")
                    rows.add(group.update(selections, step))
                    clock.lap("update")
                clock.lap("replay")

                log_due, eval_due = crossed(previous, step, self.log_every), crossed(previous, step, self.eval_every)
                progress_due = crossed(previous, step, max(1, self.log_every // PROGRESS_EACH_ROW))
                is_last = step >= self.total_steps
                if progress_due or log_due or eval_due or snapshot_due:  # to ask at each step would wait for the tensors
                    is_last = is_last or group.all_stopped
                snapshot_due, eval_due = snapshot_due or is_last, eval_due or is_last
                if is_last:
                    group.finish(step)
                if eval_due:
                    evaluation = evaluator(group.deterministic_action)
                    for member, reason in evaluation.failures.items():
                        group.stop(member, f"in an evaluation {reason}", step)
                    clock.lap("evaluation")
                if ends_episodes:
                    episodes.abandon()
                if eval_due or snapshot_due or log_due:
                    metrics = rows.take(evaluation if eval_due else None)
                    limited = frozenset(vector.limited) | (evaluation.limited if evaluation else frozenset())
                    clock.lap("other")
                    yield Row(step, metrics, clock.take(), group.stopped(), limited)
                if snapshot_due:
                    yield Snapshot(step, loop.states(step))
                    if ends_episodes:
                        collector.observation = vector.reset()
                if progress_due:
                    yield Progress(step)
                clock.lap("records")
            last = evaluation or evaluator(group.deterministic_action)
        yield Finished(step, last, group)

    def _steps_until_due(self, step: int) -> int:
        """Steps of the loop until there is something to do beside learning."""
        due = [every * (step // every + 1) for every in (self.log_every, self.eval_every, self.checkpoint_every)]
        return -(-(min(self.total_steps, *due) - step) // self.num_envs)

    def _ends(self, previous: int, step: int) -> bool:
        """Whether a checkpoint is due after ``step`` environment steps, with ``previous`` before."""
        return crossed(previous, step, self.checkpoint_every) or step >= self.total_steps
