"""What evaluations say of networks beside returns: dormant units, ranks and norms of features, norms of weights, and sizes.

Computed member by member, so that a member's numbers are those that it would have alone, and only where policies are evaluated,
on states that they met. Nothing is drawn and nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sparserl.networks.base import Matrix, Structure
from sparserl.networks.units import ACTIVATIONS, bias_of
from sparserl.population.state import split
from sparserl.regularizers.base import regularized
from sparserl.training.learner import Learner
from sparserl.types import Layers, Metrics, Weights

TAU = 0.025
"""At or below this share of its layer's mean activity a unit counts as dormant."""

DELTA = 0.01
"""What ``srank`` may leave out of the sum of the singular values."""


@torch.no_grad()
def inspect(learner: Learner, states: Sequence[Shaped[Tensor, "_states *obs"]]) -> Metrics:
    """Of every learned network of every member, each ``[member]``; ``states`` are observations of each member.

    By hidden layer ``dormant``, ``srank`` and ``feature_norm``, and by layer ``weight_norm``. ``policy_size`` of what is
    deployed and ``critics_size`` of what else is learned: ``parameters``, biases included, and the multiply-adds of one
    observation, of all weights (``macs``) and of those that are not zero (``nonzero_macs``). All are of weights without noise.
    """
    weights = learner.deterministic()
    rows = [_of_member(learner, split(weights, member), its.to(_device(weights))) for member, its in enumerate(states)]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


def _device(weights: Weights) -> torch.device:
    return next(iter(next(iter(weights.values())).values())).device


def _of_member(learner: Learner, weights: Weights, states: Shaped[Tensor, "state *obs"]) -> dict[str, float]:
    """``weights`` are without the member axis."""
    algorithm, row = learner.algorithm, {}
    stacked = {c: {name: tensor.unsqueeze(0) for name, tensor in layers.items()} for c, layers in weights.items()}
    given = algorithm.network_inputs(stacked, states.unsqueeze(0))
    for component, network in algorithm.networks.items():
        structure = algorithm.structure(component)
        with torch.random.fork_rng(devices=[]):  # modules draw weights before they are given some
            module = network.module(weights[component]).to(states.device)
        for name, features in hidden_features(module, structure, given[component][0]).items():
            layer = f"{component}.{name.removesuffix('.weight')}"
            row[f"dormant/{layer}"] = dormant(features)
            row[f"srank/{layer}"] = srank(features)
            row[f"feature_norm/{layer}"] = float(features.flatten(1).norm(dim=1).mean())
        for name, weight in regularized(weights[component]).items():
            row[f"weight_norm/{component}.{name.removesuffix('.weight')}"] = float(weight.norm())
    deployed = [c for c in algorithm.networks if c in algorithm.policy]
    for prefix, components in (("policy", deployed), ("critics", [c for c in algorithm.networks if c not in deployed])):
        sizes = [_size(weights[c], algorithm.structure(c)) for c in components]
        for index, name in enumerate(("parameters", "macs", "nonzero_macs") if sizes else ()):
            row[f"{prefix}_size/{name}"] = float(sum(size[index] for size in sizes))
    return row


def _size(layers: Layers, structure: Structure) -> tuple[int, int, int]:
    """Parameters with biases, multiply-adds, and those of weights that are not zero; a log_std is no layer's."""
    parameters = sum(layers[each].numel() for name in structure for each in (name, bias_of(name)) if each in layers)
    macs = sum(layers[name].numel() * its.positions for name, its in structure.items())
    return parameters, macs, sum(int((layers[name] != 0).sum()) * its.positions for name, its in structure.items())


def hidden_features(module: nn.Module, structure: Structure, given: Shaped[Tensor, "state *input"]) -> dict[str, Tensor]:
    """What each hidden layer of one member's network gives, behind its activation, by the weight that enters it."""
    found: dict[str, Tensor] = {}
    parts = [part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]

    def keeping(name: str, its: Matrix) -> object:
        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            found[name] = ACTIVATIONS[its.activation](output)

        return keep

    hooks = [
        part.register_forward_hook(keeping(name, its))  # type: ignore[arg-type]
        for part, (name, its) in zip(parts, structure.items(), strict=True)
        if its.activation
    ]
    module(given)
    for hook in hooks:
        hook.remove()
    return found


def dormant(features: Float[Tensor, "state unit *position"]) -> float:
    """The share of units that are TAU-dormant (Sokar et al. 2023, arXiv 2302.12902, definition 3.1).

    A unit's score is its mean absolute output over that of all units of the layer. Where all give zero, all are dormant. A
    channel is one unit.
    """
    activity = features.double().abs().transpose(0, 1).flatten(1).mean(dim=1)
    return float((activity <= TAU * activity.mean()).double().mean()) if bool(activity.isfinite().all()) else math.nan


def srank(features: Float[Tensor, "state unit *position"]) -> float:
    """The smallest number of singular values whose sum is at least 1 - DELTA of all (Kumar et al. 2021, arXiv 2010.14498).

    At most the number of states, and of units; 0 where all are zero.
    """
    matrix = features.flatten(1).double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    if not bool(gram.isfinite().all()):
        return math.nan
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    values = values * (values > 1e-7 * values[0])  # what is below is rounding of the product
    total = values.sum()
    return float((values.cumsum(0) < (1 - DELTA) * total).sum() + 1) if total > 0 else 0.0
