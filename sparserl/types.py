"""The vocabulary of the project: what the dictionaries hold and which axes the tensors have.

Axes come in a fixed order: ``member`` (P, one for each run of the population), then ``env`` (N sub-environments of each
member) or ``batch`` (B), then features. A tensor that is learned, drawn or recorded always carries ``member`` first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Layers: TypeAlias = dict[str, Tensor]
"""One network of every member: ``{"0.weight": [member, in, out], "0.bias": [member, 1, out], ...}``."""

Weights: TypeAlias = dict[str, Layers]
"""Every network of every member by component: ``policy``, ``critic``, ``target_policy``, ... A component without weights, such
as the statistics of a normaliser, is state that gradients do not change."""

Gates: TypeAlias = dict[str, Tensor]
"""``log_alpha`` of the gates of one component, ``[member, ...]``; empty without gates. The regulariser names and shapes them,
and says which tensors of Layers they multiply."""

Noise: TypeAlias = dict[str, Tensor]
"""One random number for each gate, by the name of the gates; empty where gates are not random."""

Transition: TypeAlias = dict[str, Tensor]
"""One step of every sub-environment, ``[member, env, ...]``: ``observation``, ``action``, ``reward``,
``next_observation`` (what followed, also where the episode ended), ``terminated`` and ``truncated`` (0 or 1), and
whatever else an algorithm's Action carries (``log_prob``, ``value``) or a goal environment gives (``achieved_goal``)."""

Batch: TypeAlias = dict[str, Tensor]
"""The fields of Transition for sampled steps, ``[member, batch, ...]``."""

Loss: TypeAlias = Float[Tensor, "member"]
Penalty: TypeAlias = Float[Tensor, "member"]
Metrics: TypeAlias = dict[str, Tensor]
"""Named numbers, each ``[member]``."""

Rollout: TypeAlias = dict[str, Tensor]
"""The fields of Transition for consecutive steps, ``[member, time, env, ...]``."""

Relabel: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""An environment's ``relabel``: from achieved and desired goals ``[..., goal]`` to reward and terminated ``[...]``."""

Prepare: TypeAlias = Callable[[Rollout], Batch]
"""An algorithm's ``prepare`` with the present weights already given: from a rollout to what losses need."""


def is_weight(name: str) -> bool:
    """Whether a tensor of Layers is a weight matrix or kernel: the ones that are counted, regularised and factored."""
    return name.endswith(".weight")


@dataclass(frozen=True)
class Time:
    """When a gradient step is taken."""

    step: int
    """Environment steps that each member has taken."""
    previous_step: int
    """Of the gradient step before."""
    update: int
    """How many gradient steps were taken before."""


@dataclass(frozen=True)
class Action:
    """What an algorithm chose in every sub-environment.

    ``action`` is ``[member, env]`` of integers where actions are discrete, ``[member, env, action]`` otherwise;
    ``extras`` are further fields ``[member, env, ...]`` that the experience keeps with the transition.
    """

    action: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)


_DTYPES = {"float32": torch.float32, "uint8": torch.uint8}


@dataclass(frozen=True)
class Spec:
    """What an environment shows and accepts.

    ``discrete_actions`` is the number of actions, or None where actions are vectors between ``action_low`` and
    ``action_high``. Observations are ``observation_dtype``: float32, or uint8 for images. ``max_episode_steps`` is after how
    many steps an episode is truncated, where that is known. The last ``goal_size`` numbers of an observation are the desired
    goal; None says that there are no goals.
    """

    observation_shape: tuple[int, ...]
    discrete_actions: int | None = None
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    observation_dtype: torch.dtype = torch.float32
    max_episode_steps: int | None = None
    goal_size: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain containers for a policy's file."""
        return asdict(self) | {"observation_dtype": str(self.observation_dtype).removeprefix("torch.")}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Spec:
        """The inverse of ``as_json``. Raises KeyError, TypeError or ValueError where it is not one."""
        fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
        spec = cls(**fields | {"observation_dtype": _DTYPES[plain["observation_dtype"]]})
        low, high = spec.action_low, spec.action_high
        if spec.discrete_actions is None and not (low and len(low) == len(high) and all(map(math.isfinite, low + high))):
            raise ValueError(f"its actions are neither numbered nor vectors between finite bounds: {low} and {high}")
        return spec

    def random_action(self, uniforms: Float[Tensor, "member env action"]) -> Tensor:
        """The uniform random policy, from uniform numbers in [0, 1): one for a discrete action, one a dimension else."""
        if self.discrete_actions is not None:
            return (uniforms[..., 0] * self.discrete_actions).long()
        low, high = uniforms.new_tensor(self.action_low), uniforms.new_tensor(self.action_high)
        return low + (high - low) * uniforms

    def clip_action(self, action: Tensor) -> tuple[Tensor, Bool[Tensor, "member"]]:
        """``action [member, env, ...]`` within its bounds, and the members that chose a nan: their environment gets the middle.

        Discrete actions are returned as they are, and no member is marked.
        """
        if self.discrete_actions is not None:
            return action, torch.zeros(len(action), dtype=torch.bool, device=action.device)
        low, high = action.new_tensor(self.action_low), action.new_tensor(self.action_high)
        broken = action.isnan()
        return torch.where(broken, low / 2 + high / 2, action.clamp(low, high)), broken.flatten(1).any(dim=1)

    def scale_action(self, unit: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
        """From [-1, 1] to the bounds of each dimension."""
        low, high = unit.new_tensor(self.action_low), unit.new_tensor(self.action_high)
        return (low + high) / 2 + (high - low) / 2 * unit

    def unscale_action(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch action"]:
        """The inverse of ``scale_action``."""
        low, high = action.new_tensor(self.action_low), action.new_tensor(self.action_high)
        return (action - (low + high) / 2) / ((high - low) / 2)

    @property
    def action_draws(self) -> int:
        """How many uniform numbers ``random_action`` takes for each sub-environment."""
        return 1 if self.discrete_actions is not None else len(self.action_low)
