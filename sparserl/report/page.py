"""A report as one HTML file: it opens from a disk, asks nobody for anything, and shows text from outside as text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence

from sparserl.report.markup import html_escaped as escaped
from sparserl.report.table import Table

STYLE = """
:root { color-scheme: light; font: 15px/1.5 system-ui, sans-serif; color: #222; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem 2rem 4rem; }
h1, h2 { line-height: 1.2; }
h2 { border-top: 1px solid #ddd; margin-top: 2.5rem; padding-top: 1.5rem; }
nav a { margin-right: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #e5e5e5; padding: 0.25rem 0.6rem; text-align: left; white-space: nowrap; }
th { background: #f5f5f5; position: sticky; top: 0; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid #0072b2; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tbody tr:hover { background: #f0f6fb; }
svg { height: auto; max-width: 100%; }
code { font-size: 12px; overflow-wrap: anywhere; }
.caption, summary { color: #555; font-size: 13px; max-width: 70rem; }
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


def page(
    title: str, tables: Sequence[Table], figures: Mapping[str, str], made_with: Sequence[str], skipped: Sequence[str]
) -> str:
    """The page. ``figures`` are SVG files as text by name; ``made_with`` and ``skipped`` are lines of plain text.

    Its security policy forbids every request and every script but the one that sorts tables.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = [*(table.name for table in tables), *figures]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escaped(title)}</h1>",
        "<nav>",
        *(f'<a href="#{escaped(name)}">{escaped(_words(name))}</a>' for name in links),
        "</nav>",
        *map(_table, tables),
        *(_figure(name, text) for name, text in figures.items()),
        "<h2>How this was made</h2>",
        _list(made_with),
        f"<p>Not made:</p>{_list(skipped)}" if skipped else "",
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col"><button type="button">{escaped(header)}</button></th>' for header in table.cells[0])
    rows = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row.values())}</tr>\n" for row in table.cells)
    notes = f"<details><summary>Missing: {len(table.notes)}</summary>{_list(table.notes)}</details>" if table.notes else ""
    head = f'<section><h2 id="{escaped(table.name)}">{escaped(table.title)}</h2>'
    body = f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>'
    return f'{head}\n{body}<p class="caption">{escaped(table.caption)}</p>{notes}</section>'


def _figure(name: str, text: str) -> str:
    words = escaped(_words(name))
    label = f'<svg role="img" aria-label="{words}"'
    return f'<section><h2 id="{escaped(name)}">{words}</h2>\n{inline(text, name).replace("<svg", label, 1)}</section>'


def inline(text: str, name: str) -> str:
    """An SVG file as an element of a page: without its prolog, and with ids that no other figure has."""
    element = text[text.index("<svg") :]
    element = re.sub(r'\bid="', f'id="{name}-', element)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", element)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li><code>{escaped(line)}</code></li>' for line in lines)}</ul>"


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
