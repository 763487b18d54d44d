"""Observations and rewards brought to a common scale by their own running statistics, of each member.

The statistics are state among an algorithm's weights: a component without gradients. They are float64, since a mean over
millions of numbers moves by less than float32 resolves.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

Statistics: TypeAlias = dict[str, Tensor]
"""``mean`` and ``var`` ``[member, *shape]`` and ``count`` ``[member, 1]`` of what was seen.

Of rewards also ``returns`` ``[member, env]``, the discounted sums of the episodes under way."""

INITIAL_COUNT = 1e-4
"""What the first statistics, a mean of 0 and a variance of 1, weigh beside one number that is seen: they only avoid 0 / 0."""

EPSILON = 1e-8
"""Added to a variance before its root is divided by."""


def fresh(members: int, shape: tuple[int, ...]) -> Statistics:
    """Statistics of nothing: normalising by them changes nothing but what lies beyond the limit."""
    return {
        "mean": torch.zeros(members, *shape, dtype=torch.float64),
        "var": torch.ones(members, *shape, dtype=torch.float64),
        "count": torch.full((members, 1), INITIAL_COUNT, dtype=torch.float64),
    }


def updated(statistics: Statistics, values: Float[Tensor, "member row *shape"]) -> Statistics:
    """The statistics after these values too (Chan, Golub, LeVeque 1979, equation 2.1)."""
    values, rows = values.double(), values.shape[1]
    count = statistics["count"]
    total = count + rows
    old, new = (_like(weight / total, statistics["mean"]) for weight in (count, torch.full_like(count, rows)))
    mean = values.mean(dim=1)
    delta = mean - statistics["mean"]
    variance = (values - mean.unsqueeze(1)).square().mean(dim=1)  # var() rounds otherwise with another number of members
    return {
        "mean": statistics["mean"] + delta * new,
        "var": statistics["var"] * old + variance * new + delta.square() * old * new,
        "count": total,
    }


def normalized(
    statistics: Statistics, values: Float[Tensor, "member batch *shape"], limit: float
) -> Float[Tensor, "member batch *shape"]:
    """Values at mean 0 and deviation 1, cut at ``limit`` deviations."""
    mean, var = statistics["mean"].unsqueeze(1), statistics["var"].unsqueeze(1)
    return ((values - mean) / (var + EPSILON).sqrt()).float().clamp(-limit, limit)


class Normalize(nn.Module):
    """``normalized`` for one member, as a module of ``[batch, *shape]`` with its statistics as buffers."""

    mean: Tensor
    scale: Tensor

    def __init__(self, statistics: Statistics, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", statistics["mean"].clone())
        self.register_buffer("scale", (statistics["var"] + EPSILON).sqrt())

    def forward(self, observation: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        return ((observation - self.mean) / self.scale).float().clamp(-self.limit, self.limit)


# ---------------------------------------------------------------- rewards


def fresh_returns(members: int) -> Statistics:
    """Statistics of the discounted return before any reward."""
    return fresh(members, ()) | {"returns": torch.zeros(members, 1, dtype=torch.float64)}


def updated_returns(
    statistics: Statistics,
    reward: Float[Tensor, "member time env"],
    ended: Float[Tensor, "member time env"],
    gamma: float,
) -> Statistics:
    """The statistics after these steps, of the discounted sums of the rewards of each episode so far.

    Rewards are divided by their deviation, as in Stable-Baselines3's VecNormalize. ``ended`` is 1 at the last step of an
    episode.
    """
    running, returns = statistics["returns"], []
    for time in range(reward.shape[1]):
        running = running * gamma + reward[:, time]
        returns.append(running)
        running = running * (1 - ended[:, time])
    return updated(statistics, torch.cat(returns, dim=1)) | {"returns": running}


def scaled_reward(statistics: Statistics, reward: Float[Tensor, "member batch"], limit: float) -> Float[Tensor, "member batch"]:
    """Rewards divided by the deviation of the discounted return, cut at ``limit``. Their sign stays."""
    return (reward / (statistics["var"] + EPSILON).sqrt().unsqueeze(1)).float().clamp(-limit, limit)


def _like(weight: Float[Tensor, "member 1"], tensor: Float[Tensor, "member *shape"]) -> Tensor:
    """In a shape that broadcasts over ``tensor``."""
    return weight.view(-1, *[1] * (tensor.dim() - 1))
