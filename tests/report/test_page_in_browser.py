"""The page in a real browser: it asks nobody for anything, runs no script of a name, and fits a phone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Browser, browser
from folders import made_up, unfinished

from sparserl.report import building, writer
from sparserl.report.__main__ import main
from sparserl.report.figures import catalogue

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs chromium or google-chrome")

SCRIPT = "<script>document.title = 'ran'; alert(1)</script>"
ELEMENTS = "</td></table></svg><img src=http://example.org/x onerror=alert(2)><style>body { width: 9999px }</style>"
LONG = "x" * 200
PHONE, DESKTOP = 390, 1280  # CSS pixels


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with names that are markup, an error, a command, long names without a space, and tables wider than any window."""
    folder = tmp_path_factory.mktemp("page")
    made_up(folder / "a", regularizer=SCRIPT, command=ELEMENTS, return_mean=9.0, csr_bytes=64)
    made_up(folder / "b", regularizer=LONG, command=LONG, return_mean=100.0, csr_bytes=64)
    made_up(folder / "c", regularizer="none", lambda_c=None, return_mean=-3.0, sparsity=0.0, csr_bytes=64)
    unfinished(folder / "<script>alert(3)<" / "d", "failed", f"Traceback\n{SCRIPT}{ELEMENTS}", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        names = ("comparison", "return_by_stored")  # the widest
        patch.setattr(writer, "FIGURES", {name: catalogue.FIGURES[name] for name in names})
        patch.setattr(writer, "FORMATS", (".svg",))
        patch.setattr(sys, "argv", ["sparserl-report", str(folder)])
        main()
    return folder / building.PAGE


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module", params=[DESKTOP, PHONE])
def opened(report: Path, chromium: Browser, request: pytest.FixtureRequest) -> Browser:
    """A browser in which the page has been loaded; the tests leave it as it is, but for the order of rows."""
    chromium.open(report, request.param)
    return chromium


def requests(of: Browser) -> dict[str, str]:
    """The addresses that were asked for, by the number of the request."""
    return {sent["requestId"]: sent["request"]["url"] for sent in of.happened("Network.requestWillBeSent")}


def test_no_request_leaves_the_file_and_no_script_of_a_name_runs(opened: Browser, report: Path) -> None:
    assert [*requests(opened).values()] == [report.as_uri()]
    assert not opened.happened("Page.javascriptDialogOpening"), "an alert"
    assert not opened.happened("Log.entryAdded"), "what the security policy refuses would be here"
    assert not opened.happened("Runtime.exceptionThrown")
    assert opened.evaluate("document.title") == "dqn, cartpole: 4 runs"
    assert opened.evaluate("document.scripts.length") == 1, "the one that sorts tables"
    text = opened.evaluate("document.body.textContent")
    assert SCRIPT in text
    assert ELEMENTS in text


def test_the_security_policy_would_stop_what_was_not_escaped(report: Path, tmp_path: Path) -> None:
    """A negative control: the same page with the markup of the names as markup."""
    path = tmp_path / "unescaped.html"
    path.write_text(report.read_text("utf-8").replace("<main>", f"<main>{SCRIPT}{ELEMENTS}", 1), "utf-8")
    with browser() as own:
        own.open(path, DESKTOP)
        assert own.evaluate("[document.scripts.length, document.images.length]") == [2, 1]
        assert own.evaluate("document.title") == "dqn, cartpole: 4 runs"
        assert own.happened("Log.entryAdded")
        assert not own.happened("Page.javascriptDialogOpening")
        blocked = {failed["requestId"] for failed in own.happened("Network.loadingFailed") if failed["blockedReason"] == "csp"}
        assert {url for number, url in requests(own).items() if number not in blocked} == {path.as_uri()}


def test_the_page_is_as_wide_as_the_window_and_what_is_wider_scrolls_in_its_box(opened: Browser) -> None:
    root = "document.documentElement"
    content, inner = opened.evaluate(f"[{root}.scrollWidth, {root}.clientWidth]")  # without the scroll bar of the window
    assert content == inner
    box = "[box.scrollWidth > box.clientWidth, box.getBoundingClientRect().right]"
    scrolls, ends = zip(*opened.evaluate(f"[...document.querySelectorAll('.wide')].map(box => {box})"), strict=True)
    assert max(ends) <= inner
    assert any(scrolls), "a name of 200 letters fits no window"
    assert inner != PHONE or all(scrolls), "a figure is not made so small that its letters cannot be read"


def test_every_figure_is_drawn_and_has_a_description(opened: Browser) -> None:
    figure = "[image.getBBox().width, image.getBoundingClientRect().height, image.getAttribute('aria-label')]"
    found = opened.evaluate(f"[...document.querySelectorAll('svg')].map(image => {figure})")
    assert len(found) == 2
    for natural_width, height, label in found:
        assert natural_width > 100
        assert height > 100
        assert len(label) > 50
    assert opened.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_the_summary_is_first_and_every_link_leads_to_its_heading(opened: Browser) -> None:
    headings = opened.evaluate("[...document.querySelectorAll('h2')].map(heading => heading.textContent)")
    assert headings[0] == "Summary"
    assert headings[-1] == "How this was made"
    led = (
        "[...document.querySelectorAll('nav a')].map(link => [link.textContent, document.querySelector(link.hash).textContent])"
    )
    assert opened.evaluate(led) == [[heading, heading] for heading in headings]


def test_a_click_sorts_by_number_and_another_one_the_other_way(opened: Browser) -> None:
    opened.evaluate("window.head = [...document.querySelectorAll('th')].find(head => head.textContent === 'return'); 0")
    cells = "[...head.closest('table').tBodies[0].rows].map(row => row.cells[head.cellIndex].textContent)"
    click = f"head.querySelector('button').click(); [head.ariaSort, {cells}]"
    assert opened.evaluate(click) == ["ascending", ["-3.0", "9.0", "100.0", "-"]]
    assert opened.evaluate(click) == ["descending", ["100.0", "9.0", "-3.0", "-"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_links_stand_out_in_light_and_dark(scheme: str, opened: Browser) -> None:
    """A contrast of at least 4.5, which WCAG 2.2 asks for (success criterion 1.4.3); figures keep their white ground."""
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def luminance(selector: str, of: str) -> float:
        colour = opened.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{of}")
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue  # relative luminance, 0 to 1

    for selector, ground in {"body": "body", "nav a": "body", ".caption": "body", "th button": "th"}.items():
        low, high = sorted((luminance(selector, "color"), luminance(ground, "backgroundColor")))
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    assert (luminance("body", "backgroundColor") < 0.5) == (scheme == "dark")
    assert luminance("svg", "backgroundColor") == 1
