"""The last layer of a deployed policy of continuous actions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparserl.types import Spec


class Scale(nn.Module):
    """From actions in [-1, 1] to the bounds of an environment."""

    middle: Tensor
    half_range: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        self.register_buffer("middle", (low + high) / 2)
        self.register_buffer("half_range", (high - low) / 2)

    def forward(self, unit: Float[Tensor, "batch action"]) -> Float[Tensor, "batch action"]:
        return self.middle + self.half_range * unit
