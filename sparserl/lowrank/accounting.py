"""What a policy costs to store and to run. Only weight matrices and kernels count, as in ``sparsity``; biases do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.lowrank.truncation import Decomposition, as_matrix, as_weight, break_even
from sparserl.networks.base import Structure
from sparserl.runs.schema import Rank, RankRow, SingularValue
from sparserl.types import Layers

Cut: TypeAlias = tuple[int | None, ...]
"""The rank of each layer, None where it stays whole: equal cuts of a policy are the same network."""

VALUE_BYTES = 4
"""A float32."""
INDEX_BYTES = 4
"""An int32."""


def stored(rows: int, columns: int, rank: int | None) -> int:
    """How many numbers stand for a matrix: its two factors of ``rank``, or itself where that is None.

    So many multiply-adds take an input through it too; a kernel does so at each of its output positions.
    """
    return rows * columns if rank is None else rank * (rows + columns)


def csr_bytes(matrix: Float[Tensor, "out inputs"]) -> int:
    """Compressed sparse rows: the value and the column of each weight that is not zero, and where each row begins and ends."""
    return int((matrix != 0).sum()) * (VALUE_BYTES + INDEX_BYTES) + (len(matrix) + 1) * INDEX_BYTES


def dead_units(matrices: Mapping[str, Float[Tensor, "_out _inputs"]], structure: Structure) -> dict[str, int]:
    """How many outputs of each layer are hidden units without an incoming, or without an outgoing, weight that is not zero.

    The outputs of a layer that feeds no other are not hidden: there it is 0. A channel is one unit, which may feed several
    neighbouring inputs of the next layer: its positions.
    """
    counts = {}
    for name, matrix in matrices.items():
        dead = (matrix == 0).all(dim=1)
        following = [matrices[other] for other in structure[name].feeds]
        if following:
            silent = [(m.reshape(len(m), len(matrix), -1) == 0).all(dim=2).all(dim=0) for m in following]
            dead = dead | torch.stack(silent).all(dim=0)
        counts[name] = int(dead.sum()) if following else 0
    return counts


class DecomposedPolicy:
    """The matrices of one member's policy, in the order in which they are applied: what they become and cost at each rank."""

    def __init__(self, layers: Layers, structure: Structure) -> None:
        """``layers`` are without the member axis; ``structure`` says of each weight how it is a matrix."""
        self._structure = structure
        self._weights = {name: layers[name] for name in structure}
        matrices = {name: as_matrix(weight, structure[name]) for name, weight in self._weights.items()}
        self._decompositions = [Decomposition.of(matrix) for matrix in matrices.values()]
        self._dead_units = dead_units(matrices, structure)
        self.csr_bytes = sum(csr_bytes(matrix) for matrix in matrices.values())
        self.largest_rank = max(break_even(*matrix.shape) for matrix in matrices.values())
        """The largest at which any layer becomes smaller."""

    def cut(self, rank: Rank) -> Cut:
        return tuple(None if rank == "full" else decomposition.cut(rank) for decomposition in self._decompositions)

    def truncated(self, cut: Cut) -> Layers:
        """The weights that do not stay whole: the products of the factors that would be shipped."""
        products: Layers = {}
        for (name, weight), decomposition, rank in zip(self._weights.items(), self._decompositions, cut, strict=True):
            if rank is not None:
                left, right = decomposition.factors(rank)
                products[name] = as_weight(left @ right, self._structure[name], weight.shape)
        return products

    def row(
        self, rank: Rank, returns: Float[Tensor, "episode"], success_rate: float | None, retention: float | None
    ) -> RankRow:
        """The line of lowrank.csv for a rank at which the policy had these returns."""
        cut, shapes = self.cut(rank), [decomposition.shape for decomposition in self._decompositions]
        sizes = [stored(*shape, kept) for shape, kept in zip(shapes, cut, strict=True)]
        return RankRow(
            rank=rank,
            return_mean=float(returns.mean()),
            return_std=float(returns.std()) if len(returns) > 1 else None,
            success_rate=success_rate,
            episodes=len(returns),
            retention=retention,
            compression=1 - sum(sizes) / sum(stored(*shape, None) for shape in shapes),
            parameters=sum(sizes),
            bytes=sum(sizes) * VALUE_BYTES,
            macs=sum(size * its.positions for size, its in zip(sizes, self._structure.values(), strict=True)),
            csr_bytes=self.csr_bytes,
            energy=self._energy(cut),
        )

    def _energy(self, cut: Cut) -> float:
        """The share of the squared singular values of all layers that is kept; a layer that stays whole keeps all its own."""
        squares = [decomposition.singular_values.square() for decomposition in self._decompositions]
        kept = sum(float(values[:rank].sum()) for values, rank in zip(squares, cut, strict=True))
        total = sum(float(values.sum()) for values in squares)
        return 1.0 if total == 0 else kept / total

    def spectrum(self) -> list[SingularValue]:
        """The lines of spectrum.csv."""
        layers = zip(self._weights, self._decompositions, self._dead_units.values(), strict=True)
        return [
            SingularValue(name.removesuffix(".weight"), index, float(value), decomposition.effective_rank, dead)
            for name, decomposition, dead in layers
            for index, value in enumerate(decomposition.singular_values, start=1)
        ]
