"""Acting by action values."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def greedy(q_values: Float[Tensor, "*batch action"]) -> Int[Tensor, "*batch"]:
    """The action of the highest value."""
    return q_values.argmax(dim=-1)


def gather_actions(q_values: Float[Tensor, "*batch action"], action: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The values of given actions."""
    return q_values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def epsilon_greedy(
    q_values: Float[Tensor, "*batch action"], epsilon: float, uniforms: Float[Tensor, "*batch 2"]
) -> Int[Tensor, "*batch"]:
    """A uniformly random action with probability ``epsilon``, else the greedy one.

    Of the two uniform numbers for each state, the first decides whether to explore, the second which action then.
    """
    explore, choice = uniforms.unbind(-1)
    return torch.where(explore < epsilon, (choice * q_values.shape[-1]).long(), greedy(q_values))
