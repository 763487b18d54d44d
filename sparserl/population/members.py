"""Who the members of a population are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparserl.population.random import Generators, MemberRng


@dataclass(frozen=True)
class Population:
    """The members: their seeds, in order, and the device that their tensors live on.

    A population of P members is P runs that share a process, not a random stream: every member draws from generators seeded
    by its own seed, and every operation on members acts within a member's slice. So a member's run does not depend on the
    others.
    """

    seeds: tuple[int, ...]
    device: torch.device = torch.device("cpu")

    @property
    def size(self) -> int:
        return len(self.seeds)

    def generators(self, stream: str) -> Generators:
        return Generators(self.seeds, stream, self.device)

    def rng(self, stream: str) -> MemberRng:
        return MemberRng(self.generators(stream))
