"""``scripts/build_emulator.py``: a faster emulator is installed where it plays the same game, only there. pip is faked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import build_emulator


@pytest.fixture
def pip(monkeypatch):
    """The commands that pip was asked for."""
    asked = []

    def pip(*arguments, flags=""):
        asked.append(" ".join((*arguments, flags)))
        if arguments[0] == "download":
            folder = Path(arguments[arguments.index("--dest") + 1])
            (folder / "nes_py-9.0.1.tar.gz").touch()
            (folder / "source").mkdir()

    monkeypatch.setattr(build_emulator, "pip", pip)
    monkeypatch.setattr(build_emulator.importlib.metadata, "version", {"nes-py": "9.0.1"}.get)
    return asked


def digests(monkeypatch, profiled, fast, installed):
    played = {"profiled": (profiled, 9.0), "fast": (fast, 2.0), "installed": (installed, 5.0)}
    monkeypatch.setattr(build_emulator, "played_by", lambda folder: played[folder.name if folder else "installed"])


def test_the_emulator_that_plays_the_same_game_is_installed(pip, monkeypatch, capsys):
    digests(monkeypatch, profiled="a", fast="a", installed="a")
    build_emulator.main()

    assert "nes-py==9.0.1" in pip[0], "another version would be another game"
    assert ["fprofile-generate" in command for command in pip[1:]] == [True, False, False]
    assert ["--force-reinstall" in command for command in pip] == [False, False, False, True]
    assert "2.5 times as fast" in capsys.readouterr().out


def test_one_that_plays_another_game_is_not_installed(pip, monkeypatch):
    digests(monkeypatch, profiled="a", fast="b", installed="a")

    with pytest.raises(SystemExit, match="does not play the same game"):
        build_emulator.main()
    assert not any("--force-reinstall" in command for command in pip)


def test_without_a_compiler_the_emulator_stays(pip, monkeypatch):
    def fail(folder):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(build_emulator, "played_by", fail)

    with pytest.raises(SystemExit, match="stays as pip built it"):
        build_emulator.main()
    assert not any("--force-reinstall" in command for command in pip)
