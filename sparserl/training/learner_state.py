"""All that a gradient step of P members reads and changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sparserl.population.state import State, on_device, split
from sparserl.runs.files import misfit
from sparserl.training.parameters import FlatTensors, Parameters
from sparserl.types import Gates, Layers, Penalty, Weights


@dataclass(frozen=True)
class FixedGates:
    """What is made of the gates of one component while they are not active."""

    multipliers: dict[str, Tensor]
    """Of tensors of Layers by name; those that are 1 everywhere may be left out."""
    penalty: Penalty
    """Of the term that has the gates: it is a constant now."""


@dataclass
class LearnerState:
    """All that a gradient step reads and changes. Each tensor has the member axis first."""

    weights: dict[str, Parameters]
    """Of each learned component."""
    gates: dict[str, Parameters]
    """Of each component that has gates."""
    targets: dict[str, FlatTensors]
    """The components that lag behind another one."""
    statistics: Weights
    """The other components."""
    learns: Float[Tensor, "member 1"]
    """1, and 0 of a member that was stopped."""
    fixed_gates: dict[str, FixedGates] = field(default_factory=dict)
    """Of each component with gates while they are not active; computed from ``weights`` and ``gates``."""

    def tensors(self) -> Weights:
        """Every component as it is: without gates, and not followed by autograd."""
        flat: dict[str, FlatTensors] = {**self.weights, **self.targets}
        return self.statistics | {component: its.views for component, its in flat.items()}

    def set_statistics(self, changed: Weights) -> None:
        """Give components of ``statistics`` new values, but not in members that were stopped.

        Nor in members in which one of them is not finite: it would stay so, and be deployed.
        """
        for component, tensors in changed.items():
            finite = [its.reshape(its.shape[0], -1).sum(dim=1).isfinite() for its in tensors.values()]
            takes = self.learns * torch.stack(finite).all(dim=0).unsqueeze(1)
            for name, tensor in tensors.items():
                old = self.statistics[component][name]
                self.statistics[component][name] = torch.where(_like(takes, old) > 0, tensor, old)

    def gate_views(self, component: str) -> Gates:
        """The gates of a component; empty where it has none."""
        return self.gates[component].views if component in self.gates else {}

    @torch.no_grad()
    def start_from(
        self, policies: Sequence[Weights | None], components: Sequence[str], followers: Callable[[str], Sequence[str]]
    ) -> None:
        """Give each member these components, without the member axis, and to what follows them the same; None gives it none.

        Raises ValueError, before anything is changed, where one has other tensors than the state has.
        """
        tensors = self.tensors()
        needed = {component: split(tensors[component], 0) for component in components}
        for weights in policies:
            if weights is not None and (fault := misfit(weights, needed)):
                raise ValueError(f"a policy to start from cannot be this algorithm's: its {fault}")
        for member, weights in enumerate(policies):
            for component, layers in (weights or {}).items():
                for name, tensor in layers.items():
                    for target in (component, *followers(component)):
                        tensors[target][name][member] = tensor

    def state_dict(self) -> State:
        """For a checkpoint; ``learns`` and what is computed from others are left out."""
        groups = {"weights": self.weights, "gates": self.gates}
        return {
            "weights": self.tensors(),
            "gates": {component: self.gate_views(component) for component in self.weights},
            "moments": {
                name: {c: its.moments | {"step": int(its.moments["step"])} for c, its in group.items()}
                for name, group in groups.items()
            },
        }

    def load_state_dict(self, saved: State) -> None:
        """Go on from a ``state_dict``. Raises ValueError where what is learned has other tensors there."""
        flat: dict[str, FlatTensors] = {**self.weights, **self.targets}
        weights, gates = {c: its.views for c, its in flat.items()}, {c: self.gate_views(c) for c in self.weights}
        for mine, its in ((weights, saved["weights"]), (gates, saved["gates"])):
            given = {component: its.get(component, {}) for component in mine}
            if fault := misfit(split(given, 0), split(mine, 0)):
                raise ValueError(f"its {fault}")
            for component, tensors in mine.items():
                for name, tensor in tensors.items():
                    tensor.copy_(given[component][name])
        self.statistics = on_device({c: saved["weights"][c] for c in self.statistics}, self.learns.device)
        for group, moments in ((self.weights, saved["moments"]["weights"]), (self.gates, saved["moments"]["gates"])):
            for component, parameters in group.items():
                for name, moment in parameters.moments.items():
                    moment.copy_(torch.as_tensor(moments[component][name]))
        self.fixed_gates = {}


def replace(tensors: Layers, replacements: Layers, moves: Float[Tensor, "member 1"]) -> bool:
    """Give tensors new values, but not in members where ``moves`` is 0. Returns whether there were any to give."""
    changed = {name: replacement for name, replacement in replacements.items() if replacement is not tensors[name]}
    for name, replacement in changed.items():
        tensors[name].lerp_(replacement, _like(moves, replacement))
    return bool(changed)


def _like(moves: Float[Tensor, "member 1"], tensor: Shaped[Tensor, "member ..."]) -> Tensor:
    """In a shape that broadcasts over ``tensor``, as a weight of lerp_, which is exact where that is 0 or 1."""
    return moves.view(-1, *[1] * (tensor.dim() - 1))
