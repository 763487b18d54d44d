"""Hidden units of a network: which weights enter and leave them, and what is left of a network without some of them.

A channel of a convolution is a unit too: its kernel enters it, and it may feed several neighbouring inputs of what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.networks.base import Matrix, Structure
from sparserl.types import Layers

ACTIVATIONS: Mapping[str | None, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, None: torch.clone}
"""By ``Matrix.activation``."""


def hidden_units(layers: Layers, structure: Structure) -> dict[str, int]:
    """The number of units of each hidden layer, by the weight that enters them. ``layers`` have the member axis."""
    return {name: outputs(layers[name], its) for name, its in structure.items() if its.activation or its.feeds}


def outputs(weight: Float[Tensor, "member ..."], matrix: Matrix) -> int:
    """How many units a weight enters."""
    return weight.shape[2 if matrix.layout == "linear" else 1]


def entering(values: Float[Tensor, "member unit"], matrix: Matrix) -> Tensor:
    """One value a unit in a shape that multiplies the weight that enters the units."""
    return values.unsqueeze(1) if matrix.layout == "linear" else values.view(*values.shape, 1, 1, 1)


def leaving(values: Float[Tensor, "member unit"], weight: Float[Tensor, "member ..."], matrix: Matrix) -> Tensor:
    """One value a unit in a shape that multiplies the ``weight`` that leaves the units."""
    if matrix.layout == "kernel":
        return values.view(values.shape[0], 1, -1, 1, 1)
    return values.repeat_interleave(weight.shape[1] // values.shape[1], dim=1).unsqueeze(2)


def feeder(name: str, structure: Structure) -> str | None:
    """The weight whose units a weight leaves; None where these are the network's inputs."""
    return next((other for other, matrix in structure.items() if name in matrix.feeds), None)


def bias_of(name: str) -> str:
    """The bias that belongs to a weight."""
    return name.removesuffix("weight") + "bias"


def weights_left(kept: Mapping[str, Float[Tensor, "member"]], layers: Layers, structure: Structure) -> Float[Tensor, "member"]:
    """The number of weights of a network of which each hidden layer is ``kept`` in part, as a share of its units.

    All inputs and outputs stay. Shares that are expected values of independent layers give the expected number.
    """
    like = next(iter(layers.values()))
    left = like.new_zeros(like.shape[0])
    for name in structure:
        shares = [share for layer, share in kept.items() if layer in (feeder(name, structure), name)]
        left = left + prod(shares, start=left.new_full((), float(layers[name][0].numel())))
    return left
