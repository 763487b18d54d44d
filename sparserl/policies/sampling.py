"""Policies that sample, as modules without a random generator: the random numbers are their second input.

So the same input always gives the same action, in whatever runs the module, and whoever deploys it chooses the generator.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparserl.policies import categorical, gaussian, squashed_gaussian
from sparserl.policies.scale import Scale
from sparserl.types import Spec


class Sampling(nn.Module):
    """One member's network with what samples its actions: a module of observations ``[batch, *obs]`` and ``noise``."""

    distribution: ClassVar[Literal["uniform", "normal"]]
    """The numbers that ``noise`` needs: uniform in [0, 1), or standard normal."""

    def __init__(self, network: nn.Module, noise_size: int) -> None:
        super().__init__()
        self.network = network
        self.noise_size = noise_size
        """How many for each observation: ``noise`` is ``[batch, noise_size]``."""


class CategoricalSampling(Sampling):
    """Discrete actions from logits."""

    distribution = "uniform"

    def forward(self, observation: Tensor, noise: Float[Tensor, "batch action"]) -> Int[Tensor, "batch"]:
        return categorical.sample(self.network(observation), noise)


class GaussianSampling(Sampling):
    """Actions around means, clipped to the bounds of an environment."""

    distribution = "normal"
    log_std: Tensor

    def __init__(self, network: nn.Module, log_std: Float[Tensor, "1 action"], spec: Spec) -> None:
        super().__init__(network, log_std.shape[-1])
        self.register_buffer("log_std", log_std.detach().clone())
        self.scale = Scale(spec)

    def forward(self, observation: Tensor, noise: Float[Tensor, "batch action"]) -> Float[Tensor, "batch action"]:
        scaled: Tensor = self.scale(gaussian.mode(gaussian.sample(self.network(observation), self.log_std, noise)))
        return scaled


class SquashedGaussianSampling(Sampling):
    """Actions from means and logarithms of deviations, squashed by tanh into the bounds of an environment."""

    distribution = "normal"

    def __init__(self, network: nn.Module, spec: Spec) -> None:
        super().__init__(network, len(spec.action_low))
        self.scale = Scale(spec)

    def forward(self, observation: Tensor, noise: Float[Tensor, "batch action"]) -> Float[Tensor, "batch action"]:
        outputs = self.network(observation)
        mean, log_std = outputs.chunk(2, dim=-1)
        limited = log_std.clamp(squashed_gaussian.LOG_STD_MIN, squashed_gaussian.LOG_STD_MAX)
        scaled: Tensor = self.scale(torch.tanh(gaussian.sample(mean, limited, noise)))
        return scaled
