"""Matrices of a policy cut to a rank, and the factors that are stored in their place.

A linear layer is a matrix ``[out, in]``, a kernel ``[out, in, height, width]`` is ``[out, in * height * width]``. One k holds
for all layers: each is cut at k, or at its numerical rank where that is lower, unless a rank r with r(m + n) >= mn would not
make a matrix m x n smaller; then it stays whole. Eckart and Young 1936: no matrix of that rank is nearer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparserl.networks.base import Matrix

RankAssignment: TypeAlias = tuple[int | None, ...]
"""The rank of each layer, None where it stays whole: equal cuts of a policy are the same network."""

Ranks: TypeAlias = int | Sequence[int | None]
"""One k for all layers, or the rank of each."""


def text_of(ranks: Ranks) -> str:
    """``4``, or ``4 16 full`` where each layer has its own."""
    return " ".join("full" if rank is None else str(rank) for rank in _each(ranks))


def cut_of(text: str) -> RankAssignment:
    """The inverse of ``text_of`` where each layer has its own."""
    return tuple(None if rank == "full" else int(rank) for rank in text.split())


def ranks(text: str) -> Ranks:
    """``4`` or ``4,16,full`` of a command line, also with spaces. Raises ValueError where it is neither."""
    found = cut_of(text.replace(",", " "))
    if found == (None,) or not found:
        raise ValueError(f"{text!r} names no rank")
    return found[0] if len(found) == 1 and found[0] is not None else found


def is_positive(ranks: Ranks) -> bool:
    """Whether no rank is below 1."""
    return all(rank is None or rank >= 1 for rank in _each(ranks))


def _each(ranks: Ranks) -> Sequence[int | None]:
    return ranks if isinstance(ranks, Sequence) else [ranks]


def as_matrix(weight: Tensor, structure: Matrix) -> Float[Tensor, "out inputs"]:
    """A weight of Layers, without the member axis, as a matrix: a linear one is stored ``[in, out]``."""
    return weight.T if structure.layout == "linear" else weight.flatten(1)


def as_weight(matrix: Float[Tensor, "out inputs"], structure: Matrix, shape: Sequence[int]) -> Tensor:
    """The inverse of ``as_matrix`` for a weight of some shape."""
    return matrix.T if structure.layout == "linear" else matrix.view(*shape)


def break_even(rows: int, columns: int) -> int:
    """The largest rank at which two factors hold fewer numbers than the matrix; 0 where even rank 1 does not."""
    return (rows * columns - 1) // (rows + columns) if rows * columns else 0


def ladder(largest: int) -> list[int]:
    """The powers of two up to ``largest``, and itself, in increasing order; nothing of 0."""
    return sorted({*(2**power for power in range(largest.bit_length())), largest} - {0})


@dataclass(frozen=True)
class Decomposition:
    """The singular value decomposition of one matrix, in float64; ``q`` is the smaller of its sides."""

    left: Float[Tensor, "out q"]
    singular_values: Float[Tensor, "q"]
    right: Float[Tensor, "q inputs"]

    @classmethod
    def of(cls, matrix: Float[Tensor, "out inputs"]) -> Decomposition:
        """Decompose a matrix. One that is not finite has no decomposition: what is made of it is nan, like it."""
        exact = matrix.detach().cpu().double()
        if not exact.isfinite().all():
            q, nan = min(exact.shape), float("nan")
            return cls(
                exact.new_full((len(exact), q), nan), exact.new_full((q,), nan), exact.new_full((q, exact.shape[1]), nan)
            )
        return cls(*torch.linalg.svd(exact, full_matrices=False))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), self.right.shape[1]

    @cached_property
    def numerical_rank(self) -> int:
        """The number of singular values that are more than the rounding of float32 weights.

        At least 1, of zeros too: frameworks have no layer of rank 0.
        """
        rounding = self.singular_values[0] * max(self.shape) * torch.finfo(torch.float32).eps
        return max(1, int((~(self.singular_values <= rounding)).sum()))  # nan counts: it must not be cut away

    @property
    def effective_rank(self) -> float:
        """The exponential of the entropy of the normalised singular values (Roy, Vetterli 2007); of zeros it is 0."""
        total = self.singular_values.sum()
        return 0.0 if total == 0 else float(torch.special.entr(self.singular_values / total).sum().exp())

    def cut(self, k: int) -> int | None:
        """The rank of this layer where the policy is cut at ``k``; None where its factors would not be smaller than itself."""
        if not len(self.singular_values):  # nothing is left of it
            return None
        rank = min(k, self.numerical_rank)
        return rank if rank <= break_even(*self.shape) else None

    def factors(self, rank: int) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank inputs"]]:
        """What is stored at a rank, in float32: two matrices whose product is the nearest of that rank."""
        root = self.singular_values[:rank].sqrt()
        return (self.left[:, :rank] * root).float(), (root.unsqueeze(1) * self.right[:rank]).float()


def layers_of(module: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """The layers that can be cut, in the order of spectrum.csv."""
    return [its for its in module.modules() if isinstance(its, nn.Linear | nn.Conv2d)]


def factored(module: nn.Module, ranks: Ranks) -> nn.Module:
    """``module`` with ``nn.Sequential`` of two layers in the place of each linear or convolutional one that is cut.

    The first of the two has no bias. The module's own children are replaced.

    Raises ValueError where ``ranks`` are more or fewer than the layers.
    """
    layers = layers_of(module)
    each = ranks if isinstance(ranks, Sequence) else [ranks] * len(layers)
    if len(each) != len(layers):
        raise ValueError(f"{len(each)} ranks are given ({text_of(ranks)}), and the policy has {len(layers)} layers")
    return _replaced(module, {layer: _pair(layer, k) for layer, k in zip(layers, each, strict=True) if k is not None})


def _replaced(module: nn.Module, pairs: Mapping[nn.Module, nn.Module]) -> nn.Module:
    if module in pairs:
        return pairs[module]
    for name, child in module.named_children():
        module.register_module(name, _replaced(child, pairs))
    return module


def _pair(layer: nn.Linear | nn.Conv2d, k: int) -> nn.Module:
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:  # several matrices, each too small to gain
        return layer
    decomposition = Decomposition.of(layer.weight.flatten(1))
    rank = decomposition.cut(k)
    if rank is None:
        return layer
    first: nn.Linear | nn.Conv2d
    second: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=False)
    else:
        window = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        first = nn.Conv2d(layer.in_channels, rank, bias=False, **window)
        second = nn.Conv2d(rank, layer.out_channels, kernel_size=1, bias=False)
    left, right = decomposition.factors(rank)
    with torch.no_grad():
        first.weight.copy_(right.view(first.weight.shape))
        second.weight.copy_(left.view(second.weight.shape))
    second.bias = layer.bias
    return nn.Sequential(first, second)
