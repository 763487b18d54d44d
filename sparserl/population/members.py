"""Who the members of a population are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparserl.population.random import Generators, Uniforms


@dataclass(frozen=True)
class Population:
    """The members: their seeds, in order, and the device that their tensors live on."""

    seeds: tuple[int, ...]
    device: torch.device = torch.device("cpu")

    @property
    def size(self) -> int:
        return len(self.seeds)

    def generators(self, stream: str) -> Generators:
        return Generators(self.seeds, stream, self.device)

    def uniforms(self, stream: str) -> Uniforms:
        return Uniforms(self.generators(stream))
