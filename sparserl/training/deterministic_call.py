"""The actions of policies without noise, as evaluations and the rank sweep ask for them, as a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.population.random import MemberRng
from sparserl.terminal import say_once
from sparserl.training.compiled import Call, Compiled, Counters, Number, RecordedDraws
from sparserl.training.dependencies import CompileError
from sparserl.training.inputs import described
from sparserl.types import Weights


class DeterministicCall(Call):
    """The actions of policies for some observations of each."""

    what = "acting without noise"
    changed = 0
    counters: Mapping[str, int] = {}
    numbers: Sequence[float] = ()

    def __init__(self, algorithm: Algorithm, weights: Weights, observation: Tensor) -> None:
        self._algorithm = algorithm
        self._names = [(component, name) for component, layers in weights.items() for name in layers]
        layers = (tensor for its in weights.values() for tensor in its.values())
        self.tensors = [tensor.contiguous() for tensor in (*layers, observation)]
        self.signature = observation.shape[1:]

    @property
    def members(self) -> int:
        return self.tensors[0].shape[0]

    def key(self) -> tuple[Any, ...]:
        return described(self._algorithm), self._algorithm.spec, self._names

    def parts(self) -> list[Any]:
        return [self._algorithm]

    def run(
        self,
        tensors: Sequence[Tensor],
        draws: RecordedDraws | MemberRng,
        counters: Counters,
        numbers: Sequence[Number],
    ) -> tuple[list[str], list[Tensor]]:
        *layers, observation = tensors
        weights: Weights = {}
        for (component, name), tensor in zip(self._names, layers, strict=True):
            weights.setdefault(component, {})[name] = tensor
        with torch.no_grad():
            return ["action"], [self._algorithm.deterministic_action(weights, observation)]


class DeterministicPolicies:
    """What an algorithm does without noise, as a program, or eagerly where there can be none or ``compiles`` says no."""

    def __init__(self, algorithm: Algorithm, compiles: Callable[[], bool]) -> None:
        self._algorithm, self._compiles = algorithm, compiles
        self._compiled: Compiled | None = Compiled()

    def __call__(self, weights: Weights, observation: Shaped[Tensor, "member env *obs"]) -> Tensor:
        """As ``algorithm.deterministic_action``."""
        if self._compiled is not None and self._compiles():
            try:
                return self._compiled(DeterministicCall(self._algorithm, weights, observation))[1][0]
            except CompileError as error:
                say_once(f"warning: policies are evaluated eagerly, since they cannot be compiled: {error}")
                self._compiled = None
        return self._algorithm.deterministic_action(weights, observation)
