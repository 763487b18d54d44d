"""How the layers of a network start: what its key ``initialization`` names."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.population.random import Generators

Initialization: TypeAlias = Literal["uniform", "orthogonal"]

HIDDEN_NORM = math.sqrt(2)
"""Of the rows or columns of a layer that starts orthogonal and has a ReLU or tanh behind it (Huang et al. 2022)."""


def fresh_layer(
    initialization: Initialization, generators: Generators, inputs: int, units: int, norm: float
) -> tuple[Float[Tensor, "member in units"], Float[Tensor, "member 1 units"]]:
    """Weight and bias of one layer of every member, each drawn from its own generator.

    ``uniform``: both within 1/sqrt(inputs), as torch.nn.Linear and torch.nn.Conv2d draw them, whatever the ``norm``.
    ``orthogonal``: a matrix whose rows or columns, whichever are fewer, are orthogonal and of that norm (Saxe et al. 2014,
    arXiv 1312.6120); the bias is 0.
    """
    if initialization == "orthogonal":
        weight = norm * _orthogonal(generators.normal(inputs, units))
        return weight, torch.zeros_like(weight[:, :1])
    bound = 1 / math.sqrt(inputs)
    weight, bias = ((2 * generators.uniform(rows, units) - 1) * bound for rows in (inputs, 1))
    return weight, bias


def _orthogonal(normals: Float[Tensor, "member rows columns"]) -> Float[Tensor, "member rows columns"]:
    """Each member's matrix with orthonormal rows or columns, uniformly distributed, from standard normal numbers.

    Member by member and in float64: so a member's weights are the same whoever is beside it.
    """
    found = []
    for matrix in normals.cpu().double():
        wide = matrix.shape[0] < matrix.shape[1]
        q, r = torch.linalg.qr(matrix.T if wide else matrix)
        q = q * r.diagonal().sign()
        found.append(q.T if wide else q)
    return torch.stack(found).to(normals)
