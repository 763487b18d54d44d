"""A multirun in the process of a test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from launching import SMOKE, Sweep

from sparserl import terminal
from sparserl.train import main


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """``python -m sparserl.train`` with the smoke settings, in this process and without pictures; the sweep's folder."""
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
    terminal.say_once.cache_clear()

    def start(*overrides: str, folder: str = "here") -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setattr(sys, "argv", ["sparserl-train", *SMOKE, *overrides])
        main()
        return tmp_path / folder / "outputs/mine"

    return start
