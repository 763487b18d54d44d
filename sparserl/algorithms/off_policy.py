"""What the actor-critics that learn from replay share: DDPG, TD3 and SAC.

An actor, ``policy``, and one or two critics, all networks apart. Actions are in [-1, 1] here, and within the bounds of the
environment outside. The names say the time: ``q_tm1`` is a value at the state where an action was taken, ``q_t`` at the next.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sparserl.algorithms.base import Algorithm, Objective
from sparserl.fields import Fraction, OpenFraction, Positive, Steps
from sparserl.networks.base import Network
from sparserl.optimizers import Optimizer
from sparserl.policies.deterministic import Squash
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import Schedule
from sparserl.types import Action, Batch, Layers, Spec, Time, Weights


@dataclass(frozen=True)
class OffPolicyActorCritic(Algorithm):
    """What DDPG, TD3 and SAC share: an actor for continuous actions, critics, and targets that follow them.

    Keys (``make docs`` copies them from ``conf/algorithm/shared/off_policy.yaml``):
        network (``Network``): Of actor and critics, which have weights of their own: what an action is made of, and one value
            of an observation and an action.
        gamma (number, at least 0, at most 1): Discount of the return for each environment step, 0 to 1.
        actor_learning_rate (number or schedule, at least 0): Learning rate of the actor, by environment steps; a number is a
            constant.
        critic_learning_rate (number or schedule, at least 0): Learning rate of the critics, by environment steps; a number is a
            constant.
        tau (number, above 0, at most 1): How far targets move towards the networks that they follow, each time.
        random_steps (integer, at least 0): Environment steps of each member with uniformly random actions at the start.
        max_grad_norm (number, above 0 or ``null``): Largest norm of a member's gradient in the components of one loss together;
            null leaves it.
        normalize_observation (``true`` or ``false``): Whether networks see observations at mean 0 and deviation 1, by what each
            member has seen in training so far.
        normalize_reward (``true`` or ``false``): Whether rewards are divided by the deviation of the discounted return, by what
            each member was given so far.
        normalized_limit (number, above 0): Where normalised observations and rewards are cut, in deviations.
        optimizer (``Optimizer``): Moves the weights.
        optimizer.betas (list of: number, at least 0, below 1): Decay of the averages of the gradient and of its square, 0 to
            below 1.
        optimizer.eps (number, above 0): Added to the root of the average square.
    """

    network: Network
    gamma: Fraction
    actor_learning_rate: Annotated[Schedule, Ge(0)]
    critic_learning_rate: Annotated[Schedule, Ge(0)]
    tau: OpenFraction
    random_steps: Steps
    max_grad_norm: Positive | None
    optimizer: Optimizer

    actions = ("continuous",)
    fewest_compiled_steps = 15_000

    critics: ClassVar[tuple[str, ...]] = ("critic_1", "critic_2")

    def bind(self, spec: Spec) -> Algorithm:
        if spec.discrete_actions is not None:
            raise ValueError("its actions are vectors, and those of the environment are discrete")
        return super().bind(spec)

    # ------------------------------------------------------------ components

    @property
    def actor_outputs(self) -> int:
        """How many numbers the actor's network gives."""
        return len(self.spec.action_low)

    @property
    def networks(self) -> Mapping[str, Network]:
        policy = self.network.for_policy(self.input_shape("policy"), self.actor_outputs)
        return {"policy": policy} | dict.fromkeys(self.critics, self.network)

    def input_shape(self, component: str) -> tuple[int, ...]:
        """Critics see an action beside the observation."""
        observation = self.spec.observation_shape
        return (math.prod(observation) + len(self.spec.action_low),) if component in self.critics else observation

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return {"policy": self.actor_learning_rate} | dict.fromkeys(self.critics, self.critic_learning_rate)

    @property
    def targets(self) -> dict[str, str]:
        return {f"target_{critic}": critic for critic in self.critics}

    def init(self, members: Population) -> Weights:
        generators, networks = members.generators("init"), self.networks
        outputs = {"policy": self.actor_outputs} | dict.fromkeys(self.critics, 1)
        fresh = {c: networks[c].init(self.input_shape(c), number, generators) for c, number in outputs.items()}
        targets = {t: {name: tensor.clone() for name, tensor in fresh[c].items()} for t, c in self.targets.items()}
        return fresh | targets | self.fresh_statistics(members)

    def update_targets(self, weights: Weights, time: Time) -> Weights:
        """After each gradient step targets move by ``tau``."""
        return {t: {"": torch.lerp(weights[t][""], weights[c][""], self.tau)} for t, c in self.targets.items()}

    # ------------------------------------------------------------ acting

    def act(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"], step: int, rng: MemberRng) -> Action:
        """Uniformly random actions for ``random_steps``, then what the policy explores."""
        if step < self.random_steps:
            action = 2 * rng.uniform(observation.shape[1], len(self.spec.action_low)) - 1
        else:
            action = self.explore(self.network(weights["policy"], self.network_input(weights, observation)), rng)
        return Action(self.spec.scale_action(action))

    def deterministic_action(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"]) -> Tensor:
        return self.spec.scale_action(self.mode(self.network(weights["policy"], self.network_input(weights, observation))))

    def policy_module(self, weights: Weights) -> nn.Module:
        return nn.Sequential(self.network_module(weights), Squash(self.spec))

    @abstractmethod
    def explore(self, outputs: Float[Tensor, "member env out"], rng: MemberRng) -> Float[Tensor, "member env action"]:
        """The actions in training."""

    @abstractmethod
    def mode(self, outputs: Float[Tensor, "member batch out"]) -> Float[Tensor, "member batch action"]:
        """The actions in evaluation."""

    # ------------------------------------------------------------ learning

    def q(
        self, layers: Layers, observation: Shaped[Tensor, "member batch *obs"], action: Float[Tensor, "member batch action"]
    ) -> Float[Tensor, "member batch"]:
        """What one critic says of actions."""
        return self.network(layers, torch.cat([observation.flatten(2), action], dim=-1)).squeeze(-1)

    def network_inputs(
        self, weights: Weights, observation: Shaped[Tensor, "member batch *obs"]
    ) -> dict[str, Shaped[Tensor, "member batch *input"]]:
        seen = self.network_input(weights, observation)
        action = self.mode(self.networks["policy"](weights["policy"], seen))
        return {"policy": seen} | dict.fromkeys(self.critics, torch.cat([seen.flatten(2), action], dim=-1))

    def lowest_q(
        self,
        weights: Weights,
        critics: tuple[str, ...],
        observation: Shaped[Tensor, "member batch *obs"],
        action: Float[Tensor, "member batch action"],
    ) -> Float[Tensor, "member batch"]:
        """The lowest value of several critics (Fujimoto et al. 2018), whose own weights no gradient reaches."""
        values = [self.q({name: t.detach() for name, t in weights[c].items()}, observation, action) for c in critics]
        return values[0] if len(values) == 1 else torch.minimum(*values)

    def critic_objective(self, weights: Weights, batch: Batch, target_tm1: Float[Tensor, "member batch"]) -> Objective:
        """The mean squared error of each critic, added up."""
        observation = self.network_input(weights, batch["observation"])
        action = self.spec.unscale_action(batch["action"])
        q_tm1 = [self.q(weights[critic], observation, action) for critic in self.critics]
        loss = sum(((q - target_tm1).square().mean(dim=1) for q in q_tm1[1:]), (q_tm1[0] - target_tm1).square().mean(dim=1))
        q_value = q_tm1[0].detach()
        metrics = {"td_error": (target_tm1 - q_value).abs().mean(dim=1), "q_value": q_value.mean(dim=1)}
        return Objective(loss, self.critics, metrics)
