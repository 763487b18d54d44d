"""Sentences and tables for whoever watches."""

from __future__ import annotations

import sys
from functools import cache

from rich.console import Console
from rich.table import Table


def say(sentence: str) -> None:
    """A line of its own for whoever watches, with or without a Display."""
    print(sentence, file=sys.stderr, flush=True)  # above a bar that is up: it catches what is written here


say_once = cache(say)
"""For what a process needs to say only once."""


def print_table(table: Table) -> None:
    """Whole, also where no terminal says how wide it is."""
    console = Console()
    Console(width=None if console.is_terminal else 1000).print(table)  # a table takes no more than it needs
