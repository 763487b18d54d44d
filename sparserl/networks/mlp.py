"""A multi-layer perceptron for every member at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparserl.fields import Count
from sparserl.networks.base import Matrix, Network, Structure
from sparserl.networks.initialization import HIDDEN_NORM, Initialization, fresh_layer
from sparserl.networks.products import affine, as_products_are, product, product_of_batch
from sparserl.population.random import Generators
from sparserl.types import Layers

_MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh}
_IN_PLACE = {"relu": torch.relu_, "tanh": torch.tanh_}
_GRADIENTS: dict[str, Callable[..., Tensor]] = {
    "relu": lambda gradient, y, grad_input: torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=grad_input),
    "tanh": torch.ops.aten.tanh_backward.grad_input,
}


@dataclass(frozen=True)
class MLP(Network):
    """Linear layers with an activation between them.

    Keys (``make docs`` copies them from ``conf/network/mlp.yaml``):
        hidden (list of: integer, at least 1): Units of each hidden layer, from the input to the output.
        activation (``relu``, ``tanh``): Between the layers: relu or tanh.
        initialization (``uniform``, ``orthogonal``): How weights start: uniform (within 1/sqrt(inputs), as torch.nn.Linear
            draws them) or orthogonal (of norm sqrt(2), and of the algorithm's choice in the last layer; biases are 0).
    """

    hidden: Sequence[Count]
    activation: Literal["relu", "tanh"]
    initialization: Initialization = "uniform"

    exact: ClassVar[bool] = True
    activates_output: ClassVar[bool] = False

    def init(self, observation_shape: tuple[int, ...], outputs: int, generators: Generators, gain: float = 1.0) -> Layers:
        """As ``fresh_layer`` says; layers that start orthogonal have the norm sqrt(2), the last one ``gain``."""
        sizes = (math.prod(observation_shape), *self.hidden, outputs)
        layers: Layers = {}
        for index, (inputs, units) in enumerate(pairwise(sizes)):
            norm = HIDDEN_NORM if index < len(self.hidden) else gain
            weight, bias = fresh_layer(self.initialization, generators, inputs, units, norm)
            layers |= {f"{index}.weight": weight, f"{index}.bias": bias}
        return layers

    def __call__(
        self, layers: Layers, observation: Float[Tensor, "member batch *obs"] | UInt8[Tensor, "member batch *obs"]
    ) -> Float[Tensor, "member batch out"]:
        x = (observation if observation.is_floating_point() else observation.float()).flatten(2)
        numbered = range(len(self.hidden) + 1)
        parameters = [its for i in numbered for its in (layers[f"{i}.weight"], layers[f"{i}.bias"])]
        if not torch.is_grad_enabled():
            return _run(self.activation, self.activates_output, x, parameters)[-1].contiguous()
        y: Tensor = Perceptron.apply(self.activation, self.activates_output, x, *parameters)  # type: ignore[no-untyped-call]
        return y

    def structure(self, observation_shape: tuple[int, ...]) -> Structure:
        *hidden, last = (f"{index}.weight" for index in range(len(self.hidden) + 1))
        chained = pairwise((*hidden, last))
        structure = {name: Matrix("linear", (following,), activation=self.activation) for name, following in chained}
        return structure | {last: Matrix("linear", activation=self.activation if self.activates_output else None)}

    def module(self, layers: Layers) -> nn.Module:
        """``nn.Sequential`` of ``Vector``, ``nn.Linear`` and activations, holding copies of the weights."""
        modules: list[nn.Module] = [Vector()]
        for index in range(len(self.hidden) + 1):
            if index > 0:
                modules.append(_MODULES[self.activation]())
            weight, bias = layers[f"{index}.weight"], layers[f"{index}.bias"]
            linear = nn.Linear(*weight.shape)
            with torch.no_grad():
                linear.weight.copy_(weight.T)
                linear.bias.copy_(bias[0])
            modules.append(linear)
        if self.activates_output:
            modules.append(_MODULES[self.activation]())
        return nn.Sequential(*modules)

    @property
    def features(self) -> int:
        if not self.hidden:
            raise ValueError("network.hidden is [], which leaves no trunk to share; give it a layer")
        return self.hidden[-1]

    def trunk(self) -> Network:
        return Trunk(self.hidden[:-1], self.activation, self.initialization)

    def head(self) -> Network:
        return MLP([], self.activation, self.initialization)


@dataclass(frozen=True)
class Trunk(MLP):
    """A perceptron with an activation after its last layer too."""

    activates_output: ClassVar[bool] = True


class Vector(nn.Flatten):
    """One vector of each observation; bytes become numbers from 0 to 255."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.Flatten has)
        return super().forward(input if input.is_floating_point() else input.float())


def _run(
    activation: str, activates_output: bool, x: Float[Tensor, "member batch in"], parameters: Sequence[Tensor]
) -> list[Float[Tensor, "member batch units"]]:
    """What each layer gives after its activation, which the last one need not have."""
    activate = _IN_PLACE[activation]
    outputs: list[Tensor] = []
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        if outputs:
            outputs[-1] = x = activate(x)
        x = affine(x, weight, bias)
        outputs.append(x)
    if activates_output:
        outputs[-1] = activate(x)
    return outputs


class Perceptron(torch.autograd.Function):
    """All layers with their gradient written out: ``weight``, ``bias`` of each, in order, after the input.

    Autograd would keep the sums beside what activations make of them, pass over both, and write each gradient anew; here there
    is one array a layer, which at a few members takes a tenth off a gradient step.
    """

    @staticmethod
    def forward(ctx: Any, activation: str, activates_output: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        *hidden, y = _run(activation, activates_output, x, parameters)
        ctx.activation, ctx.activates_output = activation, activates_output
        y = y.contiguous()
        ctx.save_for_backward(x, *hidden, *parameters[::2], *[y] * activates_output)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        through = _GRADIENTS[ctx.activation]
        saved = ctx.saved_tensors
        layers = len(saved) // 2
        inputs, weights = saved[:layers], saved[layers : 2 * layers]
        found: list[Tensor | None] = []
        if ctx.activates_output:
            gradient = through(gradient, saved[-1], grad_input=torch.empty_like(gradient))
        gradient = as_products_are(gradient)
        for index in reversed(range(len(weights))):
            x, weight = inputs[index], weights[index]
            learned = ctx.needs_input_grad[3 + 2 * index]  # a critic that an actor learns from is constant
            found += [gradient.sum(dim=1, keepdim=True), product(x.mT, gradient)] if learned else [None, None]
            if index > 0 or ctx.needs_input_grad[2]:
                gradient = product_of_batch(gradient, weight.mT)
            if index > 0:
                through(gradient, x, grad_input=gradient)
        return None, None, gradient if ctx.needs_input_grad[2] else None, *reversed(found)
