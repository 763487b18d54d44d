"""Everything that is printed. Text from outside stays text, and no terminal, pipe or log ends a run."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


def plain(text: str) -> str:
    """One line: line breaks and tabs become spaces, and control characters and lone surrogates their escapes."""
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode("ascii") for c in text)


def number(value: float | None, form: str = "g", unknown: str = "-") -> str:
    """A number, or ``unknown`` where there is none: what is not finite is null in the files of a run."""
    return unknown if value is None or not math.isfinite(value) else format(value, form)


def describe(error: BaseException) -> str:
    """The class of an error and what it says, in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 (classes are free to raise whatever they like)
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def one_sentence(*expected: type[Exception]) -> Iterator[None]:
    """End the program with a sentence where an error of these kinds is raised, or a file cannot be used."""
    try:
        yield
    except expected as error:
        leave(" ".join(str(error).split()))
    except OSError as error:
        if error.filename is None:
            raise
        leave(f"{error.filename} cannot be used: {error.strerror}")


def leave(sentence: str) -> NoReturn:
    """End the program with a sentence on stderr and the exit status 1."""
    sys.exit(plain(f"sparserl: {sentence}"))


class Output:
    """A stream that raises nothing: characters it cannot encode become escapes; once it cannot be written it is silent."""

    def __init__(self, stream: Any) -> None:
        """``stream`` is a text file, or None where the process was started without it."""
        self._stream = stream

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        with self._forgiven() as stream:
            stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with self._forgiven() as stream:
            stream.flush()

    def isatty(self) -> bool:
        with self._forgiven() as stream:
            return bool(stream.isatty())
        return False

    def fileno(self) -> int:
        return -1 if self._stream is None else self._stream.fileno()

    @contextmanager
    def _forgiven(self) -> Iterator[Any]:
        try:
            yield self._stream
        except AttributeError:
            if self._stream is not None:
                raise
        except (OSError, ValueError):  # a broken pipe, a full disk; a stream that is closed
            with suppress(OSError, ValueError):  # or else Python tries again at the end, and exits with code 120
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def say(sentence: str) -> None:
    """A line on stderr, with or without a Display: above its bar, which catches what is written to ``sys.stderr``."""
    _line(sys.stderr, sentence)


say_once = cache(say)
"""For what a process needs to say only once."""


def print_line(line: str) -> None:
    """A line on stdout, for what was asked for."""
    _line(sys.stdout, line)


def _line(stream: Any, text: str) -> None:
    output = Output(stream)
    output.write(plain(text) + "\n")
    output.flush()


def console(stream: Any, **settings: Any) -> Console:
    """A console for ``stream`` to which [brackets] and :colons: are ordinary text."""
    return Console(file=Output(stream), markup=False, emoji=False, **settings)  # type: ignore[arg-type]


def print_table(headers: Sequence[str | Column], rows: Iterable[Sequence[str | Text]], title: str = "") -> None:
    """A table on stdout, whole also where no terminal says how wide it is. An empty row is a line between sections."""
    columns = [Column(header, overflow="fold") if isinstance(header, str) else header for header in headers]
    for column in columns:
        column.header = plain(str(column.header))
    table = Table(*columns, title=plain(title) or None)
    for row in rows:
        if row:
            table.add_row(*map(_cell, row))
        else:
            table.add_section()
    is_terminal = console(sys.stdout).is_terminal
    console(sys.stdout, width=None if is_terminal else 1000).print(table)  # a table takes no more than it needs


def _cell(text: str | Text) -> Text:
    if isinstance(text, str):
        return Text(plain(text))
    text.plain = plain(text.plain)
    return text


@contextmanager
def optional(what: str) -> Iterator[None]:
    """For output that is not worth a run: whatever goes wrong inside is one warning line. Also a decorator."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever it is, runs that are done are done)
        say(f"warning: there is no {what}: {describe(error)}")
