"""What a key of the config may hold: declared with its field, and read by sparserl/config/.

A part of a run is a frozen dataclass whose fields are the keys of its YAML file. The types below carry the allowed
range, so a value out of range is refused before anything is trained.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""Both ends allowed."""
OpenFraction = Annotated[float, Gt(0), Le(1)]
"""Above 0, at most 1."""
Count = Annotated[int, Ge(1)]
Steps = Annotated[int, Ge(0)]


def per_member(hint: Any, default: Any = dataclasses.MISSING) -> Any:
    """A field that may differ between the members of a population.

    The config holds one value of type ``hint``; the object that runs holds a tensor ``[member]``, in which nan stands for null.
    """
    return dataclasses.field(default=default, metadata={"per_member": hint})


def unused() -> Any:
    """A key that every option of the group accepts, but that this option ignores: any value becomes null.

    So one sweep over ``regularizer`` and ``lambda_c`` is valid for all regularisers, and equal jobs are recognised as equal.
    """
    return dataclasses.field(default=None, metadata={"unused": True})


def located(variable: str | None = None) -> Any:
    """A path, or null. A relative one starts at the config's ``working_directory``; the object that runs has an absolute one.

    Where it is null, the environment ``variable`` names it: a relative one starts where the present command was typed.
    """
    return dataclasses.field(metadata={"located": variable})


def parts() -> Any:
    """A field that holds parts of a run by name, each with a ``_target_`` and keys of its own."""
    return dataclasses.field(metadata={"parts": True})
