"""Parts of a run as their YAML files describe them, for tests of whatever parts there are."""

from __future__ import annotations

import pkgutil
from functools import cache
from pathlib import Path

import sparserl
from sparserl.build import Config, build, compose
from sparserl.trainer import Parts


def modules(package: str) -> list[str]:
    """The options of a group, one a file: ``modules("regularizers")`` finds new ones without being told."""
    path = Path(sparserl.__file__).parent / package
    return sorted(module.name for module in pkgutil.iter_modules([str(path)]) if module.name != "base")


def parts(*overrides: str, members: int = 1) -> Parts:
    """What a population with seeds 0, 1, 2 ... is trained with under these overrides."""
    return build([_compose(overrides) | {"seed": seed} for seed in range(members)])[1]


@cache
def _compose(overrides: tuple[str, ...]) -> Config:
    return compose(*overrides)
