"""A headless Chromium, driven over a pipe with the DevTools protocol: https://chromedevtools.github.io/devtools-protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
"""None where no browser is installed."""

FLAGS = (
    "--headless",
    "--no-sandbox",  # it would not start as root, nor where namespaces are forbidden
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--remote-debugging-pipe",
)

LONGEST = 300
"""Seconds after which a browser is ended, so that a test fails and does not hang."""


class Browser:
    """One page. What happens in it is kept in ``events``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.requests, self.answers = process.stdin, process.stdout
        self.events: list[dict[str, Any]] = []
        self.buffer = b""
        self.count = 0
        self.session: dict[str, str] = {}
        (target,) = [found for found in self.call("Target.getTargets")["targetInfos"] if found["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command; returns its result."""
        self.count += 1
        self.requests.write(
            json.dumps({"id": self.count, "method": method, "params": parameters} | self.session).encode() + b"\0"
        )
        self.requests.flush()
        while (message := self._read()).get("id") != self.count:
            self.events.append(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = self.answers.read1(1 << 20)  # type: ignore[attr-defined]
            assert part, "the browser has ended"
            self.buffer += part
        first, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message

    def open(self, path: Path, width: int) -> None:
        """Load a file in a window of this width in CSS pixels; returns when it has been loaded."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        self.call("Page.navigate", url=path.as_uri())
        while not self.happened("Page.loadEventFired"):
            self.events.append(self._read())

    def happened(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every event of a kind since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the context."""
    assert PROGRAM is not None
    # the protocol is spoken on the descriptors 3 and 4
    command = ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', PROGRAM, *FLAGS]
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        timer = Timer(LONGEST, process.kill)
        timer.start()
        try:
            page = Browser(process)
            yield page
            page.session = {}
            page.call("Browser.close")
            process.wait(10)
        finally:
            timer.cancel()
            process.kill()
            process.communicate()
