"""Populations that train in one loop: each learns by itself, and for all else their members are one.

To act, to step environments and to store what came of it takes hardly longer for 16 members than for 8. Members of populations
that differ in their regulariser only do these together, and then each learner takes its own members' part of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from jaxtyping import Shaped
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.experience.base import joined_steps
from sparserl.experience.selection import Ahead, Selection
from sparserl.population.random import MemberRng, SharedDraws
from sparserl.population.state import State, split, stack
from sparserl.training.deterministic_call import DeterministicPolicies
from sparserl.training.episodes_under_way import EpisodesUnderWay
from sparserl.training.evaluation import rows_of
from sparserl.training.learner import Learner
from sparserl.training.updates import Updates
from sparserl.types import Action, Batch, Metrics, Rollout, Transition, Weights


class LearnerGroup:
    """Learners, each with members of its own: the first with the first ones, and so on. ``algorithm`` is of all members."""

    def __init__(self, algorithm: Algorithm, learners: Sequence[Learner]) -> None:
        self.learners = learners
        ends = [0, *accumulate(learner.size for learner in learners)]
        self.rows = [slice(*between) for between in pairwise(ends)]
        """Of each learner, which members are its own."""
        self._locations = [(learner, row) for learner in learners for row in range(learner.size)]
        self._algorithm = algorithm
        self.policies = DeterministicPolicies(algorithm, lambda: any(learner.is_compiled for learner in learners))
        """What deployed weights do."""
        self._joined: dict[str, tuple[list[Weights], Weights]] = {}  # by what was joined
        self._unobserved: list[Rollout] = []

    @property
    def all_stopped(self) -> bool:
        """Whether no member learns any more."""
        return all(learner.stopped.are_all for learner in self.learners)

    @property
    def acting_is_fixed(self) -> bool:
        """Whether what acts stays as it is until something is learned: where no statistics of it take in each step."""
        return not self._algorithm.observes or self._algorithm.gate_noise == "rollout"

    @property
    def acts_without_noise(self) -> bool:
        """Whether gates have no noise where they act, so that each gradient step may have its own."""
        return self._algorithm.gate_noise == "gradient_step"

    def locate(self, member: int) -> tuple[Learner, int]:
        """The learner of a member, and the member's number there."""
        return self._locations[member]

    # ------------------------------------------------------------ learning

    def begin_rollout(self, env_step: int) -> None:
        """Called before the first step of each rollout: statistics take in the last one, and gates draw new noise."""
        if self._unobserved:
            steps, self._unobserved = self._unobserved, []
            self._take_in(joined_steps(steps))
        for learner in self.learners:
            learner.begin_rollout(env_step)

    def observe(self, transition: Transition) -> None:
        """Let statistics take in a step; those of on-policy algorithms wait until what is learned from it is over."""
        if self._algorithm.observes:
            self.observe_all({name: values.unsqueeze(1) for name, values in transition.items()})

    def observe_all(self, rollout: Rollout) -> None:
        """The same with consecutive steps."""
        if not self._algorithm.observes:
            return
        if self._algorithm.gate_noise == "rollout":
            self._unobserved.append(rollout)
        else:
            self._take_in(rollout)

    def _take_in(self, rollout: Rollout) -> None:
        for learner, rows in zip(self.learners, self.rows, strict=True):
            learner.observe({name: values[rows] for name, values in rollout.items()} if self.rows[1:] else rollout)

    def update(self, selections: Sequence[Selection], env_step: int) -> list[list[Metrics] | list[Updates]]:
        """Gradient steps of every learner, one for each selection; what those of each say of its own members."""
        parts = [[its.of(rows) for its in selections] for rows in self.rows] if self.rows[1:] else [selections]
        return [learner.update_all(part, env_step) for learner, part in zip(self.learners, parts, strict=True)]

    def finish(self, env_step: int) -> None:
        """Called when training ends, before the last evaluation."""
        for learner in self.learners:
            learner.finish(env_step)

    def stop(self, member: int, reason: str, env_step: int) -> None:
        """Stop a member for a reason that lies outside of its learning."""
        learner, row = self.locate(member)
        learner.stopped.stop(row, reason, env_step)

    def stopped(self) -> list[str | None]:
        """Of each member why it was stopped, or None."""
        return [sentence for learner in self.learners for sentence in learner.stopped.sentences()]

    def start_from(self, policies: Sequence[Weights | None]) -> None:
        """Give members the weights of trained policies; None leaves a member as it is."""
        for learner, rows in zip(self.learners, self.rows, strict=True):
            learner.start_from(policies[rows])

    # ------------------------------------------------------------ weights to run

    @torch.no_grad()
    def act(self, observation: Shaped[Tensor, "member env *obs"], env_step: int, rng: MemberRng) -> Action:
        """Choose actions for training, after so many environment steps of each member."""
        if not self.learners[1:]:
            return self.learners[0].act(observation, env_step, rng)
        if not any(learner.is_compiled for learner in self.learners):
            return self._algorithm.act(self.acting(), observation, env_step, rng)
        actions = [
            learner.act(observation[rows], env_step, draws)
            for learner, rows, draws in zip(self.learners, self.rows, self._parts(rng), strict=True)
        ]
        return Action(torch.cat([its.action for its in actions]), _joined([its.extras for its in actions]))

    @torch.no_grad()
    def collect(self, episodes: EpisodesUnderWay, steps: int, env_step: int, rng: MemberRng) -> Rollout:
        """As of Learner, for all members."""
        return _joined(
            [
                learner.collect(episodes.of(rows), steps, env_step, draws)
                for learner, rows, draws in zip(self.learners, self.rows, self._parts(rng), strict=True)
            ]
        )

    def iterate(
        self, episodes: EpisodesUnderWay, ahead: Ahead, env_step: int, rng: MemberRng
    ) -> tuple[Rollout, list[list[Updates]]]:
        """As of Learner, for all members; with what the gradient steps of each learner say."""
        found = [
            learner.iterate(episodes.of(rows), ahead.of(rows), env_step, draws)
            for learner, rows, draws in zip(self.learners, self.rows, self._parts(rng), strict=True)
        ]
        return _joined([steps for steps, _ in found]), [updates for _, updates in found]

    def _parts(self, rng: MemberRng) -> list[MemberRng]:
        """What hands out the random numbers of each learner's members."""
        shared = SharedDraws(rng)
        return [shared.of(rows) for rows in self.rows] if self.rows[1:] else [rng]

    def prepare(self, rollout: Rollout) -> Batch:
        """What all members are to learn from a rollout. Called without gradients."""
        parts = [{name: values[rows] for name, values in rollout.items()} for rows in self.rows]
        return _joined([learner.prepare(part) for learner, part in zip(self.learners, parts, strict=True)])

    def acting(self) -> Weights:
        """What acts while training: those components of every member. Do not change it."""
        return self._join("acting", [learner.acting() for learner in self.learners], self._algorithm.acting, copies=False)

    def deployed(self) -> Weights:
        """What is evaluated and deployed: those components of every member, without noise. Do not change it."""
        parts = [learner.deterministic() for learner in self.learners]
        # of parts of a longer vector a program would make copies at each call
        return self._join("deployed", parts, self._algorithm.policy, copies=True)

    def _join(self, what: str, parts: list[Weights], components: Sequence[str], copies: bool) -> Weights:
        """Some components of all members, joined anew where a learner's have changed; of one learner its own, or ``copies``."""
        if len(parts) == 1 and not copies:
            return {component: parts[0][component] for component in components}
        known, joined = self._joined.get(what, ([], {}))
        if len(known) != len(parts) or any(old is not new for old, new in zip(known, parts, strict=True)):
            joined = {c: {name: torch.cat([part[c][name] for part in parts]) for name in parts[0][c]} for c in components}
            self._joined[what] = parts, joined
        return joined

    def deterministic_action(self, observation: Shaped[Tensor, "member env *obs"], rows: slice) -> Tensor:
        """The actions of the deployed policies of some members."""
        return self.policies(rows_of(self.deployed(), rows), observation)

    # ------------------------------------------------------------ checkpoints

    def states(self) -> list[State]:
        """Of each member everything that its learner needs to go on."""
        states = [learner.state_dict() for learner in self.learners]
        own = [split(state, row) for state, learner in zip(states, self.learners, strict=True) for row in range(learner.size)]
        unobserved = [joined_steps(self._unobserved)] if self._unobserved else []
        return [state | {"unobserved": split(unobserved, member)} for member, state in enumerate(own)]

    def load_states(self, states: Sequence[State]) -> None:
        """Go on from the states of all members."""
        for learner, rows in zip(self.learners, self.rows, strict=True):
            learner.load_state_dict(stack(states[rows]))
        device = self.learners[0].state.learns.device
        unobserved = stack([state["unobserved"] for state in states])
        self._unobserved = [{name: tensor.to(device) for name, tensor in steps.items()} for steps in unobserved]


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of the members of each learner, as tensors of all members."""
    return {name: torch.cat([part[name] for part in parts]) if parts[1:] else tensor for name, tensor in parts[0].items()}
