"""The weights, gates and optimiser state of P members.

Everything that is particular to an algorithm or a regulariser is behind their contracts; here they meet. The objective of
each component is ``loss`` plus ``lambda_c(step) * penalty`` of each term of its regulariser, summed over members: a sum, so
that each member's gradient is the one it would have alone.

A member whose objective or gradient is not finite has diverged: its weights, gates and targets stay, bit for bit, what they
were before that step. Its numbers stay in its own rows, so the others do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.experience.selection import Selection
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.population.state import State, split
from sparserl.regularizers.base import Regularizer
from sparserl.runs.files import misfit
from sparserl.terminal import say_once
from sparserl.training.collecting_call import EpisodesUnderWay, collect_eagerly
from sparserl.training.compiled_parts import CompiledParts
from sparserl.training.dependencies import CompileError
from sparserl.training.gating import Gating
from sparserl.training.learner_state import LearnerState
from sparserl.training.parameters import FlatTensors, Parameters
from sparserl.training.running_weights import RunningWeights
from sparserl.training.step import LARGEST_RATE, GradientStep, Scalars
from sparserl.training.stopped import StoppedMembers
from sparserl.types import Action, Batch, Gates, Metrics, Rollout, Time, Weights, is_weight

T = TypeVar("T")


class Learner:
    """Trains the components of one algorithm under one regulariser, for every member at once.

    ``algorithm`` must be bound to an environment. Where gradient steps and acting are to be ``compiled`` and cannot be, a line
    says so and they run eagerly from then on.
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
        self._compiled = CompiledParts.of(self._step) if compiled else None
        self._compiled_updates = 0
        self._unobserved: Rollout = {}  # what statistics are to take in before they are read
        self._running = RunningWeights(self._step, self.state, self._gating)

    # ------------------------------------------------------------ learning

    def begin_rollout(self, env_step: int) -> None:
        """Draw the noise of the gates for all steps and updates until the next rollout begins."""
        if self.algorithm.gate_noise == "rollout":
            self._draw_gates(env_step)

    def _draw_gates(self, env_step: int) -> None:
        if self.state.gates:
            self._gating.draw(env_step)
            self._running.forget()

    def finish(self, env_step: int) -> None:
        """Called once, when training ends: the gates become those of the trained policy."""
        self._gating.finish(env_step)
        self._running.forget()

    def update(self, batch: Batch | Selection, env_step: int) -> Metrics:
        """One gradient step of every component that is due, and the algorithm's own state after it.

        ``env_step``, the environment steps that each member has taken, drives the schedules. Metrics are ``[member]``.
        """
        selection = batch if isinstance(batch, Selection) else Selection(batch)
        noise_free, with_noise_free = {}, False
        if self.algorithm.gate_noise == "gradient_step":
            with_noise_free = bool(self.state.gates) and self.regularizer.gates_active(env_step)
            if with_noise_free and self._compiled is None:
                noise_free = self._running.noise_free()
            self._draw_gates(env_step)
        scalars = Scalars(
            time=Time(env_step, self._env_step, self._updates),
            gates_active=self._gating.are_active,
            penalty={
                (c, name): term.coefficient(env_step, c in self.algorithm.policy)
                for c, regularizer in self.bound.items()
                for name, term in regularizer.summands().items()
            },
            rates={c: min(schedule(env_step), LARGEST_RATE) for c, schedule in self.algorithm.learning_rates.items()},
            gate_rate=min(self.regularizer.gate_rate(env_step), LARGEST_RATE),
        )
        noise = self._gating.noise
        metrics = self._as_program(
            lambda its: its.step(self.state, selection, scalars, noise, with_noise_free, self._unobserved, self._rng)
        )
        if metrics is None:
            self._take_in()
            if with_noise_free and not noise_free:
                noise_free = self._running.noise_free()
            metrics = self._step(self.state, selection.batch(), scalars, noise, noise_free, self._rng)
        else:
            self._compiled_updates, self._unobserved = self._compiled_updates + 1, {}
        self._env_step, self._updates = env_step, self._updates + 1
        self._running.forget()
        self.stopped.update(metrics, env_step)
        return metrics

    def _as_program(self, run: Callable[[CompiledParts], T]) -> T | None:
        """What a program gives, or None, with nothing changed, where there can be none. Then all runs eagerly from now on."""
        if self._compiled is None:
            return None
        try:
            return run(self._compiled)
        except CompileError as error:
            say_once(f"warning: gradient steps and acting run eagerly, since they cannot be compiled: {error}")
            self._compiled = None
            return None

    @property
    def is_compiled(self) -> bool:
        """Whether gradient steps and acting are to run as programs."""
        return self._compiled is not None

    @property
    def backend(self) -> str:
        """How the gradient steps so far were run: ``eager``, ``compiled`` or ``mixed``."""
        if self._compiled_updates == 0:
            return "eager"
        return "compiled" if self._compiled_updates == self._updates else "mixed"

    def observe(self, rollout: Rollout) -> None:
        """Let the algorithm's statistics take in what the environment gave; those of members that were stopped stay.

        Where gradient steps are compiled the next one does so, if nothing asks before.
        """
        self._take_in()
        self._unobserved = rollout
        if self._compiled is None:
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
        tensors = self.state.tensors()
        needed = {component: split(tensors[component], 0) for component in self.algorithm.policy}
        for weights in policies:
            if weights is not None and (fault := misfit(weights, needed)):
                raise ValueError(f"a policy to start from cannot be this algorithm's: its {fault}")
        for member, weights in enumerate(policies):
            for component, layers in (weights or {}).items():
                for name, tensor in layers.items():
                    for target in (component, *self._step.followers(component)):
                        tensors[target][name][member] = tensor
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
        action = self._as_program(lambda its: its.act(self.state, self._for_programs(), observation, env_step, rng))
        return self.algorithm.act(self.acting(), observation, env_step, rng) if action is None else action

    def collect(self, episodes: EpisodesUnderWay, steps: int, most: int, env_step: int, rng: MemberRng) -> Rollout:
        """So many steps ``[member, time, env, ...]`` that change ``episodes``: a program of ``most``, if there can be one."""
        found = self._as_program(
            lambda its: its.collect(self.state, self._for_programs(), episodes, steps, most, env_step, rng)
        )
        if found is None:
            return collect_eagerly(lambda seen, at: self.act(seen, at, rng), episodes, steps, env_step)
        return found

    def prepare(self, rollout: Rollout) -> Batch:
        """What is to be learned from a rollout, with the weights that acted. Called without gradients."""
        batch = self._as_program(lambda its: its.prepare(self.state, self._for_programs(), rollout))
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
            "compiled": self._compiled is not None,
            "compiled_updates": self._compiled_updates,
            **self.state.state_dict(),
            **self._gating.state_dict(),
            "rng": self._rng.state_dict(),
            "stopped": self.stopped.state(),
        }

    @torch.no_grad()
    def load_state_dict(self, saved: State) -> None:
        self._env_step, self._updates = saved["env_step"], saved["updates"]
        self._compiled_updates = saved["compiled_updates"]
        if not saved["compiled"]:
            self._compiled = None
        self.state.load_state_dict(saved)
        self._gating.load_state_dict(saved)
        self._rng.load_state_dict(saved["rng"])
        self.stopped.load_state(saved["stopped"])
        self._running.forget()
