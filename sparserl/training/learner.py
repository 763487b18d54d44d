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
from jaxtyping import Shaped, UInt8
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.experience.selection import Selection
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.population.state import State, split
from sparserl.regularizers.base import Regularizer
from sparserl.runs.files import misfit
from sparserl.terminal import say_once
from sparserl.training.calls import CompiledActing, CompiledParts, CompiledStep
from sparserl.training.dependencies import CompileError
from sparserl.training.parameters import FlatTensors, Parameters
from sparserl.training.step import CHECKED, LARGEST_RATE, FixedGates, GradientStep, LearnerState, Scalars, replace
from sparserl.types import Action, Batch, Gates, Metrics, Noise, Rollout, Time, Weights, is_weight

SENTENCE_BYTES = 500
"""What a checkpoint keeps of why a member was stopped."""


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
        self._gate_generators, self._rng = members.generators("gates"), members.rng("update")
        self.bound = {c: regularizer.bind(algorithm.structure(c), c, c in algorithm.policy) for c in self.covered}
        self.initial_gates = {c: its.init(fresh[c], self._gate_generators) for c, its in self.bound.items()}
        others = fresh.keys() - self.learned - algorithm.targets.keys()
        self.state = LearnerState(
            weights={c: Parameters(fresh[c], algorithm.optimizer) for c in self.learned},
            gates={c: Parameters(gates, regularizer.gate_optimizer) for c, gates in self.initial_gates.items() if gates},
            targets={c: FlatTensors(fresh[c]) for c in algorithm.targets},
            statistics={c: fresh[c] for c in fresh if c in others},
            learns=torch.ones(members.size, 1, device=members.device),
        )
        self._learning = members.size  # how many members have not been stopped
        self._stopped: list[str | None] = [None] * members.size
        self._step = GradientStep(algorithm, regularizer, self.bound)
        self._compiled = CompiledParts(CompiledStep(self._step), CompiledActing(self._step)) if compiled else None
        self._compiled_updates = 0
        self._unobserved: Rollout = {}  # what statistics are to take in before they are read
        self._noise: dict[str, Noise] = {}  # of the gates as they are active, by component
        self._gates_active = False
        self._scheduled_at = -1  # the environment steps after which gates were set by their schedule
        self._computed: dict[str, Weights] = {}  # from the state as it is; emptied when that changes

    # ------------------------------------------------------------ learning

    def begin_rollout(self, env_step: int) -> None:
        """Draw the noise of the gates for all steps and updates until the next rollout begins."""
        if self.algorithm.gate_noise == "rollout":
            self._draw_noise(env_step)

    def _draw_noise(self, env_step: int) -> None:
        """Whether gates are active, and the noise under which they run; or what they are fixed at."""
        regularizer, state = self.regularizer, self.state
        if not state.gates:
            return
        self._schedule_gates(env_step)
        self._gates_active = regularizer.gates_active(env_step)
        self._noise, self._computed = {}, {}
        if self._gates_active:
            state.fixed_gates = {}
            self._noise = {c: self.bound[c].noise(its.views, self._gate_generators, env_step) for c, its in state.gates.items()}
        elif not state.fixed_gates:
            self._fix_gates()

    @torch.no_grad()
    def _schedule_gates(self, env_step: int, ends: bool = False) -> None:
        """Set the gates by their schedule, at the last call as training ``ends``, but not in members that were stopped."""
        previous, self._scheduled_at = self._scheduled_at, env_step
        for component, its in self.state.gates.items():
            regularizer = self.bound[component]
            due = regularizer.finished if ends else regularizer.scheduled
            gates = due(self.state.weights[component].views, its.views, previous, env_step)
            if replace(its.views, gates, self.state.learns):
                self.state.fixed_gates, self._computed = {}, {}

    def finish(self, env_step: int) -> None:
        """Called once, when training ends: the gates become those of the trained policy."""
        self._schedule_gates(env_step, ends=True)

    @torch.no_grad()
    def _fix_gates(self) -> None:
        """Compute what is made of gates once, when they stop to be active."""
        for component, gates in self.state.gates.items():
            multipliers = self._step.multipliers(self.state, component)
            needed = {name: values for name, values in multipliers.items() if not (values == 1).all()}
            regularizer = self.bound[component]
            term = regularizer.summands()[regularizer.gated or ""]
            penalty = term.penalty(self.state.weights[component].views, gates.views)
            self.state.fixed_gates[component] = FixedGates(needed, penalty)

    def update(self, batch: Batch | Selection, env_step: int) -> Metrics:
        """One gradient step of every component that is due, and the algorithm's own state after it.

        ``env_step``, the environment steps that each member has taken, drives the schedules. Metrics are ``[member]``.
        """
        selection = batch if isinstance(batch, Selection) else Selection(batch)
        noise_free, with_noise_free = {}, False
        if self.algorithm.gate_noise == "gradient_step":
            with_noise_free = bool(self.state.gates) and self.regularizer.gates_active(env_step)
            if with_noise_free and self._compiled is None:
                noise_free = self._noise_free()
            self._draw_noise(env_step)
        scalars = Scalars(
            time=Time(env_step, self._env_step, self._updates),
            gates_active=self._gates_active,
            penalty={
                (c, name): term.coefficient(env_step, c in self.algorithm.policy)
                for c, regularizer in self.bound.items()
                for name, term in regularizer.summands().items()
            },
            rates={c: min(schedule(env_step), LARGEST_RATE) for c, schedule in self.algorithm.learning_rates.items()},
            gate_rate=min(self.regularizer.gate_rate(env_step), LARGEST_RATE),
        )
        metrics = (
            None if self._compiled is None else self._run_compiled(self._compiled.step, selection, scalars, with_noise_free)
        )
        if metrics is None:
            self._take_in()
            if with_noise_free and not noise_free:
                noise_free = self._noise_free()
            metrics = self._step(self.state, selection.batch(), scalars, self._noise, noise_free, self._rng)
        self._env_step, self._updates, self._computed = env_step, self._updates + 1, {}
        if self.state.learns.sum().item() < self._learning:
            self._report_diverged(metrics, env_step)
        return metrics

    def _run_compiled(
        self, compiled: CompiledStep, selection: Selection, scalars: Scalars, with_noise_free: bool
    ) -> Metrics | None:
        """The step as a program, or None, with nothing changed, where there can be none."""
        try:
            metrics = compiled(self.state, selection, scalars, self._noise, with_noise_free, self._unobserved, self._rng)
        except CompileError as error:
            self._compile_no_more(error)
            return None
        self._compiled_updates += 1
        self._unobserved = {}
        return metrics

    def _compile_no_more(self, error: CompileError) -> None:
        say_once(f"warning: gradient steps and acting run eagerly, since they cannot be compiled: {error}")
        self._compiled = None

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

    def _report_diverged(self, metrics: Metrics, env_step: int) -> None:
        """Keep why members were stopped in the last gradient step."""
        checked = {name: value.isfinite().tolist() for name, value in metrics.items() if name.startswith(CHECKED)}
        for member, learns in enumerate(self.state.learns[:, 0].tolist()):
            if not learns and self._stopped[member] is None:
                name = next(name for name, finite in checked.items() if not finite[member])
                what = name.replace("objective/", "loss of ").replace("gradient/", "gradient of ").replace("/", " of ")
                self._stopped[member] = f"the {what} is not finite: stopped at its last finite weights at step {env_step}"
        self._learning = self._stopped.count(None)

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
        self._unobserved, self._computed = {}, {}

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
        self._computed = {}

    # ------------------------------------------------------------ weights to run

    @property
    def weights(self) -> Weights:
        """Every component as it is trained, its gates apart."""
        self._take_in()
        return self.state.tensors()

    @property
    def gates(self) -> dict[str, Gates]:
        """The gates of each learned component; empty where it has none."""
        return {c: self.state.gates[c].views if c in self.state.gates else {} for c in self.learned}

    @torch.no_grad()
    def deterministic(self) -> Weights:
        """Every component, the learned ones without noise, targets raw: kept until something changes, so do not change it."""
        self._take_in()
        if "deterministic" not in self._computed:
            weights = self.weights
            hardened = {c: its.harden(weights[c], self._multipliers()[c]) for c, its in self.bound.items()}
            self._computed["deterministic"] = weights | hardened
        return self._computed["deterministic"]

    @torch.no_grad()
    def acting(self) -> Weights:
        """Every component as it acts while training."""
        if self.algorithm.gate_noise == "gradient_step":
            return self.deterministic()
        self._take_in()
        if "acting" not in self._computed:
            if not self._gates_active and not self.state.fixed_gates:
                self._fix_gates()
            self._computed["acting"] = self._step.running(self.state, self.weights, self._noise)
        return self._computed["acting"]

    def act(self, observation: Shaped[Tensor, "member env *obs"], env_step: int, rng: MemberRng) -> Action:
        """Choose actions for training, after so many environment steps of each member. Called without gradients."""
        if self._compiled is not None:
            try:
                return self._act_compiled(self._compiled.act, observation, env_step, rng)
            except CompileError as error:
                self._compile_no_more(error)
        return self.algorithm.act(self.acting(), observation, env_step, rng)

    def _act_compiled(self, compiled: CompiledActing, observation: Tensor, env_step: int, rng: MemberRng) -> Action:
        self._take_in()
        if self.algorithm.gate_noise == "gradient_step":
            return compiled(self.state, None, observation, env_step, rng)
        if "contiguous" not in self._computed:
            acting = self.acting()
            self._computed["contiguous"] = {
                c: {name: tensor.contiguous() for name, tensor in acting[c].items()} for c in self.algorithm.acting
            }
        return compiled(self.state, self._computed["contiguous"], observation, env_step, rng)

    def _multipliers(self) -> Weights:
        """What gates multiply by without noise, by component."""
        if "multipliers" not in self._computed:
            fixed = self.state.fixed_gates
            self._computed["multipliers"] = {
                c: fixed[c].multipliers if c in fixed else self._step.multipliers(self.state, c) for c in self.covered
            }
        return self._computed["multipliers"]

    @torch.no_grad()
    def _noise_free(self) -> Weights:
        """What runs under gates, components and the targets behind them, without their noise."""
        return self._step.noise_free(self.state, self._multipliers())

    # ------------------------------------------------------------ members that were stopped

    def stop(self, member: int, reason: str, env_step: int) -> None:
        """Stop a member for a reason that lies outside of its learning, unless it was stopped before."""
        if self._stopped[member] is None:
            self._stopped[member] = f"{reason}: stopped at step {env_step}"
            self._learning -= 1
            self.state.learns[member] = 0.0

    @property
    def all_stopped(self) -> bool:
        """Whether no member learns any more."""
        return self._learning == 0

    def stopped(self) -> list[str | None]:
        """Of each member why it was stopped, and when, in a sentence; None of those that learn."""
        return list(self._stopped)

    # ------------------------------------------------------------ checkpoints

    def state_dict(self) -> State:
        """Everything needed to go on; tensors keep the member axis."""
        self._take_in()
        state = self.state
        groups = {"weights": state.weights, "gates": state.gates}
        return {
            "env_step": self._env_step,
            "updates": self._updates,
            "compiled": self._compiled is not None,
            "compiled_updates": self._compiled_updates,
            "weights": self.weights,
            "gates": self.gates,
            "moments": {
                name: {c: its.moments | {"step": int(its.moments["step"])} for c, its in group.items()}
                for name, group in groups.items()
            },
            "gates_active": self._gates_active,
            "scheduled_at": self._scheduled_at,
            "noise": self._noise if self.algorithm.gate_noise == "rollout" else {},
            "gate_generators": self._gate_generators.state_dict(),
            "rng": self._rng.state_dict(),
            "stopped": torch.stack([_as_bytes(sentence) for sentence in self._stopped]),
        }

    @torch.no_grad()
    def load_state_dict(self, saved: State) -> None:
        state = self.state
        self._env_step, self._updates = saved["env_step"], saved["updates"]
        self._compiled_updates = saved["compiled_updates"]
        if not saved["compiled"]:
            self._compiled = None
        self._gates_active, self._scheduled_at = saved["gates_active"], saved["scheduled_at"]
        self._noise = _to(saved["noise"], state.learns.device)
        for mine, its in ((self.weights, saved["weights"]), (self.gates, saved["gates"])):
            for component in mine.keys() - state.statistics.keys():
                for name, tensor in mine[component].items():
                    tensor.copy_(its[component][name])
        state.statistics = _to({c: saved["weights"][c] for c in state.statistics}, state.learns.device)
        for group, moments in ((state.weights, saved["moments"]["weights"]), (state.gates, saved["moments"]["gates"])):
            for component, parameters in group.items():
                for name, moment in parameters.moments.items():
                    moment.copy_(torch.as_tensor(moments[component][name]))
        self._gate_generators.load_state_dict(saved["gate_generators"])
        self._rng.load_state_dict(saved["rng"])
        self._stopped = [_from_bytes(row) for row in saved["stopped"]]
        self._learning = self._stopped.count(None)
        state.learns.copy_(torch.tensor([[float(sentence is None)] for sentence in self._stopped]))
        state.fixed_gates, self._computed = {}, {}


def _to(tensors: Weights, device: torch.device) -> Weights:
    return {component: {name: tensor.to(device) for name, tensor in its.items()} for component, its in tensors.items()}


def _as_bytes(sentence: str | None) -> UInt8[Tensor, "byte"]:
    """What a checkpoint keeps of a sentence, since only tensors may differ between members; zeros for none."""
    kept = (sentence or "").encode(errors="replace")[:SENTENCE_BYTES]
    return torch.tensor(list(kept.ljust(SENTENCE_BYTES, b"\0")), dtype=torch.uint8)


def _from_bytes(kept: UInt8[Tensor, "byte"]) -> str | None:
    """The inverse of ``_as_bytes``, but for what did not fit."""
    return bytes(kept.tolist()).rstrip(b"\0").decode(errors="ignore") or None
