"""Sums of penalties: named terms, each a regulariser with a coefficient and a schedule of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from sparserl.fields import parts, unused
from sparserl.networks.base import Structure
from sparserl.optimizers import Optimizer
from sparserl.population.random import Generators
from sparserl.regularizers.base import Proximal, Regularizer
from sparserl.types import Gates, Layers, Noise


@dataclass(frozen=True, kw_only=True)
class Sum(Regularizer):
    """The terms act on the same weights; one of them at most has gates, which are then those of the sum.

    The penalties of the others are of the weights that run, ``w * z``, under the sample of the gates z of the loss. So what is
    minimised is the expectation of ``loss(w * z) + c_0 * |z|_0 + c_1 * R(w * z)``: the regularised loss of the network that
    runs. A weight costs nothing and gets no gradient while its gate is closed, and has its value when that opens again. Of raw
    weights, R would pull closed ones to 0, by whole steps of Adam however small c_1 is, since nothing else moves them; and the
    loss has no gradient in a gate over a weight of 0. Louizos et al. 2018 (arXiv 1712.01312, "Combining the L0 norm with other
    norms") count an open gate as 1 in R, not as z.

    Keys (``make docs`` copies them from ``conf/regularizer/shared/sum.yaml``):
        zero_threshold (number, at least 0): Weights smaller than this count as zero in ``sparsity_thresholded``; the terms, if
            they say so, have the same.
        lambda_c, lambda_c_critic, beta, reduction (``null``): Each term has its own: whatever is given becomes null.
        scope (``policy``, ``all``): Whose weights: policy, or all (critics too); the terms, if they say so, have the same.
        terms (mapping): The terms by name. One at most has gates, and the others penalise the weights under these. A term that
            is set to null is left out.
    """

    lambda_c: None = unused()
    lambda_c_critic: None = unused()
    beta: None = unused()
    reduction: None = unused()
    scope: Literal["policy", "all"]
    """The widest of those of the terms."""
    terms: Mapping[str, Regularizer] = parts()

    def __post_init__(self) -> None:
        with_gates = [name for name, term in self.terms.items() if term.makes_gates]
        if not self.terms:
            raise ValueError("regularizer.terms is empty; it must have a term")
        for name, term in self.terms.items():
            if isinstance(term, Sum):
                raise ValueError(f"regularizer.terms.{name} is a sum; put its terms into regularizer.terms")
            if with_gates and isinstance(term, Proximal) and term.proximal:
                raise ValueError(
                    f"regularizer.terms.{name}.proximal is true, but regularizer.terms.{with_gates[0]} has gates; set it to "
                    "false, since a proximal step is for weights without gates"
                )
        if len(with_gates) > 1:
            raise ValueError(f"regularizer.terms has gates in {' and '.join(with_gates)}; one term at most may have gates")
        scopes = {getattr(term, "scope", None) for term in self.terms.values()}
        widest = "all" if "all" in scopes else "policy"
        if self.scope != widest:
            raise ValueError(
                f"regularizer.scope is {self.scope!r}, but the widest scope of regularizer.terms is {widest!r}; "
                "write scope: ${regularizer.scope} in each term"
            )

    # ------------------------------------------------------------ the terms

    def summands(self) -> Mapping[str, Regularizer]:
        return self.terms

    def bind(self, structure: Structure, component: str = "policy", deployed: bool = True) -> Sum:
        """With the terms that cover the component."""
        covering = {name: term for name, term in self.terms.items() if term.covers(component, deployed)}
        bound = copy.copy(self)
        terms = {name: term.bind(structure, component, deployed) for name, term in covering.items()}
        for name, value in {"structure": structure, "component": component, "terms": terms}.items():
            object.__setattr__(bound, name, value)
        return bound

    def covers(self, component: str, deployed: bool) -> bool:
        return any(term.covers(component, deployed) for term in self.terms.values())

    def asks_for_zeros(self, step: int) -> Bool[Tensor, "member"] | bool:
        asked: Bool[Tensor, "member"] | bool = False
        for term in self.terms.values():
            asked = asked | term.asks_for_zeros(step)
        return asked

    def harden(self, layers: Layers, multipliers: dict[str, Tensor]) -> Layers:
        """By the term with gates first, then by the others."""
        hardened = self._gates.harden(layers, multipliers)
        for name, term in self.terms.items():
            hardened = hardened if name == self.gated else term.harden(hardened, {})
        return hardened

    # ------------------------------------------------------------ the gates of one term

    @property
    def _gates(self) -> Regularizer:
        """The term that has gates, or one that does nothing."""
        return Regularizer(zero_threshold=self.zero_threshold) if self.gated is None else self.terms[self.gated]

    def gates_active(self, step: int) -> bool:
        return self._gates.gates_active(step)

    def gate_grad_limit(self) -> float | None:
        return self._gates.gate_grad_limit()

    def gate_rate(self, step: int) -> float:
        return self._gates.gate_rate(step)

    @property
    def gate_optimizer(self) -> Optimizer:
        return self._gates.gate_optimizer

    def init(self, layers: Layers, generators: Generators) -> Gates:
        return self._gates.init(layers, generators)

    def scheduled(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        return self._gates.scheduled(layers, gates, previous_step, step)

    def is_due(self, previous_step: int, step: int) -> bool:
        return self._gates.is_due(previous_step, step)

    def finished(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        return self._gates.finished(layers, gates, previous_step, step)

    def covered_weights(self, layers: Layers, gates: Gates) -> dict[str, int]:
        return self._gates.covered_weights(layers, gates)

    def multipliers(self, values: dict[str, Tensor], gates: Gates, layers: Layers) -> dict[str, Tensor]:
        return self._gates.multipliers(values, gates, layers)

    def apply(self, layers: Layers, multipliers: dict[str, Tensor]) -> Layers:
        return self._gates.apply(layers, multipliers)

    def noise(self, gates: Gates, generators: Generators, step: int) -> Noise:
        return self._gates.noise(gates, generators, step)

    def sample(self, gates: Gates, noise: Noise) -> dict[str, Tensor]:
        return self._gates.sample(gates, noise)

    def gate_values(self, gates: Gates) -> dict[str, Tensor]:
        return self._gates.gate_values(gates)

    def expected_nonzero(self, layers: Layers, gates: Gates) -> Float[Tensor, "member"] | None:
        return self._gates.expected_nonzero(layers, gates)
