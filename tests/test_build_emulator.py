"""``scripts/build_emulator.py``: a faster emulator is installed where it plays the same game, only there. pip is faked."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import build_emulator


@pytest.fixture
def pip(monkeypatch):
    """The commands that pip was asked for. What it makes are empty files."""
    asked = []

    def pip(*arguments, flags=""):
        asked.append(" ".join((*arguments, flags)))
        if arguments[0] == "download":
            folder = Path(arguments[arguments.index("--dest") + 1])
            (folder / "nes_py-9.0.1.tar.gz").touch()
            (folder / "source").mkdir()
        if arguments[0] == "wheel":
            folder = Path(arguments[arguments.index("--wheel-dir") + 1])
            folder.mkdir()
            (folder / f"{folder.name}.whl").touch()

    installed = SimpleNamespace(version="9.0.1", read_text=lambda name: None)
    monkeypatch.setattr(build_emulator, "pip", pip)
    monkeypatch.setattr(build_emulator.importlib.metadata, "distribution", {"nes-py": installed}.__getitem__)
    return asked


def played(monkeypatch, fast, installed=("a", 5.0)):
    """The digest of the game and the seconds, with either emulator."""
    found = {"profiled": ("a", 9.0), "fast": fast, None: installed}
    monkeypatch.setattr(
        build_emulator,
        "played_by",
        lambda folder: dict(zip(("digest", "seconds"), found[folder and folder.name], strict=True)),
    )


def test_the_emulator_that_plays_the_same_game_faster_is_installed(pip, monkeypatch, capsys):
    """The wheel that was compared, and no other."""
    played(monkeypatch, fast=("a", 2.0))
    build_emulator.main()

    assert "nes-py==9.0.1" in pip[0], "another version would be another game"
    assert ["fprofile-generate" in command for command in pip] == [False, True, False, False, False, False]
    assert ["fprofile-use" in command for command in pip] == [False, False, False, True, False, False]
    assert ["--force-reinstall" in command for command in pip] == [False] * 5 + [True]
    assert pip[4].split()[1] == pip[5].split()[1], "the last two install the same file"
    assert "2.5 times as fast" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fast", "sentence"), [(("b", 2.0), "does not play the same game"), (("a", 5.0), "the new one is not faster")]
)
def test_another_is_not_installed(fast, sentence, pip, monkeypatch):
    played(monkeypatch, fast)

    with pytest.raises(SystemExit, match=sentence):
        build_emulator.main()
    assert not any("--force-reinstall" in command for command in pip)


def test_without_a_compiler_the_emulator_stays(pip, monkeypatch):
    def fail(folder):
        return build_emulator.run([sys.executable, "-c", "import sys; sys.exit('no g++')"], {})

    monkeypatch.setattr(build_emulator, "played_by", fail)

    with pytest.raises(SystemExit, match="stays as pip built it: no g\\+\\+"):
        build_emulator.main()
    assert not any("--force-reinstall" in command for command in pip)


def test_nothing_is_built_twice_or_without_an_emulator(pip, monkeypatch, capsys):
    built = SimpleNamespace(version="9.0.1", read_text=lambda name: "{}")
    monkeypatch.setattr(build_emulator.importlib.metadata, "distribution", lambda name: built)
    build_emulator.main()
    assert "before" in capsys.readouterr().out

    def missing(name):
        raise build_emulator.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(build_emulator.importlib.metadata, "distribution", missing)
    with pytest.raises(SystemExit, match="make install-mario"):
        build_emulator.main()
    assert pip == []
