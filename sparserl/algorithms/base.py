"""The contract between an algorithm and the rest.

An algorithm is a frozen dataclass whose fields are the keys of ``conf/algorithm/<name>.yaml``. It holds no weights and
changes none: it is given them and returns new ones. Its arithmetic works on the last axes, so it knows nothing of members;
it knows no regulariser either: the weights it is given are the ones to compute with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sparserl.networks.base import Network
from sparserl.population.members import Population
from sparserl.population.random import Uniforms
from sparserl.schedules import Schedule
from sparserl.types import Action, Batch, Loss, Metrics, Spec, Weights


class Algorithm(ABC):
    """What a trainer, a learner and an experience need of every algorithm."""

    actions: ClassVar[str]
    """``discrete`` or ``continuous``: the action spaces it is made for."""

    acting: ClassVar[tuple[str, ...]] = ("policy",)
    """The components that ``act``, ``greedy`` and ``prepare`` are given, hardened."""

    network: Network
    """What the component ``policy`` runs in."""

    max_grad_norm: float | None
    """The largest norm of one member's gradient in one component, or None to leave gradients as they are."""

    @property
    @abstractmethod
    def learning_rates(self) -> dict[str, Schedule]:
        """The components that gradients change, each with its learning rate. Other components are state: targets."""

    @property
    def targets(self) -> dict[str, str]:
        """The components that lag behind a learned one, by name, and behind which.

        A target holds raw weights, without gates, and runs with whatever the regulariser makes of them in the same step: a
        value that is bootstrapped must come from a network of the same scale as the one that learns it.
        """
        return {}

    @abstractmethod
    def init(self, spec: Spec, members: Population) -> Weights:
        """Fresh weights of every component. Raises ValueError where the spec does not fit."""

    @abstractmethod
    def act(self, weights: Weights, observation: Float[Tensor, "member env *obs"], step: int, uniforms: Uniforms) -> Action:
        """Choose actions for training, exploring. ``step``: environment steps that each member has taken."""

    @abstractmethod
    def greedy(self, weights: Weights, observation: Float[Tensor, "member env *obs"]) -> Tensor:
        """The action to be evaluated: no exploration, and no per-member values. The rank sweep plays a member at many ranks."""

    def prepare(self, weights: Weights, batch: Batch) -> Batch:
        """From experience as recorded to what ``losses`` needs (advantages, say). Called without gradients."""
        return batch

    @abstractmethod
    def losses(self, weights: Weights, quiet: Weights, batch: Batch, step: int) -> dict[str, tuple[Loss, Metrics]]:
        """The loss of each component that is due at this gradient step, ``[member]``, with what is worth logging.

        ``weights`` are the ones to compute with: under gates, random ones. ``quiet`` are the same components hardened, and
        the same dictionary where nothing is random. A choice must be made with them: the best of values that share a noise
        is the best of the noise, and bootstrapping adds it up.

        A component's loss moves that component only, whatever else it was computed from. A component that is left out is
        not stepped and gets no penalty.
        """

    def after_step(self, weights: Weights, step: int) -> Weights:
        """The components that are state, changed after gradient step number ``step`` (from 1); others are not returned.

        ``weights`` are raw: what the optimiser steps, without gates.
        """
        return {}
