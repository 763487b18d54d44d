"""Programs that are run as they were traced, without a compiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparserl.training import compiled, programs
from sparserl.training.compiled import Trace


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def as_traced(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Trace]:
    """Programs are run as they were traced, without a compiler. Gives the traces that were made."""
    made: list[Trace] = []

    def compile_to(trace: Trace, library: Path) -> None:
        library.write_text(str(len(made)))
        made.append(trace)

    def load(library: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        module = made[int(library.read_text())].module()

        def run(tensors: list[Tensor]) -> list[Tensor]:
            assert all(tensor.is_contiguous() for tensor in tensors), "what is compiled would read other numbers"
            with torch.no_grad():
                return list(module(*tensors))

        return run

    monkeypatch.setattr(Trace, "compile_to", compile_to)
    monkeypatch.setattr(programs, "load", load)
    monkeypatch.setattr(compiled, "has_compiler", lambda: True)
    return made
