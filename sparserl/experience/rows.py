"""Transitions as rows of numbers: where their fields are.

The fields of one type are one row, whatever they are: it is fetched in one or two cache lines, and fetching is most of what
sampling costs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Shaped
from torch import Tensor

Rows: TypeAlias = Mapping[str, Shaped[Tensor, "member row number"]]
"""Rows of numbers of each type that a field has, by the name of the type."""


@dataclass(frozen=True)
class Field:
    """Where a field lies in each row of its type: from number ``start`` on."""

    start: int
    type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def of(self, rows: Rows) -> Shaped[Tensor, "member row *field"]:
        """The field of every row: a view."""
        numbers = rows[self.type]
        return numbers[..., self.start : self.start + self.size].view(*numbers.shape[:2], *self.shape)


@dataclass(frozen=True)
class Layout:
    """The fields of a transition in rows."""

    fields: tuple[tuple[str, Field], ...]

    @classmethod
    def for_fields(cls, fields: Mapping[str, Tensor]) -> Layout:
        """One for fields like these, ``[member, row, *field]``."""
        ends, places = dict[str, int](), list[tuple[str, Field]]()
        for name, value in fields.items():
            type_ = str(value.dtype).removeprefix("torch.")
            field = Field(ends.get(type_, 0), type_, tuple(value.shape[2:]))
            ends[type_] = field.start + field.size
            places.append((name, field))
        return cls(tuple(places))

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
            known = Layout(tuple((name, field) for name, field in self.fields if name in names))
            self._parts[tuple(names)] = known
        return known

    @cached_property
    def _parts(self) -> dict[tuple[str, ...], Layout]:
        return {}

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The names of the types that fields have."""
        return tuple(dict.fromkeys(field.type for _, field in self.fields))

    def room(self, like: Tensor, members: int, rows: int) -> Rows:
        """Room for so many rows, where another tensor is."""
        sizes = {name: sum(its.size for _, its in self.fields if its.type == name) for name in self.types}
        return {name: like.new_zeros(members, rows, size, dtype=getattr(torch, name)) for name, size in sizes.items()}

    def rows(self, pieces: Sequence[Mapping[str, Tensor]]) -> Rows:
        """Fields ``[member, row, *field]``, one piece behind another, as rows."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.types}
        for name, its in self.fields:
            joined = torch.cat([piece[name] for piece in pieces], dim=1) if pieces[1:] else pieces[0][name]
            found[its.type].append(joined.flatten(2) if its.shape else joined.unsqueeze(2))
        return {name: torch.cat(columns, dim=2) for name, columns in found.items()}

    def field(self, rows: Rows, name: str) -> Shaped[Tensor, "member row *field"]:
        """One field of rows: a view."""
        return dict(self.fields)[name].of(rows)

    def columns(self, rows: Rows) -> dict[str, Tensor]:
        """The fields of rows, by name: views."""
        return {name: field.of(rows) for name, field in self.fields}
