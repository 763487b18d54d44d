"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347).

With details of Huang et al. 2022 (The 37 implementation details of PPO): advantages are normalised in each minibatch, the
gradients of actor and critic are clipped by one norm, and eps of Adam is 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from sparserl.algorithms.base import REWARDS, Algorithm, Objective
from sparserl.fields import Fraction, NonNegative, Positive
from sparserl.networks.base import Network
from sparserl.optimizers import Optimizer
from sparserl.policies import categorical
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import Schedule
from sparserl.types import Action, Batch, Rollout, Spec, Time, Weights


@dataclass(frozen=True)
class PPO(Algorithm):
    """An actor, ``policy``, and a critic, apart from each other. The keys are described in ``conf/algorithm/ppo.yaml``."""

    network: Network
    gamma: Fraction
    gae_lambda: Fraction
    learning_rate: Annotated[Schedule, Ge(0)]
    clip_range: Annotated[Schedule, Ge(0)]
    ent_coef: NonNegative
    vf_coef: NonNegative
    normalize_advantage: bool
    max_grad_norm: Positive | None
    optimizer: Optimizer

    actions = "discrete"
    gate_noise = "rollout"

    def bind(self, spec: Spec) -> Algorithm:
        if spec.discrete_actions is None:
            raise ValueError("PPO needs discrete actions")
        return super().bind(spec)

    @property
    def acting(self) -> tuple[str, ...]:
        return (*self.policy, "critic", *[REWARDS] * self.normalize_reward)

    @property
    def networks(self) -> Mapping[str, Network]:
        return {"policy": self.network, "critic": self.network}

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return {"policy": self.learning_rate, "critic": self.learning_rate}

    def init(self, members: Population) -> Weights:
        generators = members.generators("init")
        assert self.spec.discrete_actions is not None
        outputs = {"policy": self.spec.discrete_actions, "critic": 1}
        return {
            c: self.network.init(self.spec.observation_shape, number, generators) for c, number in outputs.items()
        } | self.fresh_statistics(members)

    def act(self, weights: Weights, observation: Float[Tensor, "member env *obs"], step: int, rng: MemberRng) -> Action:
        """Sample from the policy. What a rollout needs of log-probabilities and values, ``prepare`` computes at once."""
        logits = self.network(weights["policy"], self.network_input(weights, observation))
        return Action(categorical.sample(logits, rng.uniform(*logits.shape[1:])))

    def deterministic_action(self, weights: Weights, observation: Float[Tensor, "member env *obs"]) -> Tensor:
        return categorical.mode(self.network(weights["policy"], self.network_input(weights, observation)))

    def value(self, weights: Weights, observation: Float[Tensor, "member batch *obs"]) -> Float[Tensor, "member batch"]:
        """The critic's estimate of the discounted return."""
        return self.network(weights["critic"], self.network_input(weights, observation)).squeeze(-1)

    def prepare(self, weights: Weights, rollout: Rollout) -> Batch:
        """Add ``log_prob`` of the actions, ``advantage`` and ``return`` (the target of the critic)."""
        batch = super().prepare(weights, rollout)
        shape = rollout["reward"].shape
        v_tm1 = self.value(weights, batch["observation"])
        v_t = self.value(weights, batch["next_observation"])
        advantage = generalized_advantage(
            self.learned_reward(weights, batch["reward"]).view(shape),
            v_tm1.view(shape),
            v_t.view(shape),
            rollout["terminated"],
            rollout["truncated"],
            self.gamma,
            self.gae_lambda,
        ).flatten(1)
        log_prob = categorical.log_prob(
            self.network(weights["policy"], self.network_input(weights, batch["observation"])), batch["action"]
        )
        learned = {name: batch[name] for name in ("observation", "action")}
        return learned | {"log_prob": log_prob, "advantage": advantage, "return": advantage + v_tm1}

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        """The clipped surrogate (equation 7), the squared error of the critic and the entropy bonus (equation 9)."""
        logits = self.network(weights["policy"], self.network_input(weights, batch["observation"]))
        log_ratio = categorical.log_prob(logits, batch["action"]) - batch["log_prob"]
        ratio, advantage, clip_range = log_ratio.exp(), batch["advantage"], self.clip_range(time.step)
        if self.normalize_advantage and advantage.shape[1] > 1:
            advantage = (advantage - advantage.mean(dim=1, keepdim=True)) / (advantage.std(dim=1, keepdim=True) + 1e-8)
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean(dim=1)
        value_loss = (self.value(weights, batch["observation"]) - batch["return"]).square().mean(dim=1)
        entropy = categorical.entropy(logits).mean(dim=1)
        with torch.no_grad():
            metrics = {
                "policy_loss": policy_loss.detach(),
                "value_loss": value_loss.detach(),
                "entropy": entropy.detach(),
                # Schulman's estimate of the divergence from the policy that acted, which is never below 0
                "approx_kl": (ratio - 1 - log_ratio).mean(dim=1),
                "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean(dim=1),
            }
        loss = policy_loss - self.ent_coef * entropy + self.vf_coef * value_loss
        return {"policy": Objective(loss, ("policy", "critic"), metrics)}


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
    delta = reward + gamma * (1 - terminated) * v_t - v_tm1
    decay = gamma * gae_lambda * (1 - torch.maximum(terminated, truncated))
    advantage = torch.zeros_like(delta)
    following = torch.zeros_like(delta[:, 0])
    for time in reversed(range(delta.shape[1])):
        following = delta[:, time] + decay[:, time] * following
        advantage[:, time] = following
    return advantage
