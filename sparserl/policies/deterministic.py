"""Acting by a network whose outputs, squashed by tanh, are actions in [-1, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.policies.scale import Scale


def unit_action(outputs: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
    """The action of outputs, in [-1, 1]."""
    return torch.tanh(outputs)


def perturbed(action: Float[Tensor, "*batch action"], noise: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
    """An action in [-1, 1] with noise added, as far as it stays there."""
    return (action + noise).clamp(-1, 1)


class Squash(Scale):
    """From the first outputs of a network to actions within the bounds of an environment."""

    def forward(self, outputs: Float[Tensor, "batch out"]) -> Float[Tensor, "batch action"]:
        return super().forward(unit_action(outputs[..., : len(self.middle)]))
