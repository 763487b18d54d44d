"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv 1509.02971)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.off_policy import OffPolicyActorCritic
from sparserl.fields import NonNegative
from sparserl.policies import deterministic
from sparserl.population.random import MemberRng
from sparserl.types import Batch, Time, Weights


@dataclass(frozen=True)
class DDPG(OffPolicyActorCritic):
    """A deterministic actor and one critic, with Gaussian noise for exploration.

    Keys beside those of ``OffPolicyActorCritic`` (``make docs`` copies them from ``conf/algorithm/ddpg.yaml``):
        action_noise (number, at least 0): Deviation of the noise that is added to actions in training; they are in [-1, 1]
            until they are scaled to their bounds.
    """

    action_noise: NonNegative

    critics: ClassVar[tuple[str, ...]] = ("critic_1",)

    @property
    def targets(self) -> dict[str, str]:
        return super().targets | {"target_policy": "policy"}

    def explore(self, outputs: Float[Tensor, "member env out"], rng: MemberRng) -> Float[Tensor, "member env action"]:
        return deterministic.perturbed(self.mode(outputs), self.action_noise * rng.normal(*outputs.shape[1:]))

    def mode(self, outputs: Float[Tensor, "member batch out"]) -> Float[Tensor, "member batch action"]:
        return deterministic.unit_action(outputs)

    def next_action(
        self, noise_free: Weights, next_observation: Shaped[Tensor, "member batch *obs"], rng: MemberRng
    ) -> Float[Tensor, "member batch action"]:
        """The target policy's action in the next state."""
        return self.mode(self.network(noise_free["target_policy"], next_observation))

    def actor_is_due(self, time: Time) -> bool:
        """Whether actor and targets move at this gradient step."""
        return True

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        """The critic's TD error, and minus the value of the actor's action."""
        with torch.no_grad():
            next_observation = self.network_input(weights, batch["next_observation"])
            a_t = self.next_action(noise_free, next_observation, rng)
            q_t = self.lowest_q(weights, tuple(f"target_{critic}" for critic in self.critics), next_observation, a_t)
            target_tm1 = self.bootstrapped(weights, batch, q_t)
        objectives = {"critic": self.critic_objective(weights, batch, target_tm1)}
        if self.actor_is_due(time):
            observation = self.network_input(weights, batch["observation"])
            action = self.mode(self.network(weights["policy"], observation))
            value = self.lowest_q(weights, self.critics[:1], observation, action).mean(dim=1)
            objectives["policy"] = Objective(-value, ("policy",))
        return objectives

    def update_targets(self, weights: Weights, time: Time) -> Weights:
        return super().update_targets(weights, time) if self.actor_is_due(time) else {}
