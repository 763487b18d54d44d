"""What a row says of weights and gates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparserl.regularizers.base import regularized
from sparserl.training.learner import Learner
from sparserl.types import Layers, Metrics


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
        "sparsity/thresholded": zero_share(hardened["policy"], regularizer.zero_threshold),
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
