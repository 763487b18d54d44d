"""A report as one HTML file: it opens from a disk, makes no request, and shows text from outside as text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sparserl.report.markup import html_escaped as escaped
from sparserl.report.table import Table

MADE = "how_this_was_made"
"""The place of the last section."""

STYLE = """
:root {
  color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif;
  --text: #222; --page: #fff; --dim: #555; --line: #ddd; --head: #f5f5f5; --hover: #e8f2fa; --link: #0060a0;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --page: #181818; --dim: #aaa; --line: #444; --head: #282828; --hover: #203040; --link: #80bfff; }
}
body { background: var(--page); color: var(--text); overflow-wrap: anywhere; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem 2rem 4rem; }
h1, h2 { line-height: 1.2; }
h2 { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.5rem; }
a { color: var(--link); }
nav a { display: inline-block; margin-right: 1.2rem; }
figure { margin: 0; }
figcaption { margin-top: 0.8rem; }
.wide { overflow: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: left; white-space: nowrap; }
th { background: var(--head); position: sticky; top: 0; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tbody tr:hover { background: var(--hover); }
svg { background: #fff; display: block; height: auto; max-width: 100%; }
.caption, summary, .small { color: var(--dim); font-size: 13px; max-width: 70rem; }
.commands { font: 12px/1.5 ui-monospace, monospace; }
@media (min-width: 60rem) { .wide:has(table) { max-height: 85vh; } }
@media (max-width: 60rem) {
  body { padding: 0.5rem 1rem 2rem; }
  h1 { font-size: 1.5rem; }
  h2 { font-size: 1.25rem; }
  svg { max-width: none; }
}
"""

SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const falls = head.getAttribute("aria-sort") === "ascending", place = head.cellIndex;
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const key = row => row.cells[place].textContent, number = text => parseFloat(text);
    const compare = (a, b) => {
      if (a === "-" || b === "-") return (a === "-") - (b === "-");  // what is not known is last, either way
      const order = isNaN(number(a)) || isNaN(number(b)) ? a.localeCompare(b) : number(a) - number(b);
      return falls ? -order : order;
    };
    for (const row of [...body.rows].sort((a, b) => compare(key(a), key(b)))) body.append(row);
  });
}
"""


@dataclass(frozen=True)
class Drawing:
    """A figure of the page."""

    name: str
    title: str
    caption: str
    svg: str
    """The text of an SVG file."""


@dataclass(frozen=True)
class Content:
    """What a report shows."""

    title: str
    tables: Sequence[Table]
    drawings: Sequence[Drawing]
    made_with: Sequence[str]
    """Commands, commits and versions, in lines of plain text."""
    skipped: Sequence[str]
    """Sentences on what was not made."""

    def heading(self, table: Table) -> str:
        """The first table has the report's title, as it is alone in its files."""
        return "Summary" if table.title == self.title else table.title


def page(content: Content) -> str:
    """The page: tables, figures, and how they were made.

    Its security policy forbids every request and every script but the one that sorts tables.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title, tables, drawings = content.title, content.tables, content.drawings
    headings = {table.name: content.heading(table) for table in tables}
    links = headings | {drawing.name: drawing.title for drawing in drawings} | {MADE: "How this was made"}
    skipped = f"<p>Not made:</p>{_list(content.skipped)}" if content.skipped else ""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escaped(title)}</h1>",
        "<nav>",
        *(f'<a href="#{escaped(name)}">{escaped(heading)}</a>' for name, heading in links.items()),
        "</nav><main>",
        *(_section(table.name, headings[table.name], _table(table, headings[table.name])) for table in tables),
        *(_section(drawing.name, drawing.title, _figure(drawing)) for drawing in drawings),
        _section(MADE, links[MADE], _list(content.made_with, "commands") + skipped),
        f"</main><script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(name: str, heading: str, content: str) -> str:
    return f'<section><h2 id="{escaped(name)}">{escaped(heading)}</h2>\n{content}</section>'


def _table(table: Table, heading: str) -> str:
    heads = "".join(f'<th scope="col"><button type="button">{escaped(header)}</button></th>' for header in table.cells[0])
    rows = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row.values())}</tr>\n" for row in table.cells)
    notes = f"<details><summary>Missing: {len(table.notes)}</summary>{_list(table.notes)}</details>" if table.notes else ""
    body = _wide(f"<table><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>", heading)
    return f'{body}<p class="caption">{escaped(table.caption)}</p>{notes}'


def _figure(drawing: Drawing) -> str:
    label = f'<svg role="img" aria-label="{escaped(f"{drawing.title}. {drawing.caption}")}"'
    body = _wide(inline(drawing.svg, drawing.name).replace("<svg", label, 1), drawing.title)
    return f'<figure>{body}<figcaption class="caption">{escaped(drawing.caption)}</figcaption></figure>'


def _wide(content: str, label: str) -> str:
    """A box in which what is wider than the page scrolls, with a mouse, a finger or the arrow keys."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escaped(label)}">{content}</div>'


def inline(text: str, name: str) -> str:
    """An SVG file as an element of a page: without its prolog, and with ids that no other figure has."""
    element = text[text.index("<svg") :]
    element = re.sub(r'\bid="', f'id="{name}-', element)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", element)


def _list(lines: Sequence[str], look: str = "small") -> str:
    return f'<ul class="{look}">{"".join(f"<li>{escaped(line)}</li>" for line in lines)}</ul>'
