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
    """Advantage actor-critic: the plain policy gradient on each rollout.

    Keys beside those of ``OnPolicyActorCritic`` (``make docs`` copies them from ``conf/algorithm/a2c.yaml``):
        gae_lambda (number, at least 0, at most 1): The return of the rollout minus the value.
        learning_rate (number or schedule, at least 0): Learning rate, by environment steps; a number is a constant.
        optimizer (``Optimizer``): Moves the weights.
        optimizer.alpha (number, at least 0, below 1): Decay of the average of the square of the gradient, 0 to below 1.
        optimizer.eps (number, above 0): Added to the root of that average.
    """

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        """The policy gradient, the squared error of the critic and the entropy bonus."""
        log_prob, value, entropy = self.evaluated(weights, batch)
        policy_loss = -(self.advantage(batch) * log_prob).mean(dim=1)
        value_loss = (value - batch["return"]).square().mean(dim=1)
        loss, metrics = self.weighted(policy_loss, value_loss, entropy, time)
        return {"policy": Objective(loss, tuple(self.networks), metrics)}
