"""What regularisers share whose gates are masks: tensors of 0 and 1 that no gradient moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from jaxtyping import Bool, Float
from torch import Tensor

from sparserl.fields import per_member, unused
from sparserl.regularizers.base import Regularizer, member_sums
from sparserl.types import Gates, Layers

Share = Annotated[float, Ge(0), Lt(1)]
"""Of weights that are to be zero: all of them would leave no policy."""


@dataclass(frozen=True, kw_only=True)
class Masked(Regularizer):
    """A mask for each weight, by the weight's name. A weight under a closed mask is exactly zero wherever it is used.

    Its raw value gets no gradient and stays, but for what is left of the optimiser's momentum.
    """

    lambda_c: None = unused()
    lambda_c_critic: None = unused()
    beta: None = unused()
    reduction: None = unused()
    target_sparsity: Float[Tensor, "member"] = per_member(Share)
    scope: Literal["policy", "all"]

    def covers(self, component: str, deployed: bool) -> bool:
        return deployed or self.scope == "all"

    def asks_for_zeros(self, step: int) -> Bool[Tensor, "member"]:
        return self.target_sparsity > 0

    def gate_values(self, gates: Gates) -> dict[str, Tensor]:
        return gates

    def expected_nonzero(self, layers: Layers, gates: Gates) -> Float[Tensor, "member"]:
        """``sparsity/expected`` is the share of closed masks."""
        return member_sums(list(gates.values()))

    def layer_sparsity(
        self, layers: Mapping[str, Tensor], distribution: Literal["uniform", "erk"]
    ) -> dict[str, Float[Tensor, "member"]]:
        """The share of zeros in each layer with which all of them together have ``target_sparsity``; float64.

        ``uniform`` is the same in every layer, the first and the last too. ``erk`` is ``erdos_renyi_kernel``.
        """
        wanted = self.target_sparsity.double()
        if distribution == "uniform":
            return dict.fromkeys(layers, wanted)
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in layers.items()}
        by_member = [erdos_renyi_kernel(shapes, sparsity) for sparsity in wanted.tolist()]
        return {name: wanted.new_tensor([1 - its[name] for its in by_member]) for name in layers}


def erdos_renyi_kernel(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """The share of weights that each layer keeps (Evci et al. 2020, arXiv 1911.11134, section 3, "ERK").

    It is in proportion to the sum of the layer's dimensions over their product, so small layers keep more. Where that would
    be more than all, a layer keeps all, and the others share what is left.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    scales = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    whole: set[str] = set()
    while len(whole) < len(shapes):
        others = shapes.keys() - whole
        left = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in whole)
        factor = left / sum(scales[name] * sizes[name] for name in others)
        largest = max(scales[name] for name in others)
        if factor * largest <= 1:
            return {name: 1.0 if name in whole else factor * scales[name] for name in shapes}
        whole |= {name for name in others if scales[name] == largest}
    return dict.fromkeys(shapes, 1.0)


def without_lowest(scores: Float[Tensor, "member ..."], share: Float[Tensor, "member"]) -> Float[Tensor, "member ..."]:
    """Masks that close this share of each member's numbers, rounded to a number of them: the lowest scores.

    Of equal scores the first ones are closed.
    """
    flat = scores.flatten(1)
    ranks = flat.argsort(dim=1, stable=True).argsort(dim=1)
    closed = (share.double() * flat.shape[1]).round().unsqueeze(1)
    return (ranks >= closed).to(scores.dtype).view_as(scores)


def without_lowest_of_all(scores: Mapping[str, Tensor], share: Float[Tensor, "member"]) -> dict[str, Tensor]:
    """The same among the numbers of several tensors together."""
    mask = without_lowest(torch.cat([tensor.flatten(1) for tensor in scores.values()], dim=1), share)
    parts = torch.split(mask, [tensor[0].numel() for tensor in scores.values()], dim=1)
    return {name: part.view_as(tensor) for (name, tensor), part in zip(scores.items(), parts, strict=True)}
