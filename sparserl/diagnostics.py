"""What a row says of the weights and gates, and the failure signatures that can be seen in rows.

The signatures are the ones that sparse training is known for (arXiv 2403.06313 names the first two and unstable gradients):
a map of gates that collapses, gates that never move, a policy that no longer looks at what it sees, an exploding gradient.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparserl.learner import Learner
from sparserl.regularizers.base import regularized
from sparserl.types import Layers, Metrics

EXPLODING = 100.0
"""A gradient norm this many times the median of the rows before counts as exploding: from one row to the next the norm of
DQN's gradient moves within a factor of about ten, also where gates begin to be random."""

ROWS_BEFORE_EXPLODING = 10
"""How many rows that median is of; before there are so many, nothing counts as exploding."""

CONSTANT_EVALUATIONS = 2
"""In how many evaluations running a policy must be constant: an untrained one may be by chance."""


def zero_share(layers: Layers, threshold: float = 0.0) -> Tensor:
    """The share of weights that are zero, or smaller than ``threshold``, among all of a network, ``[member]``."""
    weights = _concatenate(regularized(layers)).abs()
    return ((weights == 0) | (weights < threshold)).double().mean(dim=1)


@torch.no_grad()
def observe(learner: Learner) -> Metrics:
    """Sparsity, gates and gradient norms of every learned component, overall and by layer; each ``[member]``."""
    hardened, regularizer = learner.hardened(), learner.regularizer
    metrics: Metrics = {
        "sparsity/exact": zero_share(hardened["policy"]),
        "sparsity/thresholded": zero_share(hardened["policy"], regularizer.threshold),
    }
    for component in learner.learned:
        if component != "policy" and component in learner.covered:
            metrics[f"sparsity/{component}"] = zero_share(hardened[component])
        metrics |= _gates(learner, component) | _gradients(learner, component)
    return metrics


@torch.no_grad()
def distributions(learner: Learner) -> dict[str, Tensor]:
    """The values to draw histograms of: the hardened weights of each layer and its gates, ``[member, ...]``."""
    values: dict[str, Tensor] = {}
    for component in learner.learned:
        gates = learner.gates[component]
        opened = learner.regularizer.gate_values(gates) if gates else {}
        for kind, tensors in (("weights", regularized(learner.hardened()[component])), ("gates", opened)):
            values |= {f"{kind}/{component}.{name}": tensor for name, tensor in tensors.items()}
    return values


def _gates(learner: Learner, component: str) -> Metrics:
    gates = learner.gates[component]
    if not gates:
        return {}
    regularizer, initial = learner.regularizer, learner.initial_gates[component]
    z_hat, p_open = regularizer.gate_values(gates), regularizer.open_probability(gates)
    prefix = "gates" if component == "policy" else f"gates/{component}"
    metrics: Metrics = {}
    if component == "policy":
        metrics["sparsity/expected"] = 1 - _concatenate(p_open).double().mean(dim=1)
    for suffix, values in [("", _concatenate(z_hat)), *((f"/{component}.{name}", z) for name, z in z_hat.items())]:
        z = values.flatten(1)
        metrics[f"{prefix}/open{suffix}"] = (z == 1).double().mean(dim=1)
        metrics[f"{prefix}/closed{suffix}"] = (z == 0).double().mean(dim=1)
        metrics[f"{prefix}/undecided{suffix}"] = ((z > 0) & (z < 1)).double().mean(dim=1)
    moved = {name: (gate - initial[name]).abs() for name, gate in gates.items()}
    return metrics | {f"{prefix}/moved": _concatenate(moved).mean(dim=1)}


def _gradients(learner: Learner, component: str) -> Metrics:
    metrics: Metrics = {}
    for kind, norms in learner.gradient_norms(component).items():
        metrics[f"gradient/{kind}/{component}"] = torch.stack(list(norms.values()), dim=1).norm(dim=1)
        metrics |= {f"gradient/{kind}/{component}.{name}": norm for name, norm in norms.items()}
    return metrics


def _concatenate(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten(1) for tensor in tensors.values()], dim=1)


class Signatures:
    """Reads one member's rows as they come and says each failure signature once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._norms: dict[str, list[float]] = {}
        self._constant = 0

    @property
    def said(self) -> list[str]:
        return sorted(self._said)

    def read(self, row: Mapping[str, Any], frozen: str | None = None) -> list[str]:
        """The warnings that this row is the first to justify, each a sentence.

        Of a member that is frozen only that: ``frozen`` says why. What else its rows show, it does not do any more.
        """
        found = [*self._closed(row), *self._unmoved(row), *self._constant_policy(row), *self._exploding(row)]
        if frozen:
            found = [frozen]
        new = [sentence for sentence in found if sentence not in self._said]
        self._said.update(new)
        return new

    def _closed(self, row: Mapping[str, Any]) -> list[str]:
        return [
            f"every gate of layer {key.split('/')[-1]} is closed: nothing passes through it; lower regularizer.lambda_c"
            for key, value in row.items()
            if "/closed/" in key and value == 1
        ]

    def _unmoved(self, row: Mapping[str, Any]) -> list[str]:
        # the penalty's pull and a gate learning rate worth having move gates by far more than this within one row
        stuck = [key for key, value in row.items() if key.endswith("/moved") and value < 1e-3]
        pulled = any(value for key, value in row.items() if key.startswith("penalty/"))
        return ["the gates have not moved although the penalty is on: raise regularizer.gate_learning_rate"] * bool(
            stuck and pulled
        )

    def _constant_policy(self, row: Mapping[str, Any]) -> list[str]:
        if "eval/constant_action" in row:
            self._constant = self._constant + 1 if row["eval/constant_action"] else 0
        return ["the evaluated policy always takes the same action"] * (self._constant >= CONSTANT_EVALUATIONS)

    def _exploding(self, row: Mapping[str, Any]) -> list[str]:
        sentences = []
        for key, value in row.items():
            if key.count("/") != 2 or not key.startswith("gradient/") or "." in key:
                continue
            earlier = self._norms.setdefault(key, [])
            if value is None or not math.isfinite(value):  # whoever has such a gradient is frozen, and that is said
                continue
            if len(earlier) >= ROWS_BEFORE_EXPLODING and value > EXPLODING * statistics.median(earlier) > 0:
                sentences.append(f"{key} exploded to over {EXPLODING:.0f} times its median of the last rows")
            if value > 0:
                self._norms[key] = [*earlier, value][-ROWS_BEFORE_EXPLODING:]
        return sentences

    def state_dict(self) -> dict[str, Any]:
        return {"said": self.said, "norms": {k: list(v) for k, v in self._norms.items()}, "constant": self._constant}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._said = set(state["said"])
        self._norms = {key: list(values) for key, values in state["norms"].items()}
        self._constant = state["constant"]
