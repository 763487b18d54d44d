"""Acting by a Gaussian that tanh squashes into [-1, 1] (Haarnoja et al. 2018, arXiv 1801.01290, appendix C).

A network gives ``[..., 2 * action]``: the means, then the logarithms of the deviations.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Between these the logarithm of a deviation is kept."""


def mode(outputs: Float[Tensor, "*batch twice"]) -> Float[Tensor, "*batch action"]:
    """The action at the mean, in [-1, 1]."""
    return torch.tanh(outputs.chunk(2, dim=-1)[0])


def sample(
    outputs: Float[Tensor, "*batch twice"], normals: Float[Tensor, "*batch action"]
) -> tuple[Float[Tensor, "*batch action"], Float[Tensor, "*batch"]]:
    """An action in [-1, 1], from standard normal numbers, and the logarithm of its density; differentiable.

    The density is equation 21, log N(u) - sum log(1 - tanh(u)^2), of which the last term is written as
    2 (log 2 - u - log(1 + exp(-2u))), which is exact where tanh is 1.
    """
    mean, log_std = outputs.chunk(2, dim=-1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    unsquashed = mean + log_std.exp() * normals
    gaussian = -0.5 * normals.square() - log_std - 0.5 * math.log(2 * math.pi)
    slope = 2 * (math.log(2) - unsquashed + functional.logsigmoid(2 * unsquashed))
    return torch.tanh(unsquashed), (gaussian - slope).sum(dim=-1)
