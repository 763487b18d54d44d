"""A multi-layer perceptron for every member at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from sparserl.networks.base import Network
from sparserl.population import Generators
from sparserl.settings import Count
from sparserl.types import Layers

_FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh}
_MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh}

_NARROW = 16
"""With fewer columns than this MKL does a product, and that of its gradient, at a tenth of its speed."""


@dataclass(frozen=True)
class MLP(Network):
    """Linear layers with an activation between them; the keys are described in ``conf/network/mlp.yaml``."""

    hidden: Sequence[Count]
    activation: Literal["relu", "tanh"]

    def init(self, observation_shape: tuple[int, ...], outputs: int, generators: Generators) -> Layers:
        """Weights and biases uniform within 1/sqrt(inputs), as torch.nn.Linear draws them."""
        sizes = (math.prod(observation_shape), *self.hidden, outputs)
        layers: Layers = {}
        for index, (inputs, units) in enumerate(pairwise(sizes)):
            bound = 1 / math.sqrt(inputs)
            for name, rows in (("weight", inputs), ("bias", 1)):
                layers[f"{index}.{name}"] = (2 * generators.uniform(rows, units) - 1) * bound
        return layers

    def __call__(self, layers: Layers, observation: Float[Tensor, "member batch *obs"]) -> Float[Tensor, "member batch out"]:
        activate = _FUNCTIONS[self.activation]
        x = observation.flatten(2)
        for index in range(len(self.hidden) + 1):
            if index > 0:
                x = activate(x)
            x = _linear(x, layers[f"{index}.weight"], layers[f"{index}.bias"])
        return x

    def module(self, layers: Layers) -> nn.Module:
        """``nn.Sequential`` of ``nn.Flatten``, ``nn.Linear`` and activations, holding copies of the weights."""
        modules: list[nn.Module] = [nn.Flatten()]
        for index in range(len(self.hidden) + 1):
            if index > 0:
                modules.append(_MODULES[self.activation]())
            weight, bias = layers[f"{index}.weight"], layers[f"{index}.bias"]
            linear = nn.Linear(*weight.shape)
            with torch.no_grad():
                linear.weight.copy_(weight.T)
                linear.bias.copy_(bias[0])
            modules.append(linear)
        return nn.Sequential(*modules)


def _linear(
    x: Float[Tensor, "member batch in"], weight: Float[Tensor, "member in out"], bias: Float[Tensor, "member 1 out"]
) -> Float[Tensor, "member batch out"]:
    """``x @ weight + bias``."""
    if weight.shape[2] < _NARROW <= x.shape[1]:
        narrow: Tensor = NarrowLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return narrow
    return torch.baddbmm(bias, x, weight)


class NarrowLinear(torch.autograd.Function):
    """The same for few outputs and a large batch: each narrow product is computed lying on its side, where it is wide."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.mT, weight.mT, x.mT).mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return torch.bmm(gradient, weight.mT), torch.bmm(gradient.mT, x).mT, gradient.sum(dim=1, keepdim=True)
