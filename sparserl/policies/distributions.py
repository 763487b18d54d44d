"""From the outputs of a policy's network to a distribution of actions: softmax of logits, or a Gaussian around means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from sparserl.policies import categorical, gaussian
from sparserl.policies.sampling import CategoricalSampling, GaussianSampling, Sampling
from sparserl.policies.scale import Scale
from sparserl.population.random import MemberRng
from sparserl.types import Action, Layers, Spec

Outputs: TypeAlias = Float[Tensor, "member batch out"]
"""What the network gives."""

Numbers: TypeAlias = Float[Tensor, "member #batch"]
"""One for each row, or one for all."""

LOG_STD = "log_std"
"""The tensor among the policy's layers, ``[member, 1, action]``, that is learned beside the network's."""


@dataclass(frozen=True)
class Distribution(ABC):
    """How a policy chooses. ``layers`` are those of its component."""

    chosen: ClassVar[str]
    """The field of a transition that holds what ``log_prob`` asks for."""

    spec: Spec

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many outputs the network must have."""

    def init(self, members: int, log_std: float) -> Layers:
        """What the policy's component needs beside the network's layers."""
        return {}

    @abstractmethod
    def sample(self, outputs: Outputs, layers: Layers, rng: MemberRng) -> Action:
        """What the policy explores."""

    @abstractmethod
    def mode(self, outputs: Outputs) -> Tensor:
        """What is evaluated."""

    @abstractmethod
    def log_prob(self, outputs: Outputs, layers: Layers, chosen: Tensor) -> Float[Tensor, "member batch"]:
        """The logarithm of the probability, or of the density."""

    @abstractmethod
    def entropy(self, outputs: Outputs, layers: Layers) -> Numbers:
        """In nats."""

    def deployed(self, network: nn.Module) -> nn.Module:
        """One member's network with what comes after it when it is deployed."""
        return network

    @abstractmethod
    def sampling(self, network: nn.Module, layers: Layers) -> Sampling:
        """One member's network (``layers`` without the member axis) with what samples its actions."""


class Categorical(Distribution):
    """Over discrete actions."""

    chosen = "action"

    @property
    def outputs(self) -> int:
        assert self.spec.discrete_actions is not None
        return self.spec.discrete_actions

    def sample(self, outputs: Outputs, layers: Layers, rng: MemberRng) -> Action:
        return Action(categorical.sample(outputs, rng.uniform(*outputs.shape[1:])))

    def mode(self, outputs: Outputs) -> Tensor:
        return categorical.mode(outputs)

    def log_prob(self, outputs: Outputs, layers: Layers, chosen: Tensor) -> Float[Tensor, "member batch"]:
        return categorical.log_prob(outputs, chosen)

    def entropy(self, outputs: Outputs, layers: Layers) -> Numbers:
        return categorical.entropy(outputs)

    def sampling(self, network: nn.Module, layers: Layers) -> Sampling:
        return CategoricalSampling(network, self.outputs)


class Gaussian(Distribution):
    """Over vectors between bounds: the environment gets samples clipped, and they are judged as they were drawn."""

    chosen = "sample"

    @property
    def outputs(self) -> int:
        return len(self.spec.action_low)

    def init(self, members: int, log_std: float) -> Layers:
        return {LOG_STD: gaussian.initial_log_std(members, self.outputs, log_std)}

    def sample(self, outputs: Outputs, layers: Layers, rng: MemberRng) -> Action:
        sample = gaussian.sample(outputs, layers[LOG_STD], rng.normal(*outputs.shape[1:]))
        return Action(self.spec.scale_action(sample), {self.chosen: sample})

    def mode(self, outputs: Outputs) -> Tensor:
        return self.spec.scale_action(gaussian.mode(outputs))

    def log_prob(self, outputs: Outputs, layers: Layers, chosen: Tensor) -> Float[Tensor, "member batch"]:
        return gaussian.log_prob(outputs, layers[LOG_STD], chosen)

    def entropy(self, outputs: Outputs, layers: Layers) -> Numbers:
        return gaussian.entropy(layers[LOG_STD])

    def deployed(self, network: nn.Module) -> nn.Module:
        return nn.Sequential(network, nn.Hardtanh(), Scale(self.spec))

    def sampling(self, network: nn.Module, layers: Layers) -> Sampling:
        return GaussianSampling(network, layers[LOG_STD], self.spec)


def for_actions(spec: Spec) -> Distribution:
    """The distribution of an environment's actions."""
    return Gaussian(spec) if spec.discrete_actions is None else Categorical(spec)
