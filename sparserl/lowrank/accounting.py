"""What a policy costs to store and to run. Only weight matrices and kernels count, as in ``sparsity``; biases do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparserl.lowrank.shrinking import Shrunken
from sparserl.lowrank.truncation import Decomposition, RankAssignment, as_matrix, as_weight, break_even
from sparserl.runs.schema import Rank, SingularValue
from sparserl.types import Layers

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
    """Compressed sparse rows with int32 indices, as SciPy has them.

    The value and the column of each weight that is not zero, and where each row begins and ends.
    """
    return int((matrix != 0).sum()) * (VALUE_BYTES + INDEX_BYTES) + (len(matrix) + 1) * INDEX_BYTES


def sparse_bytes(matrix: Float[Tensor, "out inputs"]) -> int:
    """The fewest bytes of three forms of a sparse matrix, each with the smallest unsigned indices that are enough.

    Compressed sparse rows; coordinates, a row and a column of each weight that is not zero; and a bitmap, one bit of each
    weight that says whether it is zero. All keep the float32 values of the others.
    """
    rows, columns = matrix.shape
    nonzero = int((matrix != 0).sum())
    compressed_rows = nonzero * _index_bytes(columns) + (rows + 1) * _index_bytes(nonzero + 1)
    coordinates = nonzero * (_index_bytes(rows) + _index_bytes(columns))
    bitmap = -(-rows * columns // 8)
    return nonzero * VALUE_BYTES + min(compressed_rows, coordinates, bitmap)


def _index_bytes(count: int) -> int:
    """Of the smallest unsigned integer that tells ``count`` things apart."""
    return 1 if count <= 1 << 8 else 2 if count <= 1 << 16 else INDEX_BYTES


@dataclass(frozen=True)
class Cost:
    """What the weights of a policy cost in some form."""

    parameters: int
    """Stored numbers."""
    compression: float
    """1 - stored numbers / weights of the whole policy, dense."""
    macs: int
    """Multiply-adds of one observation."""


class DecomposedPolicy:
    """The matrices of one member's policy, in the order in which they are applied: what they become and cost at each rank."""

    def __init__(self, policy: Shrunken) -> None:
        """What is removed from ``policy`` counts for nothing; without ``shrink`` nothing is."""
        self._policy = policy
        left = {name: policy.left(name) for name in policy.structure}
        self._indices = {name: (rows.unsqueeze(1), columns) for name, (rows, columns) in left.items()}
        matrices = {name: as_matrix(policy.layers[name], its)[self._indices[name]] for name, its in policy.structure.items()}
        self._decompositions = {name: Decomposition.of(matrix) for name, matrix in matrices.items()}
        self.csr_bytes = sum(csr_bytes(matrix) for matrix in matrices.values())
        self.sparse_bytes = sum(sparse_bytes(matrix) for matrix in matrices.values())
        self.largest_rank = max(break_even(*matrix.shape) for matrix in matrices.values())
        """The largest at which any layer becomes smaller."""

    @property
    def decompositions(self) -> list[Decomposition]:
        """Of each matrix, in the order of a RankAssignment."""
        return list(self._decompositions.values())

    def cut(self, rank: Rank) -> RankAssignment:
        """All layers at one rank."""
        return tuple(None if rank == "full" else its.cut(rank) for its in self._decompositions.values())

    def layers(self, cut: RankAssignment) -> Layers:
        """All layers in the sizes of before; of those that do not stay whole the products of the factors that are shipped."""
        products: Layers = {}
        for (name, decomposition), rank in zip(self._decompositions.items(), cut, strict=True):
            if rank is not None:
                its, weight = self._policy.structure[name], self._policy.layers[name]
                left, right = decomposition.factors(rank)
                matrix = as_matrix(torch.zeros_like(weight), its)
                matrix[self._indices[name]] = (left @ right).to(weight)
                products[name] = as_weight(matrix, its, weight.shape)
        return self._policy.layers | products

    def cost(self, cut: RankAssignment) -> Cost:
        """What is stored and computed."""
        structure = self._policy.structure
        shapes = [its.shape for its in self._decompositions.values()]
        sizes = [stored(*shape, kept) for shape, kept in zip(shapes, cut, strict=True)]
        dense = sum(self._policy.layers[name].numel() for name in structure)
        macs = sum(size * its.positions for size, its in zip(sizes, structure.values(), strict=True))
        return Cost(sum(sizes), 1 - sum(sizes) / dense, macs)

    def energy(self, cut: RankAssignment) -> float:
        """The share of the squared singular values of all layers that is kept; a layer that stays whole keeps all its own."""
        squares = [its.singular_values.square() for its in self._decompositions.values()]
        kept = sum(float(values[:rank].sum()) for values, rank in zip(squares, cut, strict=True))
        total = sum(float(values.sum()) for values in squares)
        return 1.0 if total == 0 else kept / total

    def spectrum(self, alive: Mapping[str, Bool[Tensor, "unit"]]) -> list[SingularValue]:
        """The lines of spectrum.csv. ``alive`` says which units of each hidden layer do something."""
        dead = {name: int((~units).sum()) for name, units in alive.items()}
        return [
            SingularValue(name.removesuffix(".weight"), index, float(value), its.effective_rank, dead.get(name, 0))
            for name, its in self._decompositions.items()
            for index, value in enumerate(its.singular_values, start=1)
        ]
