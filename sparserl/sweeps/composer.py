"""Hydra's config loader for sweeps, which composes as few jobs as can be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sparserl.terminal import say_once

SEED = "seed="
"""What the override of a job's seed begins with."""


class Composer:
    """Hydra's config loader, which composes every job once.

    Hydra's sweepers compose each job to see whether it can be, and throw it away; its launchers compose it again. At a tenth of
    a second and more for each that is a long wait before a large sweep. Jobs that differ in their seed only are copies of one.

    A sweep over options may set a key that only some of them have (``algorithm=dqn,ppo algorithm.target_kl=0.01``): jobs of the
    others are composed without it, which is said.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._first: dict[tuple[str, ...], tuple[DictConfig, str]] = {}
        """Of the jobs that differ in their seed only, the first: its config, and its seed as it was given."""
        self._known: dict[tuple[str, str], bool] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = self._load_seed(master_config, sweep_overrides)
        self._composed[tuple(sweep_overrides)] = config
        return config

    def _load_seed(self, sweep: DictConfig, overrides: list[str]) -> DictConfig:
        """The config of one job: that of the first of the same overrides, with its own seed."""
        rest = tuple(override for override in overrides if not override.startswith(SEED))
        (given,) = {*overrides} - {*rest} if len(overrides) == len(rest) + 1 else ("",)
        number = given.removeprefix(SEED)
        if not re.fullmatch("0|[1-9][0-9]*", number):
            return self._load(sweep, overrides)
        if rest not in self._first:
            config = self._load(sweep, overrides)
            self._first[rest] = deepcopy(config), given
            return config
        config, first = self._first[rest]
        task = [given if override == first else override for override in config.hydra.overrides.task]
        run = of_seed(config, int(number), task)
        signs = run.hydra.job.config.override_dirname
        named = [each.replace("=", signs.kv_sep) for each in (first, given)]
        items = run.hydra.job.override_dirname.split(signs.item_sep)
        run.hydra.job.override_dirname = signs.item_sep.join(named[1] if item == named[0] else item for item in items)
        OmegaConf.copy_cache(sweep, run)
        return run

    def take(self, sweep: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """The config of one job, its own: of two with the same overrides the second is another one."""
        found = self._composed.pop(tuple(overrides), None)
        return self._load_seed(sweep, list(overrides)) if found is None else found

    def _load(self, sweep: DictConfig, overrides: list[str]) -> DictConfig:
        """The config of one job, without the keys that only options of other jobs have."""
        try:
            return self._loader.load_sweep_config(sweep, overrides)
        except ConfigCompositionException as error:
            key = _unknown_key(error)
            chosen = None if key is None else self._option_without(key, sweep, overrides)
            if key is None or chosen is None:
                raise
        say_once(f"{key} is left out of the jobs with {chosen}, which have no such key")
        return self._load(sweep, _without(key, overrides))

    def _option_without(self, key: str, sweep: DictConfig, overrides: Sequence[str]) -> str | None:
        """The option of this job that lacks a key which another option of the sweep has; None where none has it."""
        for swept in OverridesParser.create().parse_overrides(list(sweep.hydra.overrides.task)):
            group = swept.key_or_group
            chosen = next((given for given in overrides if given.partition("=")[0] == group), None)
            if chosen is None or not swept.is_sweep_override():
                continue
            for option in map(str, swept.sweep_string_iterator()):
                other = f"{group}={option}"
                if (key, other) not in self._known:
                    replaced = [other if given == chosen else given for given in overrides]
                    self._known[key, other] = self._has(key, sweep, replaced)
                if self._known[key, other]:
                    return chosen
        return None

    def _has(self, key: str, sweep: DictConfig, overrides: list[str]) -> bool:
        try:
            self._loader.load_sweep_config(sweep, overrides)
        except ConfigCompositionException as error:
            other = _unknown_key(error)
            return other not in (key, None) and self._has(key, sweep, _without(str(other), overrides))
        return True


def of_seed(config: DictConfig, seed: int, task: Sequence[str]) -> DictConfig:
    """The same job of another seed, with the ``task`` overrides that say so."""
    run = deepcopy(config)
    with read_write(run), open_dict(run):
        run.seed = seed
        run.hydra.overrides.task = [*task]
    return run


def _without(key: str, overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if override.partition("=")[0] != key]


def _unknown_key(error: ConfigCompositionException) -> str | None:
    """The key that a config cannot be composed with, as far as Hydra says."""
    found = re.match(r"Could not override '([^']+)'", str(error))
    return found[1] if found else None
