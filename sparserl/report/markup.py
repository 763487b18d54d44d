"""Tables as text of other programs, in which text from outside stays text: Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from sparserl.terminal import plain

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
}  # fmt: skip
"""What LaTeX reads as more than a character, or shows as another one."""


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A table for a README; all rows have the same headers."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(escaped, line))} |\n" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    return re.sub(r"([\\|`*<])", r"\\\1", plain(text))


def code(text: str) -> str:
    """Text as code in Markdown, between more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{plain(text)}{space}{fence}"


def latex(rows: Sequence[dict[str, str]], caption: str, label: str, comments: Sequence[str] = ()) -> str:
    """A table for a paper, with the rules of booktabs; ``comments`` are above it and not shown.

    Needs the packages booktabs, and textcomp where the format is older than 2020.
    """
    lines = [f"% {plain(comment)}" for comment in comments]
    lines += [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\toprule"]
    lines += [_latex_row(list(rows[0])), r"\midrule", *(_latex_row(list(row.values())) for row in rows), r"\bottomrule"]
    lines += [r"\end{tabular}", rf"\caption{{{latex_escaped(caption)}}}", rf"\label{{tab:{label}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    # a cell that begins with a bracket would be the optional argument of the line break before it
    return " & ".join(f"{'{}' * cell.startswith('[')}{latex_escaped(cell)}" for cell in cells) + r" \\"


def latex_escaped(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(LATEX.get(character, character) for character in plain(text))


def html_escaped(text: str) -> str:
    """Text that a browser shows as it is, also within an attribute between double quotes."""
    return html.escape(plain(text))
