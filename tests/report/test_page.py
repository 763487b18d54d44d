"""The page: self-contained, and everything from outside is text in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from folders import NASTY, made_up, unfinished

from sparserl.report import page, writer
from sparserl.report.__main__ import main
from sparserl.report.figures import catalogue
from sparserl.terminal import plain

EVIL = {
    "script": "<script>alert(1)</script>",
    "quotes": "\"' onload=alert(1) x='",
    "closing": "</td></table></svg><img src=http://example.org/x>",
    "entity": "&lt;b&gt; &amp;",
}
ADDRESSES = {"src", "srcset", "href", "xlink:href", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """What a browser would find in a page: elements with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(autouse=True)
def _one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FIGURES", {"wall_time": catalogue.FIGURES["wall_time"]})
    monkeypatch.setattr(writer, "FORMATS", (".svg",))


def reported(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    monkeypatch.setattr(sys, "argv", ["sparserl-report", str(folder)])
    main()
    return (folder / "report.html").read_text("utf-8")


@pytest.mark.parametrize("text", [*EVIL.values(), *NASTY.values()], ids=[*EVIL, *NASTY])
def test_what_comes_from_outside_is_text(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the name of a regulariser and an environment, in an error and in a command; nothing of it becomes an element."""
    made_up(tmp_path / "a", regularizer=text, environment=text, command=text)
    unfinished(tmp_path / "b", "failed", f"Traceback\n{text}", seed=1, regularizer=text, environment=text)
    evil = Page(reported(monkeypatch, tmp_path))
    made_up(tmp_path / "harmless" / "a", regularizer="l0", environment="cartpole", command="typed")
    unfinished(tmp_path / "harmless" / "b", "failed", "Traceback\nerror", seed=1, regularizer="l0", environment="cartpole")
    harmless = Page(reported(monkeypatch, tmp_path / "harmless"))

    def outside_of_figures(found: Page) -> list[tuple[str, tuple[str, ...]]]:
        shapes = {"g", "path", "use", "defs", "clippath", "rect", "style"}  # letters are drawn, others with other text
        return [(tag, tuple(attributes)) for tag, attributes in found.elements if tag not in shapes]

    assert outside_of_figures(evil) == outside_of_figures(harmless)
    if len(text) < 100:
        assert plain(text) in evil.text


def test_a_run_whose_folder_is_a_script_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished(tmp_path / "<script>alert(1)<" / "b", "running", seed=1)
    made_up(tmp_path / "a")
    found = Page(reported(monkeypatch, tmp_path))
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert "<script>alert(1)</b: running at step 7 of 20" in found.text


def test_nothing_is_asked_of_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(tmp_path / "a")
    text = reported(monkeypatch, tmp_path)
    found = Page(text)
    for tag, attributes in found.elements:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base", "image"}
        for name in ADDRESSES & {*attributes}:
            assert (attributes[name] or "").startswith("#"), "only places of the page itself"
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|\bimport\b", text)
    (policy,) = [at["content"] for _, at in found.elements if at.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")


def test_places_that_are_referred_to_are_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to tables and figures, and what figures use of themselves: glyphs, markers, clips."""
    monkeypatch.setattr(writer, "FIGURES", {name: catalogue.FIGURES[name] for name in ("wall_time", "return_by_sparsity")})
    made_up(tmp_path / "a")
    text = reported(monkeypatch, tmp_path)
    found = Page(text)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    used = {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)}
    assert {"main", "wall_time", "return_by_sparsity"} < used <= {*ids}


def test_every_column_can_be_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(tmp_path / "a")
    found = Page(reported(monkeypatch, tmp_path))
    tags = [tag for tag, _ in found.elements]
    assert tags.count("button") == tags.count("th") > 20


DOM = """
const row = text => ({ cells: [{ textContent: text }] });
const body = { rows: ["10.5 [1, 2]", "-", "9", "-3.2"].map(row) };
body.append = r => { body.rows.push(body.rows.splice(body.rows.indexOf(r), 1)[0]); };
const attributes = {};
const head = { cellIndex: 0, getAttribute: n => attributes[n], setAttribute: (n, v) => { attributes[n] = v; },
  removeAttribute: n => { delete attributes[n]; }, closest: () => ({ tBodies: [body] }) };
head.parentElement = { children: [head] };
let click;
const document = { querySelectorAll: () => [{ parentElement: head, addEventListener: (_, f) => { click = f; } }] };
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_a_click_sorts_by_number_and_another_one_the_other_way() -> None:
    """In a stand-in of a browser's document: what is not known stays last."""
    show = "console.log(JSON.stringify([body.rows.map(r => r.cells[0].textContent), attributes['aria-sort']]));"
    code = f"{DOM}{page.SCRIPT}click();{show}click();{show}"
    done = subprocess.run(["node", "-e", code], capture_output=True, check=True, text=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [["-3.2", "9", "10.5 [1, 2]", "-"], "ascending"],
        [["10.5 [1, 2]", "9", "-3.2", "-"], "descending"],
    ]
