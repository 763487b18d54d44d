"""Hydra reads two dozen files for each config and merges them, which takes 0.1 s, and most tests ask for the same files.

Here a file is parsed once and a list of files is merged once, as long as no file changes. Overrides of values come after that,
so nothing that a test gives is kept. For lists of defaults without an interpolation, which are all but one, Hydra need not
gather what an interpolation could refer to.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra.core.default_element import InputDefault, ResultDefault
from omegaconf import DictConfig

State: TypeAlias = tuple[str, int, int] | None


def kept(key: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed once for each key. Results are unpickled, which takes a tenth of the time of copying them."""
    results: dict[Any, bytes] = {}

    def found(*arguments: Any) -> Any:
        asked = key(*arguments)
        if asked not in results:
            results[asked] = pickle.dumps(function(*arguments))
        return pickle.loads(results[asked])

    return found


def state_of(source: str, config_path: str) -> State:
    """What changes when a config of a source does. What is not in files is in packages and stays."""
    scheme, _, folder = source.partition("://")
    path = Path(folder, f"{config_path.removesuffix('.yaml')}.yaml")
    if scheme != "file" or not path.exists():
        return None
    found = path.stat()
    return str(path), found.st_mtime_ns, found.st_size


def parsed(repository: ConfigRepository, config_path: str) -> tuple[Any, ...]:
    """What the parsed config depends on: several sources may have it, and the first counts."""
    return config_path, *((source.path, state_of(source.path, config_path)) for source in repository.get_sources())


def merged(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repository: CachingConfigRepository) -> tuple[Any, ...]:
    """What the merged config depends on."""
    packages = ((default.package, default.is_self, default.primary) for default in defaults)
    return *packages, *(parsed(repository.delegate, default.config_path) for default in defaults)


def install() -> None:
    """Parse and merge once from now on."""
    for owner, name, key in (
        (ConfigRepository, "load_config", parsed),
        (ConfigLoaderImpl, "_compose_config_from_defaults_list", merged),
    ):
        function = kept(key, getattr(owner, name))
        setattr(owner, name, lambda self, *arguments, function=function, **keys: function(self, *arguments, *keys.values()))

    gather = defaults_list._create_interpolation_map

    def gather_if_needed(overrides: defaults_list.Overrides, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        needed = any("${" in repr(default) for default in defaults)
        return gather(overrides, defaults, self_added) if needed else DictConfig({})

    defaults_list._create_interpolation_map = gather_if_needed
