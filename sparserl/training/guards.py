"""Counters of a step that is being traced: what the step decides by them becomes a condition of the program.

A program that was traced at one environment step would use that step for ever. So while a step is traced, the numbers in
``Time`` are of this kind. A comparison is written down as a guard: where it comes out otherwise, the program does not hold. In
arithmetic with tensors they are inputs of the program. Anything else that needs the value raises TypeError.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_map

Expression: TypeAlias = str | int | float | list[Any]
"""A number, the name of one, or an operation on expressions as ``[name in operator, operand, ...]``: plain JSON."""

Guard: TypeAlias = tuple[Expression, bool]
"""A comparison, and how it came out."""


def evaluate(expression: Expression, numbers: Mapping[str, Any]) -> Any:
    """The value of an expression, where the names in it have these values."""
    return _function(expression)(numbers)


def prepared(guards: Sequence[Guard]) -> Callable[[Mapping[str, Any]], bool]:
    """A function of numbers: whether every comparison comes out as it did when the program was traced."""
    comparisons = [(_function(expression), result) for expression, result in guards]
    return lambda numbers: all(bool(compare(numbers)) is result for compare, result in comparisons)


def _function(expression: Expression) -> Callable[[Mapping[str, Any]], Any]:
    if isinstance(expression, str):
        return operator.itemgetter(expression)
    if isinstance(expression, list):
        name, *operands = expression
        operation, functions = getattr(operator, name), [_function(operand) for operand in operands]
        return lambda numbers: operation(*[function(numbers) for function in functions])
    return lambda numbers: expression


class TracedNumber:
    """A number as an expression of named ones, which have ``numbers`` while tracing and are ``tensors`` [] in the program."""

    def __init__(
        self, expression: Expression, numbers: Mapping[str, int], tensors: Mapping[str, Tensor], guards: list[Guard]
    ) -> None:
        self.expression, self._numbers, self._tensors, self._guards = expression, numbers, tensors, guards

    def _with(self, name: str, *operands: Any) -> TracedNumber:
        plain = [item.expression if isinstance(item, TracedNumber) else item for item in operands]
        return TracedNumber([name, *plain], self._numbers, self._tensors, self._guards)

    def decide(self) -> bool:
        """The value of a comparison, which becomes a guard."""
        result = bool(evaluate(self.expression, self._numbers))
        if (self.expression, result) not in self._guards:
            self._guards.append((self.expression, result))
        return result

    def tensor(self) -> Tensor:
        """The value as the program will compute it."""
        found: Tensor = evaluate(self.expression, self._tensors)
        return found

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda item: item.tensor() if isinstance(item, cls) else item, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _refuse(self) -> NoReturn:
        raise TypeError(f"the value of {self.expression} is needed, and it would be the same in every later step")

    def __bool__(self) -> bool:
        return self._with("ne", self, 0).decide()

    def __int__(self) -> int:
        self._refuse()

    def __index__(self) -> int:
        self._refuse()

    def __float__(self) -> float:
        self._refuse()

    def __hash__(self) -> int:
        self._refuse()

    def __eq__(self, other: object) -> Any:
        return _compared("eq")(self, other)


def _combined(name: str, reflected: bool = False) -> Callable[[TracedNumber, Any], Any]:
    def combine(self: TracedNumber, other: Any) -> Any:
        if not isinstance(other, TracedNumber | int | float):
            return NotImplemented
        return self._with(name, other, self) if reflected else self._with(name, self, other)

    return combine


def _compared(name: str) -> Callable[[TracedNumber, Any], Any]:
    def compare(self: TracedNumber, other: Any) -> Any:
        if not isinstance(other, TracedNumber | int | float):
            return NotImplemented
        return self._with(name, self, other).decide()

    return compare


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod"):
    setattr(TracedNumber, f"__{_name}__", _combined(_name))
    setattr(TracedNumber, f"__r{_name}__", _combined(_name, reflected=True))
for _name in ("lt", "le", "gt", "ge", "ne"):
    setattr(TracedNumber, f"__{_name}__", _compared(_name))
