"""What a training loop is built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparserl.algorithms.base import Algorithm
from sparserl.environments.base import Environment
from sparserl.experience.base import Experience
from sparserl.population.members import Population
from sparserl.regularizers.base import Regularizer


@dataclass(frozen=True)
class PopulationParts:
    """One population: members that learn together, with the per-member values of their own."""

    members: Population
    algorithm: Algorithm
    regularizer: Regularizer


@dataclass(frozen=True)
class LoopParts:
    """What the members of one loop are trained with, those of all its populations."""

    members: Population
    environment: Environment
    algorithm: Algorithm
    experience: Experience
    populations: Sequence[PopulationParts]
    """Whose members are ``members``, in their order."""
