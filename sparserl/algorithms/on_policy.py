"""What the actor-critics that learn from rollouts share: PPO and A2C.

An actor, ``policy``, and a critic, apart from each other or on one trunk, ``encoder``. The names say the time: ``v_tm1`` is the
value before a step, ``v_t`` the value after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sparserl.algorithms.base import REWARDS, Algorithm
from sparserl.fields import Fraction, NonNegative, Positive
from sparserl.networks.base import Network
from sparserl.optimizers import Optimizer
from sparserl.policies.distributions import Distribution, for_actions
from sparserl.policies.sampling import Sampling
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import Schedule
from sparserl.types import Action, Batch, Metrics, Rollout, Spec, Time, Weights

GAINS = {"encoder": math.sqrt(2), "policy": 0.01, "critic": 1.0}
"""Of the last layer of each component, where weights start orthogonal: all actions are about equally likely at first."""


@dataclass(frozen=True)
class OnPolicyActorCritic(Algorithm):
    """What PPO and A2C share: an actor, a critic of states, and advantages of rollouts.

    Keys (``make docs`` copies them from ``conf/algorithm/shared/on_policy.yaml``):
        network (``Network``): Of actor and critic: logits of discrete actions or means of continuous ones, and one value.
        share_trunk (``true`` or ``false``): Whether actor and critic are linear layers on one trunk, all of the network but its
            last layer, or have weights of their own.
        gamma (number, at least 0, at most 1): Discount of the return for each environment step, 0 to 1.
        gae_lambda (number, at least 0, at most 1): Weight of later TD errors in an advantage, 0 to 1: 0 is the TD error, 1 the
            return of the rollout minus the value.
        log_std_init (number): Logarithm of the deviation of continuous actions at the start, in units in which their bounds are
            -1 and 1. It is learned.
        ent_coef (number or schedule, at least 0): Weight of the entropy bonus, by environment steps; a number is a constant.
        vf_coef (number, at least 0): Weight of the critic's squared error (without the factor of 1/2 that some give it).
        normalize_advantage (``true`` or ``false``): Whether the advantages of each minibatch are brought to mean 0 and standard
            deviation 1.
        max_grad_norm (number, above 0 or ``null``): Largest norm of a member's gradient in actor and critic together; null
            leaves it.
        normalize_observation (``true`` or ``false``): Whether networks see observations at mean 0 and deviation 1, by what each
            member has seen in training so far.
        normalize_reward (``true`` or ``false``): Whether rewards are divided by the deviation of the discounted return, by what
            each member was given so far.
        normalized_limit (number, above 0): Where normalised observations and rewards are cut, in deviations.
    """

    network: Network
    share_trunk: bool
    gamma: Fraction
    gae_lambda: Fraction
    learning_rate: Annotated[Schedule, Ge(0)]
    ent_coef: Annotated[Schedule, Ge(0)]
    vf_coef: NonNegative
    normalize_advantage: bool
    log_std_init: float
    max_grad_norm: Positive | None
    optimizer: Optimizer

    actions = ("discrete", "continuous")
    fewest_compiled_steps = 35_000
    gate_noise = "rollout"

    def bind(self, spec: Spec) -> Algorithm:
        if self.share_trunk:
            _ = self.network.features  # raises ValueError where there is no trunk to share
        return super().bind(spec)

    @property
    def distribution(self) -> Distribution:
        """From what the policy gives to actions."""
        return for_actions(self.spec)

    # ------------------------------------------------------------ components

    @property
    def policy(self) -> tuple[str, ...]:
        *statistics, policy = super().policy
        return (*statistics, *["encoder"] * self.share_trunk, policy)

    @property
    def acting(self) -> tuple[str, ...]:
        return (*self.policy, "critic", *[REWARDS] * self.normalize_reward)

    @property
    def policy_network(self) -> Network:
        """From an observation to what the distribution of actions is made of; its trunk may be shared."""
        return self.network.for_policy(self.spec.observation_shape, self.distribution.outputs)

    @property
    def networks(self) -> Mapping[str, Network]:
        if self.share_trunk:
            whole = self.policy_network
            return {"encoder": whole.trunk(), "policy": whole.head(), "critic": whole.head()}
        return {"policy": self.policy_network, "critic": self.network}

    def input_shape(self, component: str) -> tuple[int, ...]:
        """Heads see the features of the trunk."""
        return (self.policy_network.features,) if self.share_trunk and component != "encoder" else self.spec.observation_shape

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return dict.fromkeys(self.networks, self.learning_rate)

    def init(self, members: Population) -> Weights:
        generators, networks = members.generators("init"), self.networks
        outputs = {"policy": self.distribution.outputs, "critic": 1}
        if self.share_trunk:
            outputs = {"encoder": self.policy_network.features} | outputs
        fresh = {c: networks[c].init(self.input_shape(c), number, generators, GAINS[c]) for c, number in outputs.items()}
        fresh["policy"] |= self.distribution.init(members.size, self.log_std_init)
        return fresh | self.fresh_statistics(members)

    def policy_module(self, weights: Weights) -> nn.Module:
        return self.distribution.deployed(self.network_module(weights))

    def sampling_module(self, weights: Weights) -> Sampling:
        return self.distribution.sampling(self.network_module(weights), weights["policy"])

    # ------------------------------------------------------------ what networks give

    def head_input(
        self, weights: Weights, observation: Shaped[Tensor, "member batch *obs"]
    ) -> Shaped[Tensor, "member batch *features"]:
        """What policy and critic are given: the features of the trunk, if they share one, or an observation."""
        seen = self.network_input(weights, observation)
        return self.networks["encoder"](weights["encoder"], seen) if self.share_trunk else seen

    def network_inputs(
        self, weights: Weights, observation: Shaped[Tensor, "member batch *obs"]
    ) -> dict[str, Shaped[Tensor, "member batch *input"]]:
        heads = dict.fromkeys(self.networks, self.head_input(weights, observation))
        return heads | ({"encoder": self.network_input(weights, observation)} if self.share_trunk else {})

    def policy_outputs(
        self, weights: Weights, given: Shaped[Tensor, "member batch *features"]
    ) -> Float[Tensor, "member batch out"]:
        """What the distribution of actions is made of."""
        return self.networks["policy"](weights["policy"], given)

    def value(self, weights: Weights, given: Shaped[Tensor, "member batch *features"]) -> Float[Tensor, "member batch"]:
        """The critic's estimate of the discounted return."""
        return self.networks["critic"](weights["critic"], given).squeeze(-1)

    def act(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"], step: int, rng: MemberRng) -> Action:
        """Sample from the policy. What a rollout needs of log-probabilities and values, ``prepare`` computes at once."""
        outputs = self.policy_outputs(weights, self.head_input(weights, observation))
        return self.distribution.sample(outputs, weights["policy"], rng)

    def deterministic_action(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"]) -> Tensor:
        return self.distribution.mode(self.policy_outputs(weights, self.head_input(weights, observation)))

    # ------------------------------------------------------------ learning

    def prepare(self, weights: Weights, rollout: Rollout) -> Batch:
        """What was seen and chosen, with ``log_prob`` and ``value`` as they were then.

        ``advantage`` is as in equation 16 of Schulman et al. 2016, and ``return`` the target of the critic.
        """
        batch, shape = super().prepare(weights, rollout), rollout["reward"].shape
        given = self.head_input(weights, batch["observation"])
        v_tm1 = self.value(weights, given)
        v_t = self.value(weights, self.head_input(weights, batch["next_observation"]))
        advantage = generalized_advantage(
            self.learned_reward(weights, batch["reward"]).view(shape),
            v_tm1.view(shape),
            v_t.view(shape),
            rollout["terminated"],
            rollout["truncated"],
            self.gamma,
            self.gae_lambda,
        ).flatten(1)
        chosen = batch[self.distribution.chosen]
        return {
            "observation": batch["observation"],
            self.distribution.chosen: chosen,
            "log_prob": self.distribution.log_prob(self.policy_outputs(weights, given), weights["policy"], chosen),
            "value": v_tm1,
            "advantage": advantage,
            "return": advantage + v_tm1,
        }

    def evaluated(
        self, weights: Weights, batch: Batch
    ) -> tuple[Float[Tensor, "member batch"], Float[Tensor, "member batch"], Float[Tensor, "member"]]:
        """Log-probabilities of what was chosen, values, and the mean entropy."""
        given = self.head_input(weights, batch["observation"])
        outputs = self.policy_outputs(weights, given)
        log_prob = self.distribution.log_prob(outputs, weights["policy"], batch[self.distribution.chosen])
        entropy = self.distribution.entropy(outputs, weights["policy"]).mean(dim=1)
        return log_prob, self.value(weights, given), entropy

    def advantage(self, batch: Batch) -> Float[Tensor, "member batch"]:
        """The advantages of a minibatch, normalised if that is asked for. One transition has no deviation."""
        advantage = batch["advantage"]
        if not self.normalize_advantage or advantage.shape[1] == 1:
            return advantage
        return (advantage - advantage.mean(dim=1, keepdim=True)) / (advantage.std(dim=1, keepdim=True) + 1e-8)

    def weighted(
        self,
        policy_loss: Float[Tensor, "member"],
        value_loss: Float[Tensor, "member"],
        entropy: Float[Tensor, "member"],
        time: Time,
    ) -> tuple[Float[Tensor, "member"], Metrics]:
        """The sum of the terms, and the terms as metrics."""
        terms = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        loss = policy_loss - self.ent_coef(time.step) * entropy + self.vf_coef * value_loss
        return loss, {name: term.detach() for name, term in terms.items()}


def generalized_advantage(
    reward: Float[Tensor, "member time env"],
    v_tm1: Float[Tensor, "member time env"],
    v_t: Float[Tensor, "member time env"],
    terminated: Float[Tensor, "member time env"],
    truncated: Float[Tensor, "member time env"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "member time env"]:
    """Exponentially weighted sums of TD errors (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    ``v_tm1`` and ``v_t`` are the values before and after each step. A terminated episode has no value after it. A truncated one
    would have gone on, so its value counts, but no TD error of what follows does: that belongs to another episode.
    """
    advantage = reward + gamma * (1 - terminated) * v_t - v_tm1
    decay = gamma * gae_lambda * (1 - torch.maximum(terminated, truncated))
    reach = 1  # of how many steps from its own each advantage has the errors, and each decay the product
    while reach < advantage.shape[1]:
        advantage[:, :-reach] += decay[:, :-reach] * advantage[:, reach:]
        decay[:, :-reach] = decay[:, :-reach] * decay[:, reach:]
        reach *= 2
    return advantage
