"""A convolutional network for every member: convolutions of images, then a perceptron of what they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torch.nn.functional import conv2d

from sparserl.fields import Count
from sparserl.networks.base import Matrix, Network, Structure
from sparserl.networks.initialization import HIDDEN_NORM, Initialization, fresh_layer
from sparserl.networks.mlp import MLP, Trunk
from sparserl.population.random import Generators
from sparserl.types import Layers

CONVOLUTION, DENSE = "conv.", "dense."
"""How the names of a CNN's layers begin."""

AT_ONCE = 32
"""Images that go through the convolutions together: what they give in between stays in a cache, and of a whole rollout it would
be gigabytes."""


@dataclass(frozen=True)
class CNN(Network):
    """Convolutions without padding and linear layers, a ReLU behind each but the last; keys: ``conf/network/cnn.yaml``.

    The default sizes are those of Mnih et al. 2015 (Human-level control through deep reinforcement learning). Observations are
    images ``[channels, height, width]``: of uint8, which are divided by 255, or of float32, which are taken as they are.

    Keys (``make docs`` copies them from ``conf/network/cnn.yaml``):
        channels (list of: integer, at least 1): For images [channels, height, width]; with the defaults the network of Mnih et
            al. 2015. Channels that each convolution gives.
        kernel_sizes (list of: integer, at least 1): Height and width of each convolution's kernels, in pixels. There is no
            padding.
        strides (list of: integer, at least 1): Pixels from one position of each convolution's kernels to the next.
        hidden (list of: integer, at least 1): Units of each linear layer between the convolutions and the output. There is a
            ReLU behind each, and behind each convolution.
        initialization (``uniform``, ``orthogonal``): How weights start: uniform (within 1/sqrt(inputs), as torch.nn.Conv2d
            draws them) or orthogonal (of norm sqrt(2), and of the algorithm's choice in the last layer; biases are 0).
    """

    channels: Sequence[Count]
    kernel_sizes: Sequence[Count]
    strides: Sequence[Count]
    hidden: Sequence[Count]
    initialization: Initialization = "uniform"

    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, values in (("kernel_sizes", self.kernel_sizes), ("strides", self.strides)):
            if len(values) != len(self.channels) or not self.channels:
                raise ValueError(
                    f"network.{name} is {[*values]} and network.channels {[*self.channels]}; give both one number for each of "
                    "one or more convolutions"
                )

    @property
    def dense(self) -> MLP:
        """What comes behind the convolutions."""
        return MLP(self.hidden, "relu", self.initialization)

    # ------------------------------------------------------------ sizes

    def _shapes(self, observation_shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Channels, height and width of the observation and behind each convolution. Raises ValueError where that cannot be."""
        if len(observation_shape) != 3:
            raise ValueError(
                f"network=cnn is for images [channels, height, width], and is given {[*observation_shape]}; choose network=mlp"
            )
        channels, height, width = observation_shape
        shapes = [(channels, height, width)]
        for channels, size, stride in zip(self.channels, self.kernel_sizes, self.strides, strict=True):
            height, width = ((side - size) // stride + 1 for side in (height, width))
            shapes.append((channels, height, width))
        if min(height, width) < 1:
            raise ValueError(
                f"network=cnn is for images of {self.smallest} x {self.smallest} pixels or more, and is given "
                f"{[*observation_shape]} (channels, height, width); lower network.kernel_sizes or network.strides"
            )
        return shapes

    @property
    def smallest(self) -> int:
        """Height and width of the smallest images that reach the last layer."""
        side = 1
        for size, stride in zip(reversed(self.kernel_sizes), reversed(self.strides), strict=True):
            side = (side - 1) * stride + size
        return side

    def _flat(self, observation_shape: tuple[int, ...]) -> tuple[int]:
        """What the linear layers are given: all positions of the first channel, then of the next one."""
        channels, height, width = self._shapes(observation_shape)[-1]
        return (channels * height * width,)

    # ------------------------------------------------------------ the contract

    def init(self, observation_shape: tuple[int, ...], outputs: int, generators: Generators, gain: float = 1.0) -> Layers:
        """As ``fresh_layer`` says; layers that start orthogonal have the norm sqrt(2), the last one ``gain``."""
        layers: Layers = {}
        shapes = self._shapes(observation_shape)
        for index, ((inputs, *_), (units, *_)) in enumerate(pairwise(shapes)):
            size = self.kernel_sizes[index]
            weight, bias = fresh_layer(self.initialization, generators, inputs * size * size, units, HIDDEN_NORM)
            layers[f"{CONVOLUTION}{index}.weight"] = weight.mT.reshape(len(weight), units, inputs, size, size)
            layers[f"{CONVOLUTION}{index}.bias"] = bias
        dense = self.dense.init(self._flat(observation_shape), outputs, generators, gain)
        return layers | {DENSE + name: tensor for name, tensor in dense.items()}

    def __call__(
        self, layers: Layers, observation: Float[Tensor, "member batch *obs"] | UInt8[Tensor, "member batch *obs"]
    ) -> Float[Tensor, "member batch out"]:
        """Member by member, with the channels of a pixel side by side in memory: on a CPU grouped convolutions take longer."""
        convolutions = [
            (layers[f"{CONVOLUTION}{index}.weight"].unbind(), layers[f"{CONVOLUTION}{index}.bias"].flatten(1).unbind())
            for index in range(len(self.channels))
        ]
        features = []
        for member, images in enumerate(observation):
            its_own = [(weights[member], biases[member]) for weights, biases in convolutions]
            features.append(torch.cat([self._convolved(part, its_own) for part in images.split(AT_ONCE)]))
        return self.dense(_dense(layers), torch.stack(features))

    def _convolved(
        self, images: Shaped[Tensor, "batch channel height width"], convolutions: Sequence[tuple[Tensor, Tensor]]
    ) -> Float[Tensor, "batch feature"]:
        """One member's images behind all convolutions."""
        x = images.to(torch.float32, memory_format=torch.channels_last)
        if not images.is_floating_point():
            x = x.div_(255)
        for (weight, bias), stride in zip(convolutions, self.strides, strict=True):
            x = conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias, stride).relu_()
        return x.flatten(1)

    def structure(self, observation_shape: tuple[int, ...]) -> Structure:
        """A channel of the last convolution feeds as many neighbouring inputs of the first linear layer as it has positions."""
        _, *shapes = self._shapes(observation_shape)
        dense = self.dense.structure(self._flat(observation_shape))
        dense = {DENSE + name: matrix.renamed(DENSE) for name, matrix in dense.items()}
        kernels = [f"{CONVOLUTION}{index}.weight" for index in range(len(shapes))]
        following = [*kernels[1:], next(iter(dense))]
        return {
            name: Matrix("kernel", (after,), height * width, "relu")
            for name, after, (_, height, width) in zip(kernels, following, shapes, strict=True)
        } | dense

    def module(self, layers: Layers) -> nn.Module:
        """``nn.Sequential`` of ``Pixels``, convolutions, ReLUs, ``nn.Flatten`` and linear layers, with copies."""
        modules: list[nn.Module] = [Pixels()]
        for index, stride in enumerate(self.strides):
            weight, bias = layers[f"{CONVOLUTION}{index}.weight"], layers[f"{CONVOLUTION}{index}.bias"]
            outputs, inputs, *size = weight.shape
            convolution = nn.Conv2d(inputs, outputs, (size[0], size[1]), stride)
            convolution.load_state_dict({"weight": weight, "bias": bias[0]})
            modules += [convolution, nn.ReLU()]
        return nn.Sequential(*modules, *self.dense.module(_dense(layers)).children())

    @property
    def features(self) -> int:
        return self.dense.features

    def trunk(self) -> Network:
        return ConvolutionalTrunk(self.channels, self.kernel_sizes, self.strides, self.hidden[:-1], self.initialization)

    def head(self) -> Network:
        return self.dense.head()


@dataclass(frozen=True)
class ConvolutionalTrunk(CNN):
    """A CNN with a ReLU after its last layer too."""

    @property
    def dense(self) -> MLP:
        return Trunk(self.hidden, "relu", self.initialization)


class Pixels(nn.Module):
    """Bytes as numbers from 0 to 1; other numbers as they are."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.is_floating_point() else images / 255


def _dense(layers: Layers) -> Layers:
    """The linear layers, by their names there."""
    return {name.removeprefix(DENSE): tensor for name, tensor in layers.items() if name.startswith(DENSE)}
