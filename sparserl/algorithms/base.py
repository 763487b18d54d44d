"""The contract between an algorithm and the rest.

An algorithm is a frozen dataclass whose fields are the keys of ``conf/algorithm/<name>.yaml``. It holds no weights and
changes none: it is given them and returns new ones. Its arithmetic works on the last axes, so it knows nothing of members;
it knows no regulariser either: the weights it is given are the ones to compute with.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from sparserl import normalization
from sparserl.fields import Fraction, Positive
from sparserl.networks.base import Network, Structure
from sparserl.optimizers import Optimizer
from sparserl.policies.sampling import Sampling
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import Schedule
from sparserl.types import Action, Batch, Loss, Metrics, Rollout, Spec, Time, Weights

OBSERVATIONS, REWARDS = "observations", "rewards"
"""The components that hold running statistics, where an algorithm normalises."""


@dataclass(frozen=True)
class Objective:
    """What one backward pass makes small."""

    loss: Loss
    updates: tuple[str, ...]
    """The components that the gradient of the loss moves, whatever else it was computed from. A trunk that several losses move
    is named by each of them, and their gradients are added."""
    metrics: Metrics = field(default_factory=dict)
    active: Bool[Tensor, "member"] | None = None
    """The members that take part in this step, or None for all: the components of the others stay as they are."""
    state: Weights = field(default_factory=dict)
    """New values for components that gradients do not change. What is left out stays."""


@dataclass(frozen=True, kw_only=True)
class Algorithm(ABC):
    """What a trainer, a learner and an experience need of every algorithm."""

    actions: ClassVar[tuple[Literal["discrete", "continuous"], ...]]
    """The action spaces it is made for."""
    fewest_compiled_steps: ClassVar[int] = 45_000
    """The gradient steps of a run that earn back what compiling takes, alone and with eight members: ``compile=auto`` compiles
    no shorter one. Measured for DQN, PPO, TD3 and SAC (results of bench_compiled.py); A2C is taken to be like PPO, DDPG like
    TD3, and others like DQN."""
    gate_noise: ClassVar[Literal["gradient_step", "rollout"]] = "gradient_step"
    """When a new sample of the gates is drawn while they are active. ``gradient_step``: at each, and acting goes without noise.
    ``rollout``: one sample acts, and learns in all epochs of its rollout, so that the policy that is improved is the one that
    acted (Hausknecht and Wagener 2022, arXiv 2202.11818)."""

    gamma: Fraction
    """Discount of the return for each environment step."""

    max_grad_norm: Positive | None
    """The largest norm of one member's gradient in all components of an objective together, or None to leave gradients as they
    are. Weights and gates are clipped apart."""

    optimizer: Optimizer
    """Moves the weights of every component."""

    normalize_observation: bool = False
    """Whether networks see observations at mean 0 and deviation 1, by what each member has seen in training so far."""

    normalize_reward: bool = False
    """Whether rewards are divided by the deviation of the discounted return, by what each member was given so far."""

    normalized_limit: Positive = 10.0
    """Where normalised observations and rewards are cut, in deviations."""

    spec: Spec = field(init=False, repr=False, compare=False)
    """What the environment shows and accepts; there after ``bind``."""

    def bind(self, spec: Spec) -> Algorithm:
        """The same algorithm for an environment. Raises ValueError where the two do not fit."""
        if self.normalize_observation and not spec.observation_dtype.is_floating_point:
            raise ValueError("algorithm.normalize_observation is true, but observations are images; set it to false")
        bound = copy.copy(self)
        object.__setattr__(bound, "spec", spec)
        for component in bound.networks:
            bound.structure(component)  # raises ValueError where the network cannot read what it is given
        return bound

    @property
    def policy(self) -> tuple[str, ...]:
        """The components that are deployed, in the order in which an observation goes through them.

        They are counted, regularised under ``scope: policy``, factored and saved.
        """
        return (*[OBSERVATIONS] * self.normalize_observation, "policy")

    @property
    def acting(self) -> tuple[str, ...]:
        """The components that ``act``, ``deterministic_action`` and ``prepare`` are given."""
        return self.policy

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, Network]:
        """The networks of learned components."""

    def input_shape(self, component: str) -> tuple[int, ...]:
        """What the network of a component is given, without member and batch."""
        return self.spec.observation_shape

    def structure(self, component: str) -> Structure:
        """Which tensors of a component are weights, and which feeds which."""
        return self.networks[component].structure(self.input_shape(component))

    @property
    @abstractmethod
    def learning_rates(self) -> dict[str, Schedule]:
        """The components that gradients change, each with its learning rate; others are targets and statistics."""

    @property
    def targets(self) -> dict[str, str]:
        """The components that lag behind a learned one, by name, and behind which.

        A target holds raw weights, without gates, and runs with whatever the regulariser makes of them in the same step: a
        value that is bootstrapped must come from a network of the same scale as the one that learns it.
        """
        return {}

    @abstractmethod
    def init(self, members: Population) -> Weights:
        """Fresh weights of every component."""

    @abstractmethod
    def act(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"], step: int, rng: MemberRng) -> Action:
        """Choose actions for training, exploring. ``step``: environment steps that each member has taken."""

    @abstractmethod
    def deterministic_action(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"]) -> Tensor:
        """The action to be evaluated: no exploration, and no per-member values. The rank sweep plays a member at many ranks.

        A program is made of it, as of ``prepare``.
        """

    def prepare(self, weights: Weights, rollout: Rollout) -> Batch:
        """From a rollout to what ``losses`` needs, ``[member, time * env, ...]``: advantages, say.

        Called without gradients, with the weights that acted. As of ``act`` and ``losses``, a program is made of it: no value
        of a tensor decides which operations are done, or all runs eagerly.
        """
        return {name: values.flatten(1, 2) for name, values in rollout.items()}

    @abstractmethod
    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        """What is due at this gradient step, by a name for its metrics. A component that no objective names is not stepped.

        ``weights`` are the ones to compute with: under active gates, random ones. ``noise_free`` are the same components
        without noise, and the same dictionary where nothing is random. Actions must be selected with them: a maximum over
        values that share one sample of the noise is biased upwards, and bootstrapping compounds the bias.
        """

    def update_targets(self, weights: Weights, time: Time) -> Weights:
        """The targets after the gradient step that was taken at ``time``.

        ``weights`` are raw, without gates, and each component is one tensor ``[member, number]`` called ``""``: what a target
        does is the same for each of its numbers. Components that do not change are left out.
        """
        return {}

    # ------------------------------------------------------------ statistics of what the environment gave

    def fresh_statistics(self, members: Population) -> Weights:
        """The components of ``init`` that are statistics of nothing yet."""
        fresh: Weights = {}
        if self.normalize_observation:
            fresh[OBSERVATIONS] = normalization.fresh(members.size, self.spec.observation_shape)
        if self.normalize_reward:
            fresh[REWARDS] = normalization.fresh_returns(members.size)
        return fresh

    def observe(self, weights: Weights, rollout: Rollout) -> Weights:
        """The components that are statistics, after the environment gave these steps more.

        On-policy algorithms are given whole rollouts, after they were learned from, so that statistics are fixed meanwhile;
        others one step at a time.
        """
        changed: Weights = {}
        if self.normalize_observation:
            changed[OBSERVATIONS] = normalization.updated(weights[OBSERVATIONS], rollout["observation"].flatten(1, 2))
        if self.normalize_reward:
            ended = torch.maximum(rollout["terminated"], rollout["truncated"])
            changed[REWARDS] = normalization.updated_returns(weights[REWARDS], rollout["reward"], ended, self.gamma)
        return changed

    @property
    def observes(self) -> bool:
        """Whether ``observe`` changes anything."""
        return self.normalize_observation or self.normalize_reward

    def network_input(
        self, weights: Weights, observation: Shaped[Tensor, "member batch *obs"]
    ) -> Shaped[Tensor, "member batch *obs"]:
        """An observation as networks see it."""
        if not self.normalize_observation:
            return observation
        return normalization.normalized(weights[OBSERVATIONS], observation, self.normalized_limit)

    def network_inputs(
        self, weights: Weights, observation: Shaped[Tensor, "member batch *obs"]
    ) -> dict[str, Shaped[Tensor, "member batch *input"]]:
        """What each of ``networks`` is given where the deterministic policy acts on these observations."""
        return dict.fromkeys(self.networks, self.network_input(weights, observation))

    def learned_reward(
        self, weights: Weights, reward: Float[Tensor, "member batch"], *, is_sum: bool = False
    ) -> Float[Tensor, "member batch"]:
        """A reward as it is learned from; or a sum of several, which is scaled alike, and not cut at the limit of one."""
        if not self.normalize_reward:
            return reward
        return normalization.scaled_reward(weights[REWARDS], reward, math.inf if is_sum else self.normalized_limit)

    def bootstrapped(self, weights: Weights, batch: Batch, v_t: Float[Tensor, "member batch"]) -> Float[Tensor, "member batch"]:
        """The return from each transition on, from the value ``v_t`` after it: the target of an action value.

        A terminated episode has no value after it; a truncated one goes on unseen. An experience that adds up the rewards of
        several steps says in ``discount`` what the value is multiplied by.
        """
        over_steps = "discount" in batch
        discount = batch["discount"] if over_steps else self.gamma * (1 - batch["terminated"])
        return self.learned_reward(weights, batch["reward"], is_sum=over_steps) + discount * v_t

    # ------------------------------------------------------------ what is deployed

    def policy_structure(self) -> Structure:
        """The weights of the deployed components by ``component/name``, chained where one component feeds the next."""
        structure: Structure = {}
        parts = [(c, self.structure(c)) for c in self.policy if c in self.networks]
        for component, its in parts:
            structure |= {f"{component}/{name}": matrix.renamed(f"{component}/") for name, matrix in its.items()}
        for (component, its), (following, next_) in pairwise(parts):
            for name, matrix in its.items():
                if not matrix.feeds:
                    entered = (f"{following}/{next(iter(next_))}",)
                    structure[f"{component}/{name}"] = matrix.feeding(entered)
        return structure

    def policy_module(self, weights: Weights) -> nn.Module:
        """One member's deployed policy (``weights`` without the member axis) as an ordinary module of ``[batch, *obs]``.

        What it gives is what ``deterministic_action`` chooses by: a value or logit for each discrete action, or the action
        itself.
        """
        return self.network_module(weights)

    def sampling_module(self, weights: Weights) -> Sampling | None:
        """The same policy as it explores: a module of observations and random numbers that gives sampled actions.

        None where what explores is not part of the policy.
        """
        return None

    def network_module(self, weights: Weights) -> nn.Module:
        """One member's deployed networks behind their normalisation, without what turns their outputs into actions."""
        modules = [self.networks[c].module(weights[c]) for c in self.policy if c in self.networks]
        if self.normalize_observation:
            modules.insert(0, normalization.Normalize(weights[OBSERVATIONS], self.normalized_limit))
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
