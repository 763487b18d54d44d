"""Work is done wherever it is, and what goes wrong stays with its own item."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparserl.executors.base import Executor
from sparserl.executors.inline import Inline
from sparserl.executors.processes import Processes

# what a worker imports again, in a module of its own: a process of pytest's would import pytest
WORK = """
import os, signal, sys, time
from pathlib import Path
from sparserl import process

def work(item):
    what, value = item
    if what == "raise":
        raise ValueError(value)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":  # as training does: it looks for signals now and then, and leaves a word when it is stopped
        place = Path(value)
        with process.Interrupts() as interrupts:
            place.with_suffix(".begun").write_text(str(os.getpid()))
            try:
                while True:
                    interrupts.heed()
                    time.sleep(0.01)
            except KeyboardInterrupt:
                place.with_suffix(".stopped").touch()
                raise
    return value, os.getpid()
"""

PROGRAM = """
import sys
from pathlib import Path
from sparserl.executors.processes import Processes
from work import work

if __name__ == "__main__":
    items = [("wait", f"{sys.argv[1]}/{number}") for number in range(3)]
    try:
        Processes(2).execute(work, items, "abc")
    except KeyboardInterrupt as interrupt:
        sys.exit(100 + interrupt.args[0])
"""


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("work", None)


def do(executor: Executor, items: list[tuple[str, object]]) -> list[object]:
    from work import work

    return executor.execute(work, items, [f"item {number}" for number in range(len(items))])


@pytest.mark.parametrize("executor", [Inline(), Processes(2)], ids=["inline", "processes"])
def test_what_raises_stands_in_its_own_place(executor: Executor) -> None:
    first, error, last = do(executor, [("give", 1), ("raise", "mine"), ("give", 3)])
    assert (first[0], last[0]) == (1, 3)  # type: ignore[index]
    assert isinstance(error, ValueError)
    assert str(error) == "mine"


def test_processes_are_used_again_and_the_order_is_that_of_the_items() -> None:
    found = do(Processes(2), [("give", number) for number in range(7)])
    assert [value for value, _ in found] == list(range(7))  # type: ignore[misc]
    assert os.getpid() not in {pid for _, pid in found}  # type: ignore[misc]
    assert len({pid for _, pid in found}) <= 2  # type: ignore[misc]


def test_a_process_that_is_killed_takes_only_its_own_item_along() -> None:
    before, died, *after = do(Processes(1), [("give", 0), ("die", None), ("give", 2), ("give", 3)])
    assert str(died) == "the process of item 1 was ended by signal SIGKILL"
    assert [found[0] for found in (before, *after)] == [0, 2, 3]  # type: ignore[index]


def test_nothing_to_do_starts_nothing() -> None:
    assert do(Processes(None), []) == []


def begin(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A program with two workers of which both have begun to wait; the workers' process numbers."""
    (folder / "program.py").write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{folder}"}
    program = subprocess.Popen(
        [sys.executable, folder / "program.py", folder], env=environment, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(list(folder.glob("*.begun"))) == 2)
    return program, [int(path.read_text()) for path in folder.glob("*.begun")]


def until(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_is_under_way_in_order_and_begins_nothing_new(number: signal.Signals, tmp_path: Path) -> None:
    program, workers = begin(tmp_path)
    program.send_signal(number)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 100 + number, errors
    assert sorted(path.name for path in tmp_path.glob("*.stopped")) == ["0.stopped", "1.stopped"]
    assert not (tmp_path / "2.begun").exists()
    assert not any(map(is_alive, workers))
    assert "Traceback" not in errors


def test_workers_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    program, workers = begin(tmp_path)
    program.kill()
    program.communicate()
    until(lambda: not any(map(is_alive, workers)))
    assert len(list(tmp_path.glob("*.stopped"))) == 2


@pytest.mark.parametrize("executor", [Inline(), Processes(3)], ids=["inline", "processes"])
def test_the_number_of_loads_is_that_of_what_works_at_once(executor: Executor) -> None:
    assert executor.workers == (3 if isinstance(executor, Processes) else 1)
