"""Soft actor-critic with automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.off_policy import OffPolicyActorCritic
from sparserl.fields import Positive
from sparserl.policies import squashed_gaussian
from sparserl.policies.sampling import Sampling, SquashedGaussianSampling
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import Schedule
from sparserl.types import Batch, Time, Weights

TEMPERATURE = "temperature"
"""The component that holds the logarithm of the temperature."""


@dataclass(frozen=True)
class SAC(OffPolicyActorCritic):
    """Two critics, and a squashed Gaussian as policy.

    Keys beside those of ``OffPolicyActorCritic`` (``make docs`` copies them from ``conf/algorithm/sac.yaml``):
        actor_learning_rate (number or schedule, at least 0): Lower than those of ddpg, as published.
        critic_learning_rate (number or schedule, at least 0): The same for the critics.
        temperature_learning_rate (number or schedule, at least 0): Learning rate of the temperature, the weight of the entropy,
            by environment steps; a number is a constant.
        initial_temperature (number, above 0): The temperature at the start.
        target_entropy (number or ``null``): The entropy, in nats of actions in [-1, 1], that the temperature is adjusted to;
            null is minus the number of their dimensions.
    """

    temperature_learning_rate: Annotated[Schedule, Ge(0)]
    initial_temperature: Positive
    target_entropy: float | None

    @property
    def actor_outputs(self) -> int:
        """Means, and logarithms of deviations."""
        return 2 * len(self.spec.action_low)

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return super().learning_rates | {TEMPERATURE: self.temperature_learning_rate}

    def init(self, members: Population) -> Weights:
        log = torch.full((members.size, 1), self.initial_temperature).log()
        return super().init(members) | {TEMPERATURE: {"log": log}}

    def explore(self, outputs: Float[Tensor, "member env out"], rng: MemberRng) -> Float[Tensor, "member env action"]:
        return squashed_gaussian.sample(outputs, rng.normal(outputs.shape[1], len(self.spec.action_low)))[0]

    def mode(self, outputs: Float[Tensor, "member batch out"]) -> Float[Tensor, "member batch action"]:
        return squashed_gaussian.mode(outputs)

    def sampling_module(self, weights: Weights) -> Sampling:
        return SquashedGaussianSampling(self.network_module(weights), self.spec)

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        """Equations 5 to 7 of the critics and the policy, and 17 of the temperature, in its logarithm."""
        normals = rng.normal(2, batch["reward"].shape[1], len(self.spec.action_low))
        observation = self.network_input(weights, batch["observation"])
        log_temperature = weights[TEMPERATURE]["log"]
        temperature = log_temperature.detach().exp()
        with torch.no_grad():
            next_observation = self.network_input(weights, batch["next_observation"])
            a_t, log_prob_t = squashed_gaussian.sample(self.network(noise_free["policy"], next_observation), normals[:, 0])
            q_t = self.lowest_q(weights, tuple(f"target_{critic}" for critic in self.critics), next_observation, a_t)
            target_tm1 = self.bootstrapped(weights, batch, q_t - temperature * log_prob_t)
        action, log_prob = squashed_gaussian.sample(self.network(weights["policy"], observation), normals[:, 1])
        value = self.lowest_q(weights, self.critics, observation, action)
        entropy = -log_prob.detach().mean(dim=1)
        target_entropy = -len(self.spec.action_low) if self.target_entropy is None else self.target_entropy
        return {
            "critic": self.critic_objective(weights, batch, target_tm1),
            "policy": Objective((temperature * log_prob - value).mean(dim=1), ("policy",), {"entropy": entropy}),
            TEMPERATURE: Objective(
                log_temperature[:, 0] * (entropy - target_entropy), (TEMPERATURE,), {"temperature": temperature[:, 0]}
            ),
        }
