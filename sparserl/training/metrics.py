"""What a row says of weights and gates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparserl.regularizers.base import regularized
from sparserl.runs.files import joined
from sparserl.training.learner import Learner
from sparserl.types import Layers, Metrics


def zero_share(layers: Layers, threshold: float = 0.0) -> Tensor:
    """The share of weights that are zero, or smaller than ``threshold``, among all of a network, ``[member]``."""
    weights = torch.cat([weight.flatten(1) for weight in regularized(layers).values()], dim=1).abs()
    return ((weights == 0) | (weights < threshold)).double().mean(dim=1)


@torch.no_grad()
def observe(learner: Learner) -> Metrics:
    """Sparsity of the policy and of whatever else is regularised, and gates, overall and by layer; each ``[member]``."""
    weights, policy = learner.deterministic(), learner.algorithm.policy
    metrics: Metrics = {
        "sparsity/exact": zero_share(joined(weights, policy)),
        "sparsity/thresholded": zero_share(joined(weights, policy), learner.regularizer.zero_threshold),
    }
    for component in dict.fromkeys((*policy, *learner.covered)):
        for name, weight in regularized(weights[component]).items():
            metrics[f"sparsity/exact/{component}.{name}"] = zero_share({name: weight})
    if critics := tuple(c for c in learner.covered if c not in policy):
        metrics["sparsity/critics"] = zero_share(joined(weights, critics))
        metrics |= {f"sparsity/{c}": zero_share(weights[c]) for c in critics}
    covered = {c: regularizer for c, regularizer in learner.bound.items() if c in policy}
    nonzero = {c: its.expected_nonzero(weights[c], learner.gates[c]) for c, its in covered.items()}
    if known := [numbers for numbers in nonzero.values() if numbers is not None]:
        sizes = {c: sum(weight[0].numel() for weight in regularized(weights[c]).values()) for c in covered}
        whole = sum(sizes[c] for c, numbers in nonzero.items() if numbers is None)  # no gate closes anything there
        metrics["sparsity/expected"] = 1 - (torch.stack(known).double().sum(dim=0) + whole) / sum(sizes.values())
    for component in learner.covered:
        if learner.gates[component]:
            metrics |= _gates(learner, component)
    return metrics


@torch.no_grad()
def distributions(learner: Learner) -> dict[str, Tensor]:
    """The values to draw histograms of: the weights of each layer without noise and its gates, ``[member, ...]``."""
    values: dict[str, Tensor] = {}
    for component in learner.learned:
        gates = learner.gates[component]
        opened = learner.bound[component].gate_values(gates) if gates else {}
        for group, tensors in (("weights", regularized(learner.deterministic()[component])), ("gates", opened)):
            values |= {f"{group}/{component}.{name}": tensor for name, tensor in tensors.items()}
    return values


def _gates(learner: Learner, component: str) -> Metrics:
    """The shares of weights under open, closed and other gates, and how far gates have moved."""
    gates, initial = learner.gates[component], learner.initial_gates[component]
    regularizer = learner.bound[component]
    z_hat, numbers = regularizer.gate_values(gates), regularizer.covered_weights(learner.weights[component], gates)
    networks = [c for c in learner.algorithm.policy if c in learner.learned]
    prefix = "gates" if networks == [component] else f"gates/{component}"
    metrics: Metrics = {}
    for suffix, values in [("", z_hat), *((f"/{component}.{name}", {name: z}) for name, z in z_hat.items())]:
        metrics[f"{prefix}/open{suffix}"] = _share({name: z == 1 for name, z in values.items()}, numbers)
        metrics[f"{prefix}/closed{suffix}"] = _share({name: z == 0 for name, z in values.items()}, numbers)
        undecided = {name: (z > 0) & (z < 1) for name, z in values.items()}
        metrics[f"{prefix}/undecided{suffix}"] = _share(undecided, numbers)
    moved = torch.cat([(gate - initial[name]).abs().flatten(1) for name, gate in gates.items() if name in z_hat], dim=1)
    return metrics | {f"{prefix}/moved": moved.mean(dim=1)}


def _share(values: Mapping[str, Tensor], numbers: Mapping[str, int]) -> Tensor:
    """The mean of values of gates, each weighted by the number of weights that it covers."""
    total = sum(numbers[name] * value.double().flatten(1).sum(dim=1) for name, value in values.items())
    count = sum(numbers[name] * value[0].numel() for name, value in values.items())
    return torch.as_tensor(total / count)
