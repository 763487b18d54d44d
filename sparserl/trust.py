"""What a file may make this process do. Runs are shared as folders, and whoever builds a class runs the module that it is in.

Building sparserl's own parts runs nothing of the file's author. Everything else is refused before it is imported.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

_OURS = f"{__name__.partition('.')[0]}."


class UntrustedError(ValueError):
    """What in a file would run code that is not sparserl's, in one sentence with the remedy."""


def check(path: str, node: Any) -> None:
    """Look through a part of a config out of a file, however deep; ``path`` is its key.

    Raises UntrustedError where building it might run code that is not sparserl's, and ValueError where it names something of
    sparserl's that is no part. Only modules of sparserl's are imported.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            below = f"{path}.{key}" if path else str(key)
            if key == "_target_" and not _is_ours(value):
                raise _untrusted(below, value)
            check(below, value)
    elif isinstance(node, list):
        for index, item in enumerate(node):
            check(f"{path}.{index}", item)
    # A resolved config has no interpolation; OmegaConf would make parts of one that are nowhere in the file. And of what an
    # environment is given, Gymnasium imports what stands before a colon.
    elif isinstance(node, str) and ("${" in node or (path.startswith("environment.") and ":" in node)):
        raise _untrusted(path, node)


def find_class(target: Any) -> type:
    """The dataclass that a ``_target_`` names, which is imported. Raises ValueError where there is none."""
    module, _, name = str(target).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{target!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{target!r} is not a dataclass")
    return found


def _is_ours(target: Any) -> bool:
    """Also by where the class comes from: a module of sparserl's holds whatever it imports."""
    return str(target).startswith(_OURS) and find_class(target).__module__.startswith(_OURS)


def _untrusted(path: str, value: Any) -> UntrustedError:
    return UntrustedError(
        f"{path} is {value!r}, which may run code that is not sparserl's; "
        "where you trust whoever wrote it, trust=true (to play: --trust) lets it"
    )
