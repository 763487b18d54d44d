"""Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783, algorithm S3) in its synchronous form.

Each rollout is one batch that is learned from once, so the policy that is improved is still the one that acted.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparserl.algorithms.base import Objective
from sparserl.algorithms.on_policy import OnPolicyActorCritic
from sparserl.population.random import MemberRng
from sparserl.types import Batch, Time, Weights


@dataclass(frozen=True)
class A2C(OnPolicyActorCritic):
    """The keys are described in ``conf/algorithm/a2c.yaml``."""

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        """The policy gradient, the squared error of the critic and the entropy bonus."""
        log_prob, value, entropy = self.evaluated(weights, batch)
        policy_loss = -(self.advantage(batch) * log_prob).mean(dim=1)
        value_loss = (value - batch["return"]).square().mean(dim=1)
        loss, metrics = self.weighted(policy_loss, value_loss, entropy, time)
        return {"policy": Objective(loss, tuple(self.networks), metrics)}
