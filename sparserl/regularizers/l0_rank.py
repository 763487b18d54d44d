"""L0 regularisation of the rank: a hard-concrete gate for each direction of a matrix.

A matrix runs as ``B diag(z) B' W`` where it is wide and ``W B diag(z) B'`` where it is tall: of a rank that is the number of
open gates. B are its singular vectors at the step at which the gates become active, and W goes on to learn. With ``fixed``
factors B stays, so that one of two factors is trained. With ``trained`` ones B learns too, as in FLOP (Wang, Wohlwend, Lei
2020, arXiv 1910.04732), which has no moment at which the gates begin. The penalty is the expected number of numbers of the two
factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sparserl.fields import Count
from sparserl.networks.products import product
from sparserl.population.random import Generators
from sparserl.regularizers.base import member_sums, regularized
from sparserl.regularizers.hard_concrete import BASIS, HardConcrete, weights_of
from sparserl.types import Gates, Layers, Weights

SCALE = 50.0
"""What bases that learn are stored times. Adam moves every number by about its learning rate. Bases are among the gates, whose
learning rate is this many times that of the weights as shipped: so bases move like weights."""


@dataclass(frozen=True, kw_only=True)
class L0Rank(HardConcrete):
    """Gates ``[member, direction]`` by weight, and the bases ``NAME.basis [member, side, direction]``.

    Bases that learn are stored times SCALE. A kernel is the matrix ``[outputs, channels * height * width]``.

    Keys beside those of ``L0`` (``make docs`` copies them from ``conf/regularizer/l0_rank.yaml``):
        lambda_c (number, at least 0; per member): Coefficient of the penalty, the expected numbers of the factors as a share of
            all weights (or their number); 4 is for a loss of about 1.
        smallest_side (integer, at least 1): Matrices of which a side is shorter carry no gates: their factors are smaller at no
            rank worth having.
        factors (``fixed``, ``trained``): Whether the directions stay as they were when the gates became active (fixed), or
            learn too while the gates do (trained).
    """

    smallest_side: Count
    factors: Literal["fixed", "trained"]

    @property
    def scale(self) -> float:
        """What bases are stored times."""
        return SCALE if self.factors == "trained" else 1.0

    def matrices(self, layers: Layers) -> dict[str, Float[Tensor, "member rows columns"]]:
        """The weights that carry gates, as matrices."""
        found = {name: weight if weight.dim() == 3 else weight.flatten(2) for name, weight in regularized(layers).items()}
        return {name: matrix for name, matrix in found.items() if min(matrix.shape[1:]) >= self.smallest_side}

    def shapes(self, layers: Layers) -> dict[str, tuple[int, ...]]:
        return {name: (min(matrix.shape[1:]),) for name, matrix in self.matrices(layers).items()}

    def init(self, layers: Layers, generators: Generators) -> Gates:
        gates = super().init(layers, generators)
        sides = {name: torch.eye(number[0]).to(layers[name]) for name, number in self.shapes(layers).items()}
        return gates | {f"{name}{BASIS}": (its * self.scale).repeat(len(layers[name]), 1, 1) for name, its in sides.items()}

    def scheduled(self, layers: Layers, gates: Gates, previous_step: int, step: int) -> Gates:
        """When the gates become active, the bases become the singular vectors of the shorter side."""
        if not self.gates_active(step) or self.gates_active(previous_step):
            return super().scheduled(layers, gates, previous_step, step)
        bases = {}
        for name, matrix in self.matrices(layers).items():
            finite = torch.nan_to_num(matrix.double(), 0.0, 0.0, 0.0)  # of members that were stopped
            left, _, right = torch.linalg.svd(finite, full_matrices=False)
            basis = left if matrix.shape[1] <= matrix.shape[2] else right.mT
            bases[f"{name}{BASIS}"] = (basis * self.scale).to(matrix.dtype)
        return gates | bases

    def covered_weights(self, layers: Layers, gates: Gates) -> dict[str, int]:
        """The numbers of the factors that a direction stands for."""
        return {name: sum(matrix.shape[1:]) for name, matrix in self.matrices(layers).items()}

    def multipliers(self, values: dict[str, Tensor], gates: Gates, layers: Layers) -> dict[str, Tensor]:
        """Projections ``[member, side, side]``; of bases that learn, what has become of them."""
        bases = {name: self._basis(gates[f"{name}{BASIS}"]) for name in values}
        return {name: product(bases[name] * z.unsqueeze(1), bases[name].mT) for name, z in values.items()}

    def _basis(self, stored: Float[Tensor, "member side direction"]) -> Float[Tensor, "member side direction"]:
        return stored / self.scale if self.factors == "trained" else stored.detach()

    def apply(self, layers: Layers, multipliers: dict[str, Tensor]) -> Layers:
        """Project each matrix on the shorter side."""
        projected = {}
        for name, matrix in self.matrices({name: layers[name] for name in multipliers}).items():
            wide, projection = matrix.shape[1] <= matrix.shape[2], multipliers[name]
            projected[name] = (product(projection, matrix) if wide else product(matrix, projection)).view_as(layers[name])
        return layers | projected

    def stored(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        """Of the factors; matrices without gates are stored as they are, and not counted."""
        return member_sums([is_open[name] * sum(matrix.shape[1:]) for name, matrix in self.matrices(layers).items()])

    def kept(self, is_open: dict[str, Tensor], layers: Layers) -> Float[Tensor, "member"]:
        """A matrix is stored as it is where its factors have more numbers."""
        matrices = self.matrices(layers)
        whole = weights_of(layers) - weights_of(matrices)
        one = next(iter(layers.values()))
        numbers = one.new_full((one.shape[0],), whole)
        for name, matrix in matrices.items():
            factors = is_open[name].sum(dim=1) * sum(matrix.shape[1:])
            numbers = numbers + factors.clamp(max=matrix[0].numel())
        return numbers

    def check(self, weights: Weights) -> None:
        """A target that leaves no direction in a matrix would leave a policy that sees nothing."""
        for component, layers in weights.items():
            matrices, number = self.matrices(layers), weights_of(layers)
            least = number - weights_of(matrices) + sum(sum(matrix.shape[1:]) for matrix in matrices.values())
            highest = 1 - least / number
            if bool((self.target_sparsity > highest).any()):
                asked = float(self.target_sparsity.nan_to_num(0).max())
                raise ValueError(
                    f"regularizer.target_sparsity is {asked:g}, but with one direction in each matrix the {component} network "
                    f"stores {least} of {number} numbers: lower it to {math.floor(highest * 1000) / 1000:g}, or choose l0_units"
                )

    def expected_nonzero(self, layers: Layers, gates: Gates) -> None:
        """A product of factors has no zeros."""
        return
