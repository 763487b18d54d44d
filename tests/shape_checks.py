"""The types and shapes in sparserl's signatures, checked in some of the calls: checking all takes as long as training itself.

In each test the first ``ALWAYS`` calls of each function are checked, and then every ``EACH``-th one. A training calls its
functions with the same shapes again and again, so a wrong shape is among the first calls or comes back. Functions that a call
defines are left out, since to prepare their checks takes 10 ms each time. ``--check-every-call`` checks all calls of all
functions; ``make test-shapes`` and ``make test-slow`` use it.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from types import FunctionType
from typing import Any

import jaxtyping

ALWAYS = 4
EACH = 47
"""A prime number, so that calls which alternate between a few kinds are checked in all of these."""

calls: defaultdict[FunctionType, int] = defaultdict(int)
"""How often each function was called in this test."""

every_call = False
_check: Callable[..., Any] = jaxtyping.jaxtyped


def check_some(function: Any = None, *, typechecker: Any) -> Any:
    """``jaxtyping.jaxtyped`` that leaves calls out; the fields of dataclasses are always checked."""
    if function is None:
        return functools.partial(check_some, typechecker=typechecker)
    if isinstance(function, FunctionType) and "<locals>" in function.__qualname__ and not every_call:
        return function
    if not isinstance(function, FunctionType):
        return _check(function, typechecker=typechecker)

    @functools.cache  # made when it is needed: most functions of a module are not called by a test
    def checked() -> Callable[..., Any]:
        return _check(function, typechecker=typechecker)  # type: ignore[no-any-return]

    @functools.wraps(function)
    def some(*arguments: Any, **keys: Any) -> Any:
        number = calls[function]
        calls[function] = number + 1
        if number < ALWAYS or number % EACH == 0 or every_call:
            return checked()(*arguments, **keys)
        return function(*arguments, **keys)

    return some


def install() -> None:
    """Check the modules of sparserl that are imported from now on."""
    jaxtyping.jaxtyped = check_some  # the import hook decorates functions with it
    jaxtyping.install_import_hook("sparserl", "beartype.beartype")
