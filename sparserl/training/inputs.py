"""Values of parts as inputs of a program: those of each member, and what follows a schedule."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.regularizers.base import Regularizer
from sparserl.schedules import Schedule
from sparserl.training.dependencies import parts_in

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Given(Schedule):
    """A schedule whose value is an input of the program."""

    value: Tensor | float

    def __call__(self, step: int) -> Any:
        return self.value


class PartInputs:
    """The values of some parts that are inputs of a program, in one order."""

    def __init__(self, *parts: Algorithm | Regularizer) -> None:
        self._per_member = [per_member(part) for part in parts]
        self._schedules = [schedules(part) for part in parts]
        self._expanded: dict[int, list[Tensor]] = {}

    @property
    def counts(self) -> tuple[int, int]:
        """How many tensors and numbers there are."""
        return sum(map(len, self._per_member)), sum(map(len, self._schedules))

    def tensors(self, members: int) -> list[Tensor]:
        """The values of each member, of those too that may hold for all, ``[member]``."""
        if members not in self._expanded:
            self._expanded[members] = [its.expand(members).contiguous() for part in self._per_member for its in part.values()]
        return self._expanded[members]

    def numbers(self, step: int) -> list[float]:
        """What schedules say."""
        return [schedule(step) for part in self._schedules for schedule in part.values()]

    def given(self, tensors: Sequence[Tensor], numbers: Sequence[Tensor | float]) -> list[dict[str, Any]]:
        """For each part what ``with_values`` makes it read, from what those two methods gave."""
        tensor, number = iter(tensors), iter(numbers)
        values: list[dict[str, Any]] = [{path: next(tensor) for path in part} for part in self._per_member]
        for its, part in zip(values, self._schedules, strict=True):
            its.update({path: Given(next(number)) for path in part})
        return values


def values_of(part: Any) -> dict[str, Any]:
    """The values of a part by the name of the field; of the parts in it by path, as ``terms.l1.lambda_c``."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        if "parts" in field.metadata:
            for name, its in getattr(part, field.name).items():
                found |= {f"{field.name}.{name}.{path}": value for path, value in values_of(its).items()}
        elif field.init:
            found[field.name] = getattr(part, field.name)
    return found


def schedules(part: Algorithm | Regularizer) -> dict[str, Schedule]:
    """The values that follow a schedule, by path."""
    return {path: value for path, value in values_of(part).items() if isinstance(value, Schedule)}


def per_member(part: Algorithm | Regularizer) -> dict[str, Tensor]:
    """The values of each member, by path."""
    return {path: value for path, value in values_of(part).items() if isinstance(value, Tensor)}


def with_values(part: T, values: Mapping[str, Any]) -> T:
    """A copy of a part with other values at some paths; what it has computed from the others stays.

    Paths in parts that it lacks are left out: bound to a component, a sum has only the terms that cover it.
    """
    changed, within = copy.copy(part), dict[tuple[str, str], dict[str, Any]]()
    for path, value in values.items():
        if "." in path:
            field, name, rest = path.split(".", 2)
            within.setdefault((field, name), {})[rest] = value
        else:
            object.__setattr__(changed, path, value)
    for (field, name), its in within.items():
        if name in (held := getattr(changed, field)):
            object.__setattr__(changed, field, {**held, name: with_values(held[name], its)})
    return changed


def described(part: Algorithm | Regularizer) -> tuple[list[str], dict[str, str]]:
    """The classes of a part and of the parts in it, and their values; of what is an input only that it is one."""
    inputs = {**schedules(part), **per_member(part)}
    classes = [type(its).__qualname__ for its in (part, *parts_in(part))]
    return classes, {path: "input" if path in inputs else repr(its) for path, its in values_of(part).items()}
