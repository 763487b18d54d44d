"""Programs on disk, and what happens where there is none; what is in a program, ``traced_steps.py`` and
``compiled_steps.py`` test."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compiling import MEMBERS, difference, learner_of, train
from parts import random_batches

from sparserl.training import compiled, programs
from sparserl.training.programs import CacheError, Description


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------- the cache


def keep(key: str = "k", guards: Any = ()) -> None:
    programs.keep(key, Description(guards, [], ["loss"]), lambda library: library.write_text("library"))


def test_a_program_is_found_by_its_key_and_its_guards(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "load", lambda library: lambda tensors: library)
    keep(guards=[(["ge", "step", 10], True)])
    assert programs.find("k", {"step": 10}) is not None
    assert programs.find("k", {"step": 9}) is None
    assert programs.find("other", {"step": 10}) is None


def test_a_compilation_that_fails_leaves_nothing(cache: Path) -> None:
    def fail(library: Path) -> None:
        library.write_text("half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        programs.keep("k", Description([], [], []), fail)
    assert programs.find("k", {}) is None
    assert not any((cache / "sparserl" / "programs").iterdir())


def test_the_cache_is_the_users_own(cache: Path) -> None:
    keep()
    paths = [cache / "sparserl" / "programs", *(cache / "sparserl" / "programs").rglob("*")]
    assert len(paths) == 4
    for path in paths:
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


@pytest.mark.parametrize("pattern", [".", "k", "k/*.pt2", "k/*.json"])
def test_what_another_user_can_write_is_not_loaded(pattern: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "load", lambda library: lambda tensors: library)
    keep()
    root = cache / "sparserl" / "programs"
    (path,) = [root] if pattern == "." else root.glob(pattern)
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(CacheError, match="another user"):
        programs.find("k", {})


def test_what_another_user_owns_is_not_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep()
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(CacheError, match="another user"):
        programs.find("k", {})


# ---------------------------------------------------------------- where there is no program


@pytest.mark.parametrize("reason", ["no compiler", "a full disk", "a cache of another user"])
def test_what_cannot_be_compiled_runs_eagerly_and_says_so(
    reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if reason == "a full disk":
        monkeypatch.setattr(compiled, "Trace", fail)
    elif reason == "no compiler":
        monkeypatch.setenv("PATH", str(cache))
        monkeypatch.delenv("CXX", raising=False)
    else:
        (cache / "sparserl" / "programs").mkdir(parents=True)
        (cache / "sparserl").chmod(0o777)
    asked, eager = (learner_of("dqn", "l0", MEMBERS, is_compiled) for is_compiled in (True, False))
    for learner in (asked, eager):
        train(learner, random_batches(3, MEMBERS, 32))
    assert difference(asked, eager) == 0
    assert asked.backend == eager.backend == "eager"
    assert capsys.readouterr().err.count("run eagerly, since they cannot be compiled") == 1


# ---------------------------------------------------------------- what is in a program


def run_in_a_process(name: str, *arguments: str) -> None:
    """In one of its own: what checks annotations in these tests cannot be traced."""
    file = Path(__file__).with_name(name)
    environment = os.environ | {"PYTHONPATH": f"{file.parents[2]}:{file.parents[1]}"}
    command = [sys.executable, "-m", "pytest", "--noconftest", "-q", "-n", "0", *arguments, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_traced_steps() -> None:
    run_in_a_process("traced_steps.py", "-m", "not slow")


@pytest.mark.slow
def test_more_traced_steps() -> None:
    run_in_a_process("traced_steps.py", "-m", "slow")


@pytest.mark.slow
def test_compiled_steps() -> None:
    run_in_a_process("compiled_steps.py", "-m", "slow")
