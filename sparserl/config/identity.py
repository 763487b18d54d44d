"""What makes two configs one run, one population or one loop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

import hydra

from sparserl.config.schema import Config

T = TypeVar("T")


def _per_member(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if "per_member" in field.metadata]


def without_per_member(node: Config) -> Config:
    """A part of a config without what may differ between the members of one population, in the parts within it too."""
    varying = _per_member(hydra.utils.get_class(node["_target_"]))
    kept = {key: value for key, value in node.items() if key not in varying}
    return kept | {key: {name: without_per_member(its) for name, its in value.items()} for key, value in parts_in(node)}


def parts_in(node: Config) -> list[tuple[str, Config]]:
    """The keys of a part that hold other parts by name, with these."""
    cls = hydra.utils.get_class(node["_target_"])
    return [(field.name, node[field.name]) for field in dataclasses.fields(cls) if "parts" in field.metadata]


def structure(config: Config) -> Config:
    """A config without what may differ between the members of one population."""
    common = {key: value for key, value in identity(config).items() if key not in ("seed", "init_from")}
    common |= {key: config[key] for key in ("trainer", "logger", "working_directory")}
    for group in ("algorithm", "regularizer"):
        common[group] = without_per_member(config[group])
    return common


def shared(config: Config) -> Config:
    """A config without what may differ between the members of one loop, which need not be one population."""
    common = structure(config)
    names = {group: name for group, name in common["names"].items() if group != "regularizer"}
    return {key: value for key, value in common.items() if key not in ("regularizer", "working_directory")} | {"names": names}


def populations(items: Sequence[T], config_of: Callable[[T], Config]) -> list[list[T]]:
    """What has configs, cut wherever the structures of two neighbours differ."""
    return [list(alike) for _, alike in groupby(items, key=lambda item: canonical(structure(config_of(item))))]


def canonical(config: Config) -> str:
    """A text that is the same for equal configs only."""
    return json.dumps(config, sort_keys=True)


def identity(config: Config) -> Config:
    """What makes two runs the same run: everything but where it is kept, what is reported of it, and whether it is compiled."""
    elsewhere = "sweep_name", "objective", "objective_seeds", "resume", "retry_failed", "trust", "working_directory", "logger"
    kept = {key: value for key, value in config.items() if key not in elsewhere}
    if isinstance(trainer := kept.get("trainer"), dict):  # which a file of a stranger need not have
        kept["trainer"] = {key: value for key, value in trainer.items() if key != "compile"}
    return kept
