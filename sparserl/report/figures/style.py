"""How figures look, and how they are written."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter, ScalarFormatter, SymmetricalLogLocator

from sparserl.runs.files import replace
from sparserl.terminal import plain

# told apart also by those who do not see red or green as others do (Okabe and Ito 2008)
BLUE, RED, GREEN, PURPLE, ORANGE, SKY = COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "0.45"

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p")

PANEL = 4.4, 3.3
"""Width and height of one panel with its labels, in inches."""

SMALLEST_SPAN = 0.05
"""The least that a vertical axis spans, as a share of the largest value on it: the size of a line and its markers."""

LONGEST = 250
"""Characters of a text in a figure; more would leave no room for the panels."""


def origin(row: Mapping[str, Any]) -> list[str]:
    """The command, commit and versions that the numbers of a picture were made with: its last lines."""
    text = " · ".join(str(row[key]) for key in ("command", "commit", "versions") if row.get(key))
    return textwrap.wrap(text, 200, max_lines=6)


def save(figure: Figure, path: Path, footer: Sequence[str]) -> Path:
    """Write a picture, in the format of the path's ending, whose last lines are ``footer``; returns its path.

    Equal figures give equal files.
    """
    figure.supxlabel("\n".join(map(literal, footer)), fontsize=6, color=GREY)
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if path.suffix == ".svg" else {}
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "sparserl"}):
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks, a label with no room: boxes and overlaps
        replace(path, lambda file: figure.savefig(file, format=path.suffix[1:], dpi=150, metadata=metadata))
    return path


def styles() -> Iterator[dict[str, Any]]:
    """A colour for each group, and another line and marker once the colours are used up."""
    lines = zip(cycle(("-", "--", ":")), cycle(MARKERS))
    return ({"color": colour, "linestyle": line, "marker": marker} for line, marker in lines for colour in COLOURS)


def literal(text: str) -> str:
    """Text from outside, of which matplotlib would take dollars for a formula and hide what begins with an underscore."""
    shown = plain(text)
    shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
    return f"{' ' * shown.startswith('_')}{shown}".replace("$", r"\$")


def by_step(axes: Axes, title: str, y: str, legend: bool = True) -> None:
    """``finish`` for a panel by environment step."""
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    finish(axes, title, "environment steps", y, legend)


def share(axes: Axes) -> None:
    """The vertical axis is a share, 0 to 1."""
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def weights_left(axes: Axes) -> None:
    """The horizontal axis is the share of policy weights that are not zero: logarithmic, and 0 has a place too."""
    logarithmic(axes, smallest=1e-3, right=1.2)  # of dense policies only, the axis would reach 1000 %
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")


def logarithmic(axes: Axes, smallest: float, right: float | None = None) -> None:
    """The horizontal axis is logarithmic, up to ``right`` if that is given. Beyond two decades labels at 2 and 5 would overlap.

    Where something is drawn at 0, which has no logarithm, the axis is linear below ``smallest``.
    """
    has_zero = axes.dataLim.x0 <= 0
    axes.set_xscale("symlog", linthresh=smallest) if has_zero else axes.set_xscale("log")
    axes.set_xlim(right=right)
    low, high = axes.get_xlim()
    if has_zero:
        axes.set_xlim(max(low, -smallest / 4), max(high, 2 * smallest))  # of zeros only it would be as wide to the left
        low = smallest
    subs = (1, 2, 5) if high < 100 * low else (1,)
    locator = SymmetricalLogLocator(base=10, linthresh=smallest, subs=subs) if has_zero else LogLocator(subs=subs)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_minor_formatter(NullFormatter())


def finish(axes: Axes, title: str, x: str, y: str, legend: bool = True) -> None:
    """Titles, labels and lines of a panel that has been drawn."""
    axes.set_title(title, fontsize=10, y=1.0)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if legend:
        axes.margins(y=0.15)  # room for it
        axes.legend(fontsize=7, framealpha=0.8, edgecolor="none")
    if isinstance(formatter := axes.yaxis.get_major_formatter(), ScalarFormatter):
        formatter.set_useOffset(False)
        _spread(axes)


def _spread(axes: Axes) -> None:
    """Values that are nearly equal are shown as that, not with their last digits as tall as the panel."""
    low, high = axes.get_ylim()
    lacking = SMALLEST_SPAN * max(abs(low), abs(high)) - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)
