"""Acting by a Gaussian without correlations. Actions are in [-1, 1] once they are clipped; samples are not.

The network gives the means. The logarithms of the deviations do not depend on what is seen.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LOG_ROOT = 0.5 * math.log(2 * math.pi)
"""The logarithm of the root of 2 pi."""


def sample(
    mean: Float[Tensor, "*batch action"], log_std: Float[Tensor, "*#batch action"], normals: Float[Tensor, "*batch action"]
) -> Float[Tensor, "*batch action"]:
    """A sample, from standard normal numbers."""
    return mean + log_std.exp() * normals


def mode(mean: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
    """The action at the mean, in [-1, 1]."""
    return mean.clamp(-1, 1)


def log_prob(
    mean: Float[Tensor, "*batch action"], log_std: Float[Tensor, "*#batch action"], sample: Float[Tensor, "*batch action"]
) -> Float[Tensor, "*batch"]:
    """The logarithm of the density of given samples."""
    return (-0.5 * ((sample - mean) / log_std.exp()).square() - log_std - LOG_ROOT).sum(dim=-1)


def entropy(log_std: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
    """The differential entropy, in nats of actions in [-1, 1]."""
    return (log_std + (0.5 + LOG_ROOT)).sum(dim=-1)


def initial_log_std(members: int, actions: int, log_std: float) -> Float[Tensor, "member 1 action"]:
    """The same for every action."""
    return torch.full((members, 1, actions), log_std)
