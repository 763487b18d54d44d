"""What the Makefile asks pip for, on a machine whose programs only write down how they were called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


class Machine:
    """A checkout, and the only folder of programs that make finds: grep, and what a test adds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "machine"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        self.programs.mkdir()
        for name in ("grep", "touch"):
            self.link(name)
        (folder / ".venv" / "bin").mkdir(parents=True)
        self.add(folder / ".venv" / "bin" / "python")

    def link(self, name: str) -> None:
        (self.programs / name).symlink_to(shutil.which(name) or "missing")

    def add(self, program: Path) -> None:
        """A program that writes its arguments down, a line for each call."""
        program.write_text('#!/bin/sh\necho "$@" >>asked\n')
        program.chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [shutil.which("make") or "make", *arguments]
        environment = {"PATH": str(self.programs)}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def asked(self) -> list[str]:
        """The arguments of each call."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("compiler", [None, "g++", "c++", "clang++"])
def test_mario_without_a_compiler_is_one_sentence_before_anything_is_installed(machine: Machine, compiler: str | None) -> None:
    (machine.folder / ".venv" / ".installed").touch()
    if compiler:
        machine.add(machine.programs / compiler)
    done = machine.make("install-mario")
    if compiler:
        assert done.returncode == 0, done.stderr
        assert "nes-py" in "\n".join(machine.asked())
    else:
        assert done.returncode == 2
        said, _ = done.stderr.splitlines()  # the other is make's own
        assert said == "Super Mario Bros needs a C++ compiler, and none is there: sudo apt-get install g++"
        assert not machine.asked()


@pytest.mark.parametrize("index", [None, "https://example.org/cpu"])
def test_torch_comes_first_at_its_pinned_version_and_from_an_index_of_its_own_if_one_is_given(
    machine: Machine, index: str | None
) -> None:
    machine.add(machine.programs / "python3")
    done = machine.make("install", *([f"TORCH_INDEX={index}"] if index else ()))
    assert done.returncode == 0, done.stderr
    (pinned,) = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    torch, sparserl = (line for line in machine.asked() if "pip install" in line)
    _, _, wanted = torch.partition("constraints.txt ")
    assert wanted == (f"{pinned} --index-url {index}" if index else pinned)
    assert sparserl.endswith("--editable .[dev]")
    assert (index or "index-url") not in sparserl
