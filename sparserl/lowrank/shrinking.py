"""A policy without the units that do nothing.

A hidden unit is removed where no weight that is not zero enters it, or none leaves it; that may leave others without one. One
that nothing enters is constant, and what it adds is folded into the biases that follow. So the function stays the same, but for
rounding. A channel is a unit too; convolutions here have no padding, so that a constant channel is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparserl.lowrank.truncation import as_matrix
from sparserl.networks.base import Structure
from sparserl.networks.units import ACTIVATIONS, bias_of, feeder
from sparserl.types import Layers


@dataclass(frozen=True)
class Shrunken:
    """One member's policy in which removed units neither enter nor leave, and which of its units are left.

    ``layers`` have their sizes of before, with zeros where units were removed, and are without the member axis. ``alive`` has
    each hidden layer by the weight that enters it, ``[unit]``.
    """

    layers: Layers
    alive: dict[str, Bool[Tensor, "unit"]]
    structure: Structure

    @property
    def changed(self) -> bool:
        """Whether any unit was removed."""
        return not all(bool(units.all()) for units in self.alive.values())

    @property
    def alive_units(self) -> int:
        """How many hidden units are left."""
        return sum(int(units.sum()) for units in self.alive.values())

    @property
    def weights(self) -> int:
        """How many weights, zeros included, the network has without the removed units, with all its inputs and outputs."""
        return sum(rows.numel() * columns.numel() for rows, columns in map(self.left, self.structure))

    def left(self, name: str) -> tuple[Tensor, Tensor]:
        """The rows and columns of a weight as a matrix ``[outputs, inputs]`` that are left."""
        matrix = as_matrix(self.layers[name], self.structure[name])
        rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape)
        if name in self.alive:
            rows = rows[self.alive[name]]
        before = feeder(name, self.structure)
        if before in self.alive:
            alive = self.alive[before]
            columns = columns[alive.repeat_interleave(matrix.shape[1] // len(alive))]
        return rows, columns


def shrink(layers: Layers, structure: Structure) -> Shrunken:
    """Remove what does nothing from one member's ``layers`` (without the member axis)."""
    layers = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in layers.items()}
    matrices = {name: as_matrix(layers[name], its) for name, its in structure.items()}  # views
    hidden = {name: its for name, its in structure.items() if its.feeds}
    alive = {name: torch.ones(len(matrices[name]), dtype=torch.bool, device=matrices[name].device) for name in hidden}
    settled = False
    while not settled:
        settled = True
        for name, its in hidden.items():
            units = len(matrices[name])
            following = {other: matrices[other].reshape(len(matrices[other]), units, -1) for other in its.feeds}
            constant = (matrices[name] == 0).all(dim=1)
            silent = torch.stack([(m == 0).all(dim=2).all(dim=0) for m in following.values()]).all(dim=0)
            removed = alive[name] & (constant | silent)
            if not removed.any():
                continue
            settled = False
            alive[name] &= ~removed
            bias = layers[bias_of(name)].view(-1)
            value = torch.where(removed & constant, ACTIVATIONS[its.activation](bias), 0.0)
            for other, m in following.items():
                added = m.sum(dim=2) @ value
                layers[bias_of(other)] += added.view(layers[bias_of(other)].shape)
                matrices[other][:, removed.repeat_interleave(m.shape[2])] = 0.0
            matrices[name][removed] = 0.0
            bias[removed] = 0.0
    for name, left in alive.items():
        if structure[name].layout == "kernel" and not left.any():
            left[0] = True  # frameworks have no convolution without channels; this one gives zeros
    return Shrunken(layers, alive, structure)


def sliced(module: nn.Module, shrunken: Shrunken) -> nn.Module:
    """``module``, which holds the layers of ``shrunken``, with smaller layers; its own children are replaced."""
    return _sliced(module, shrunken, iter(shrunken.structure))


def _sliced(module: nn.Module, shrunken: Shrunken, names: Iterator[str]) -> nn.Module:
    if isinstance(module, nn.Linear | nn.Conv2d):
        return _smaller(module, *shrunken.left(next(names)))
    for name, child in module.named_children():
        module.register_module(name, _sliced(child, shrunken, names))
    return module


def _smaller(layer: nn.Linear | nn.Conv2d, rows: Tensor, columns: Tensor) -> nn.Module:
    weight = layer.weight.detach().flatten(1)[rows][:, columns]
    smaller: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        smaller = nn.Linear(len(columns), len(rows))
    else:
        window = layer.weight[0, 0].numel()
        smaller = nn.Conv2d(len(columns) // window, len(rows), tuple(layer.kernel_size), layer.stride)  # type: ignore[arg-type]
    assert layer.bias is not None
    with torch.no_grad():
        smaller.weight.copy_(weight.view(smaller.weight.shape))
        smaller.bias.copy_(layer.bias[rows])  # type: ignore[union-attr]
    return smaller
