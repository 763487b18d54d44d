"""Acting by logits of discrete actions: a softmax over the last axis."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sample(logits: Float[Tensor, "*batch action"], uniforms: Float[Tensor, "*batch action"]) -> Int[Tensor, "*batch"]:
    """An action drawn with the probabilities of a softmax, from uniform numbers in [0, 1) (the Gumbel-max trick).

    Uniform numbers are multiples of 2**-24; 0 counts as half of that, since its logarithm is not finite.
    """
    return (logits - torch.log(-torch.log(uniforms.clamp(min=2**-25)))).argmax(dim=-1)


def mode(logits: Float[Tensor, "*batch action"]) -> Int[Tensor, "*batch"]:
    """The most probable action."""
    return logits.argmax(dim=-1)


def log_prob(logits: Float[Tensor, "*batch action"], action: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The logarithm of the probability of given actions."""
    return torch.log_softmax(logits, dim=-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
    """The entropy of the distribution, in nats."""
    log_probabilities = torch.log_softmax(logits, dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
