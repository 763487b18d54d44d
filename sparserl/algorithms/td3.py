"""Twin delayed DDPG (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor

from sparserl.algorithms.ddpg import DDPG
from sparserl.fields import Count, NonNegative
from sparserl.policies import deterministic
from sparserl.population.random import MemberRng
from sparserl.types import Time, Weights


@dataclass(frozen=True)
class TD3(DDPG):
    """DDPG with two critics, smoothed targets and a delayed actor.

    Keys beside those of ``DDPG`` (``make docs`` copies them from ``conf/algorithm/td3.yaml``):
        policy_delay (integer, at least 1): Gradient steps of the critics for each one of the actor, after which targets move.
        target_noise (number, at least 0): Deviation of the noise that is added to the target policy's actions, which are in
            [-1, 1].
        target_noise_clip (number, at least 0): The largest such noise.
    """

    policy_delay: Count
    target_noise: NonNegative
    target_noise_clip: NonNegative

    critics = ("critic_1", "critic_2")

    def next_action(
        self, noise_free: Weights, next_observation: Shaped[Tensor, "member batch *obs"], rng: MemberRng
    ) -> Float[Tensor, "member batch action"]:
        """The target policy's action with clipped noise: a value that holds near an action, too (equation 14)."""
        action = super().next_action(noise_free, next_observation, rng)
        noise = self.target_noise * rng.normal(*action.shape[1:])
        return deterministic.perturbed(action, noise.clamp(-self.target_noise_clip, self.target_noise_clip))

    def actor_is_due(self, time: Time) -> bool:
        """Every ``policy_delay`` gradient steps."""
        return (time.update + 1) % self.policy_delay == 0
