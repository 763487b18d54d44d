"""Transitions as rows of bytes: where their fields are.

A transition is one row, whatever its fields are: it is fetched in one or two cache lines, and fetching is most of what sampling
costs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

ALIGNMENT = 8
"""Bytes: the widest number that there is."""

Rows: TypeAlias = Mapping[str, Shaped[Tensor, "member row number"]]
"""The same rows of bytes as numbers of each type that a field has, by the name of the type."""


@dataclass(frozen=True)
class Field:
    """Where a field lies in each row: from number ``start`` on, where it is read as numbers of its type."""

    start: int
    type: str
    shape: tuple[int, ...]

    def of(self, rows: Rows) -> Shaped[Tensor, "member row *field"]:
        """The field of every row: a view."""
        numbers = rows[self.type]
        return numbers[..., self.start : self.start + math.prod(self.shape)].view(*numbers.shape[:2], *self.shape)


@dataclass(frozen=True)
class Layout:
    """The fields of a transition in a row of ``width`` bytes."""

    fields: tuple[tuple[str, Field], ...]
    width: int

    @classmethod
    def for_fields(cls, fields: Mapping[str, Tensor]) -> Layout:
        """One for fields like these, ``[member, row, *field]``."""
        start, places = 0, dict[str, Field]()
        for name, value in sorted(fields.items(), key=lambda item: -item[1].element_size()):  # so that all are aligned
            shape, size = tuple(value.shape[2:]), value.element_size()
            places[name] = Field(start // size, str(value.dtype).removeprefix("torch."), shape)
            start += math.prod(shape) * size
        return cls(tuple((name, places[name]) for name in fields), -(-start // ALIGNMENT) * ALIGNMENT)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(name for name, _ in self.fields)

    def some(self, names: Collection[str]) -> Layout:
        """The same rows with some of the fields only."""
        if names is self.names:
            return self
        known = self._parts.get(tuple(names))
        if known is None:
            known = Layout(tuple((name, field) for name, field in self.fields if name in names), self.width)
            self._parts[tuple(names)] = known
        return known

    @cached_property
    def _parts(self) -> dict[tuple[str, ...], Layout]:
        return {}

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The names of the types that fields have."""
        return tuple(dict.fromkeys(field.type for _, field in self.fields))

    def rows(self, rows: UInt8[Tensor, "member row byte"]) -> Rows:
        """The rows by type: views."""
        return {name: rows.view(getattr(torch, name)) for name in self.types}

    def field(self, rows: UInt8[Tensor, "member row byte"], name: str) -> Shaped[Tensor, "member row *field"]:
        """One field of rows: a view."""
        return dict(self.fields)[name].of(self.rows(rows))

    def columns(self, rows: Rows) -> dict[str, Tensor]:
        """The fields of rows, by name: views."""
        return {name: field.of(rows) for name, field in self.fields}
