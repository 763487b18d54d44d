"""The weights, gates and optimiser state of P members.

Everything that is particular to an algorithm or a regulariser is behind their contracts; here they meet. The objective of
each component is ``loss`` plus ``lambda_c(step) * penalty`` of each term of its regulariser, summed over members: a sum, so
that each member's gradient is the one it would have alone.

A member whose objective or gradient is not finite has diverged: its weights, gates and targets stay, bit for bit, what they
were before that step. Its numbers stay in its own rows, so the others do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.experience.base import joined_steps
from sparserl.experience.selection import Ahead, Selection
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.population.state import State
from sparserl.regularizers.base import Regularizer
from sparserl.training.episodes_under_way import EpisodesUnderWay
from sparserl.training.gating import Gating
from sparserl.training.iteration_call import ENDS
from sparserl.training.learner_programs import LearnerPrograms
from sparserl.training.learner_state import LearnerState
from sparserl.training.parameters import FlatTensors, Parameters
from sparserl.training.running_weights import RunningWeights
from sparserl.training.step import GradientStep
from sparserl.training.step_inputs import StepInputs
from sparserl.training.stopped import StoppedMembers
from sparserl.training.updates import Updates
from sparserl.types import Action, Batch, Gates, Metrics, Rollout, Time, Weights, is_weight


class Learner:
    """Trains the components of one algorithm under one regulariser, for every member at once.

    ``algorithm`` must be bound to an environment. Gradient steps and acting may run as programs (``compiled``).
    """

    def __init__(self, algorithm: Algorithm, regularizer: Regularizer, members: Population, compiled: bool = False) -> None:
        self.algorithm, self.regularizer = algorithm, regularizer
        self.size, self._env_step, self._updates = members.size, 0, 0
        self.learned = tuple(algorithm.learning_rates)
        fresh = {
            component: {name: tensor.to(members.device) for name, tensor in layers.items()}
            for component, layers in algorithm.init(members).items()
        }
        self.covered = tuple(
            c for c in self.learned if any(map(is_weight, fresh[c])) and regularizer.covers(c, c in algorithm.policy)
        )
        generators, self._rng = members.generators("gates"), members.rng("update")
        self.bound = {c: regularizer.bind(algorithm.structure(c), c, c in algorithm.policy) for c in self.covered}
        self.initial_gates = {c: its.init(fresh[c], generators) for c, its in self.bound.items()}
        others = fresh.keys() - self.learned - algorithm.targets.keys()
        self.state = LearnerState(
            weights={c: Parameters(fresh[c], algorithm.optimizer) for c in self.learned},
            gates={c: Parameters(gates, regularizer.gate_optimizer) for c, gates in self.initial_gates.items() if gates},
            targets={c: FlatTensors(fresh[c]) for c in algorithm.targets},
            statistics={c: fresh[c] for c in fresh if c in others},
            learns=torch.ones(members.size, 1, device=members.device),
        )
        self._step = GradientStep(algorithm, regularizer, self.bound)
        self._gating = Gating(self._step, self.state, generators, for_programs=compiled)
        self.stopped = StoppedMembers(self.state.learns)
        self._programs = LearnerPrograms(self._step, self.state, self._rng, compiled)
        self._unobserved: Rollout = {}  # what statistics are to take in before they are read
        self._running = RunningWeights(self._step, self.state, self._gating)

    # ------------------------------------------------------------ learning

    def begin_rollout(self, env_step: int) -> None:
        """Draw the noise of the gates for all steps and updates until the next rollout begins."""
        if self.algorithm.gate_noise == "rollout" and self.state.gates:
            self._gating.draw(env_step)
            self._running.forget()

    def finish(self, env_step: int) -> None:
        """Called once, when training ends: the gates become those of the trained policy."""
        self._gating.finish(env_step)
        self._running.forget()

    def update(self, batch: Batch | Selection, env_step: int, eagerly: bool = False) -> Metrics:
        """One gradient step of every component that is due, and the algorithm's own state after it; ``eagerly`` by no program.

        ``env_step``, the environment steps that each member has taken, drives the schedules. Metrics are ``[member]``.
        """
        selection = batch if isinstance(batch, Selection) else Selection(batch)
        # what acted has computed it already; drawing forgets it
        eager = (eagerly or not self.is_compiled) and self._gating.needs_noise_free(env_step)
        without = self._running.noise_free() if eager else {}
        given = self._inputs_of_step(env_step)
        metrics = None if eagerly else self._programs.step(selection, given, self._unobserved)
        if metrics is None:
            self._take_in()
            if given.needs_noise_free and not without:
                without = self._running.noise_free()
            metrics = self._step(self.state, selection.batch(), given.scalars, given.noise, without, self._rng)
        self._unobserved = {}
        self._env_step, self._updates = env_step, self._updates + 1
        self._running.forget()
        self.stopped.update(metrics, env_step)
        return metrics

    def update_all(self, selections: Sequence[Selection], env_step: int) -> list[Metrics] | list[Updates]:
        """Gradient steps after the same environment steps. Those that differ in an ``index`` only may be one program."""
        found = None
        if selections[1:] and self.algorithm.gate_noise == "rollout":
            self._take_in()
            found = self._programs.steps(selections, self._inputs_of_step(env_step))
        if found is None:
            return [self.update(its, env_step) for its in selections]
        self._env_step, self._updates = env_step, self._updates + len(selections)
        self._have_run(found)
        return found

    def iterate(self, episodes: EpisodesUnderWay, ahead: Ahead, env_step: int, rng: MemberRng) -> tuple[Rollout, list[Updates]]:
        """Act, step the episodes and learn, once for each step ``ahead``, after ``env_step`` environment steps of each member.

        Changes ``episodes``, and puts transitions where they are stored; how they ended is given, ``[member, time, env]``.
        """
        self._take_in()
        rollouts, found, done = list[Rollout](), list[Updates](), 0
        while done < ahead.steps:
            given, first = list[StepInputs](), done
            while done < ahead.steps and not self._gating.changes_at(env_step + episodes.envs):
                env_step += episodes.envs
                given.append(self._inputs_of_step(env_step))
                self._env_step, self._updates, done = env_step, self._updates + 1, done + 1
            if given:
                rollout, updates = self._programs.iterate(given, episodes, ahead, first, rng)
                self._have_run(updates)
            else:
                rollout, updates = self._iterate_once(episodes, ahead, done, env_step, rng)
                env_step, done = env_step + episodes.envs, done + 1
            rollouts.append(rollout)
            found += updates
        return joined_steps(rollouts), found

    def _iterate_once(
        self, episodes: EpisodesUnderWay, ahead: Ahead, number: int, env_step: int, rng: MemberRng
    ) -> tuple[Rollout, list[Updates]]:
        """The iteration in which a schedule sets gates: what acts is as it was before. A program would act as it is after."""
        # where each step may be one of these, programs of one step are worth while
        eagerly, seen = type(self.regularizer).is_due is not Regularizer.is_due, episodes.observation
        with torch.no_grad():
            action = self.algorithm.act(self.acting(), seen, env_step, rng) if eagerly else self.act(seen, env_step, rng)
            transition = episodes.step(action)
            selection = ahead.put(number, transition)
        rollout = {name: its.unsqueeze(1) for name, its in transition.items()}
        self.observe(rollout if self.algorithm.observes else {})
        metrics = self.update(selection, env_step + episodes.envs, eagerly)
        self._programs.updates += eagerly and self.is_compiled
        return {name: rollout[name] for name in ENDS}, [Updates.of(metrics, env_step + episodes.envs)]

    def _have_run(self, found: Sequence[Updates]) -> None:
        self._running.forget()
        self.stopped.update_all(found)

    def _inputs_of_step(self, env_step: int) -> StepInputs:
        given = self._gating.inputs_of_step(Time(env_step, self._env_step, self._updates))
        self._running.forget()
        return given

    @property
    def is_compiled(self) -> bool:
        """Whether gradient steps and acting are to run as programs."""
        return self._programs.are_used

    @property
    def backend(self) -> str:
        """How the gradient steps so far were run: ``eager``, ``compiled`` or ``mixed``."""
        return self._programs.backend(self._updates)

    def observe(self, rollout: Rollout) -> None:
        """Let the algorithm's statistics take in what the environment gave; those of members that were stopped stay.

        Where gradient steps are compiled the next one does so, if nothing asks before.
        """
        self._take_in()
        self._unobserved = rollout
        if not self.is_compiled:
            self._take_in()

    def _take_in(self) -> None:
        """Let statistics take in what they have not yet."""
        if not self._unobserved:
            return
        with torch.no_grad():
            self.state.set_statistics(self.algorithm.observe(self.state.statistics, self._unobserved))
        self._unobserved = {}
        self._running.forget()

    @torch.no_grad()
    def start_from(self, policies: Sequence[Weights | None]) -> None:
        """Give members the deployed components of a trained policy, without the member axis; None leaves a member as it is.

        The targets behind them become the same. Raises ValueError, before anything is changed, where a policy has other tensors
        than this algorithm's: torch would broadcast small ones, and components that are missing would stay random.
        """
        self.state.start_from(policies, self.algorithm.policy, self._step.followers)
        self._running.forget()

    # ------------------------------------------------------------ weights to run

    @property
    def weights(self) -> Weights:
        """Every component as it is trained, its gates apart."""
        self._take_in()
        return self.state.tensors()

    @property
    def gates(self) -> dict[str, Gates]:
        """The gates of each learned component; empty where it has none."""
        return {component: self.state.gate_views(component) for component in self.learned}

    def deterministic(self) -> Weights:
        """Every component, the learned ones without noise, targets raw: kept until something changes, so do not change it."""
        self._take_in()
        return self._running.deterministic()

    def acting(self) -> Weights:
        """Every component as it acts while training. Do not change it."""
        self._take_in()
        return self._running.acting()

    def act(self, observation: Shaped[Tensor, "member env *obs"], env_step: int, rng: MemberRng) -> Action:
        """Choose actions for training, after so many environment steps of each member. Called without gradients."""
        action = self._programs.act(self._for_programs(), observation, env_step, rng) if self.is_compiled else None
        return self.algorithm.act(self.acting(), observation, env_step, rng) if action is None else action

    def collect(self, episodes: EpisodesUnderWay, steps: int, env_step: int, rng: MemberRng) -> Rollout:
        """So many steps ``[member, time, env, ...]``, which change ``episodes``."""
        return self._programs.collect(self._for_programs(), episodes, steps, env_step, rng)

    def prepare(self, rollout: Rollout) -> Batch:
        """What is to be learned from a rollout, with the weights that acted. Called without gradients."""
        batch = self._programs.prepare(self._for_programs(), rollout) if self.is_compiled else None
        return self.algorithm.prepare(self.acting(), rollout) if batch is None else batch

    def _for_programs(self) -> Weights | None:
        self._take_in()
        return self._running.for_programs()

    # ------------------------------------------------------------ checkpoints

    def state_dict(self) -> State:
        """Everything needed to go on; tensors keep the member axis."""
        self._take_in()
        return {
            "env_step": self._env_step,
            "updates": self._updates,
            "compiled": self._programs.are_used,
            "compiled_updates": self._programs.updates,
            **self.state.state_dict(),
            **self._gating.state_dict(),
            "rng": self._rng.state_dict(),
            "stopped": self.stopped.state(),
        }

    @torch.no_grad()
    def load_state_dict(self, saved: State) -> None:
        self._env_step, self._updates = saved["env_step"], saved["updates"]
        self._programs.are_used &= saved["compiled"]
        self._programs.updates = saved["compiled_updates"]
        self.state.load_state_dict(saved)
        self._gating.load_state_dict(saved)
        self._rng.load_state_dict(saved["rng"])
        self.stopped.load_state(saved["stopped"])
        self._running.forget()
