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
    """The top level of a config: one option of each group, and the keys that belong to no group.

    Keys (``make docs`` copies them from ``conf/train.yaml``):
        seed (integer, at least 0): Seed of all randomness of this run, 0 or more.
        device (``auto``, ``cpu``, ``cuda``): Where tensors live: auto (cuda where there is one), cpu or cuda.
        sweep_name (text): Name of a multirun's folder in outputs/.
        objective (text): The number of result.json that a sweeper is given. Where nothing was learned, so that no rank was
            selected, it is given what holds of the whole policy: compression and retention 0, return_mean as return_lowrank,
            and the same of the three shrunken_ columns.
        objective_seeds (integer, at least 1 or ``null``): Runs of each job of a sweep, 1 or more: seeds from ``seed`` on,
            trained as one population, each in its own folder. The sweeper is given the interquartile mean (IQM) of their
            objectives: the mean without the lowest and the highest quarter. A run that learned nothing counts as above; where
            one diverged, the job has failed. null trains one run, and gives its objective as it is.
        init_from (text or ``null``): A finished run whose policy, hardened, is the start of this one: its folder, or a pattern
            such as outputs/mine/*-seed3-* that matches one; null starts with fresh weights.
        resume (text or ``null``): A folder of outputs/ to go on in, from its last checkpoint and with its own config; null
            starts a new run. Only lowrank.* and logger.* may be changed with it: with lowrank.* a finished run is factored
            again at the new ranks.
        retry_failed (``true`` or ``false``): Whether a job that failed is tried again when its sweep is started again; those
            that are done, or diverged, never are.
        trust (``true`` or ``false``): Whether a resumed config may name classes that are not sparserl's: building them runs the
            code of whoever wrote the folder.
        working_directory (text): The folder in which the command was typed: relative paths of this config start there, also
            under ``hydra.job.chdir=true`` and when the run is resumed from elsewhere.
        names (``Names``): The options chosen above, as they are named in every result.
    """

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
    working_directory: str
