"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347).

With details of Huang et al. 2022 (The 37 implementation details of PPO): weights start orthogonal, advantages are normalised in
each minibatch, the gradients of actor and critic are clipped by one norm, and eps of Adam is 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.on_policy import OnPolicyActorCritic
from sparserl.fields import Positive
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import Schedule
from sparserl.types import Batch, Time, Weights

EARLY_STOP = "early_stop"
"""The component that holds, for each member, the environment step of the rollout whose learning it ended before its end."""

KL_FACTOR = 1.5
"""How often ``target_kl`` the divergence may be, as in Stable-Baselines3."""


@dataclass(frozen=True)
class PPO(OnPolicyActorCritic):
    """Proximal policy optimisation: a clipped surrogate, so that each rollout can be learned from several times.

    Keys beside those of ``OnPolicyActorCritic`` (``make docs`` copies them from ``conf/algorithm/ppo.yaml``):
        learning_rate (number or schedule, at least 0): Learning rate, by environment steps; a number is a constant.
        clip_range (number or schedule, at least 0): How far the ratio of probabilities may leave 1 before it is clipped, by
            environment steps; a number is a constant.
        clip_range_vf (number or schedule or ``null``, at least 0): How far a value may leave the one it was in the rollout
            before it is clipped, by environment steps; null leaves it.
        target_kl (number, above 0 or ``null``): Where the divergence from the policy that acted exceeds 1.5 times this, a
            member learns no more from the rollout; null leaves it.
        ent_coef (number or schedule, at least 0): Weight of the entropy bonus, by environment steps; a number is a constant.
        normalize_advantage (``true`` or ``false``): Each minibatch by itself.
        optimizer (``Optimizer``): Moves the weights.
        optimizer.betas (list of: number, at least 0, below 1): Decay of the averages of the gradient and of its square, 0 to
            below 1.
        optimizer.eps (number, above 0): Added to the root of the average square.
    """

    clip_range: Annotated[Schedule, Ge(0)]
    clip_range_vf: Annotated[Schedule | None, Ge(0)]
    target_kl: Positive | None

    def init(self, members: Population) -> Weights:
        fresh = super().init(members)
        if self.target_kl is not None:
            fresh[EARLY_STOP] = {"step": torch.full((members.size, 1), -1)}
        return fresh

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        """The clipped surrogate (equation 7), the squared error of the critic and the entropy bonus (equation 9)."""
        log_prob, value, entropy = self.evaluated(weights, batch)
        log_ratio = log_prob - batch["log_prob"]
        ratio, advantage, clip_range = log_ratio.exp(), self.advantage(batch), self.clip_range(time.step)
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean(dim=1)
        if self.clip_range_vf is not None:
            limit = self.clip_range_vf(time.step)
            value = batch["value"] + (value - batch["value"]).clamp(-limit, limit)
        value_loss = (value - batch["return"]).square().mean(dim=1)
        loss, metrics = self.weighted(policy_loss, value_loss, entropy, time)
        with torch.no_grad():
            # Schulman's estimate of the divergence from the policy that acted, which is never below 0
            approx_kl = (ratio - 1 - log_ratio).mean(dim=1)
            metrics |= {"approx_kl": approx_kl, "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean(dim=1)}
        objective = Objective(loss, tuple(self.networks), metrics)
        return {"policy": objective if self.target_kl is None else self._stopped_early(objective, weights, time)}

    def _stopped_early(self, objective: Objective, weights: Weights, time: Time) -> Objective:
        """Members leave a rollout, whose minibatches all have one ``time.step``, where the policy has moved too far."""
        assert self.target_kl is not None
        stopped: Tensor = weights[EARLY_STOP]["step"]
        too_far = objective.metrics["approx_kl"].unsqueeze(1) > KL_FACTOR * self.target_kl
        stopped = torch.where(too_far, time.step, stopped)
        active: Bool[Tensor, "member"] = (stopped != time.step).squeeze(1)
        ended: Float[Tensor, "member"] = (~active).float()
        metrics = objective.metrics | {"stopped_early": ended}
        return Objective(objective.loss, objective.updates, metrics, active, {EARLY_STOP: {"step": stopped}})
