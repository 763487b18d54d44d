"""The top level of a config, and what is raised where one is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge

from sparserl.algorithms.base import Algorithm
from sparserl.environments.base import BrokenEnvironmentError, Environment
from sparserl.experience.base import Experience
from sparserl.lowrank.sweep import RankSweep
from sparserl.networks.base import Network
from sparserl.regularizers.base import Regularizer
from sparserl.tracking.base import Logger
from sparserl.training.trainer import Trainer

Config: TypeAlias = dict[str, Any]
"""A resolved config: plain containers and numbers only."""

_PACKAGE = Path(__file__).parent.parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Inside the package in a wheel, beside it in a checkout."""


class ConfigError(ValueError):
    """What is wrong with a config, in one sentence for its author."""


class PartError(ConfigError):
    """A part that cannot be made. What its code raised is the cause."""

    @property
    def is_expected(self) -> bool:
        """Whether the part raised it to tell the user something, rather than failed."""
        told = isinstance(self.__cause__, ValueError | ModuleNotFoundError)
        return told and not isinstance(self.__cause__, BrokenEnvironmentError)


@dataclasses.dataclass(frozen=True)
class Names:
    """The options chosen from the groups, as columns of a result."""

    algorithm: str
    environment: str
    regularizer: str
    network: str


@dataclasses.dataclass(frozen=True)
class Schema:
    """The top level of a config; described in ``conf/train.yaml``."""

    trainer: Trainer
    network: Network
    environment: Environment
    algorithm: Algorithm
    experience: Experience
    regularizer: Regularizer
    lowrank: RankSweep
    logger: Logger
    names: Names
    seed: Annotated[int, Ge(0)]
    device: Literal["auto", "cpu", "cuda"]
    sweep_name: str
    objective: str
    objective_seeds: Annotated[int, Ge(1)] | None
    init_from: str | None
    resume: str | None
    retry_failed: bool
    trust: bool
