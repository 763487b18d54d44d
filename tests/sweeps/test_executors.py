"""Work is done wherever it is, and what goes wrong stays with its own item."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from sparserl.sweeps.executors import slurm
from sparserl.sweeps.executors.base import Executor
from sparserl.sweeps.executors.inline import Inline
from sparserl.sweeps.executors.processes import Processes

ROOT = Path(__file__).parents[2]


def test_what_reads_a_group_in_another_process_knows_every_resolver_of_the_config() -> None:
    """A task of Slurm starts from what it unpickles: it imports the launcher, and not the command."""
    used = {name for path in (ROOT / "conf").rglob("*.yaml") for name in re.findall(r"\$\{(\w+):", path.read_text())}
    assert {"composed_folder", "of_total", "run_folder"} <= used
    used -= {"hydra"}  # which Hydra brings for each job
    code = (
        "import sparserl.sweeps.launcher, sys; from omegaconf import OmegaConf as O; print(*map(O.has_resolver, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *used]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name, known in zip(used, told.split(), strict=True) if known != "True"] == []


# what a worker imports again, in a module of its own: a process of pytest's would import pytest
WORK = """
import os, signal, sys, time
from pathlib import Path
from sparserl.training.interrupts import Interrupts

class TwoWordsError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")

class MuteError(Exception):
    def __str__(self):
        raise RuntimeError
    def __reduce__(self):
        raise RuntimeError

def work(item):
    what, value, *_ = item
    what = what.removesuffix(" too")
    if what == "raise":
        raise ValueError(value)
    if what == "raise what cannot be said":
        raise MuteError
    if what == "raise what cannot be read again":
        raise TwoWordsError("not", "one")
    if what == "give what cannot be sent":
        return lambda: value
    if what == "die":
        os.kill(os.getpid(), value)
        time.sleep(60)
    if what == "threads":
        import torch
        torch.ones(500, 500) @ torch.ones(500, 500)
        status = Path("/proc/self/status").read_text()
        return int(status.split("Threads:")[1].split()[0])
    if what == "hang":
        Path(value).with_suffix(".begun").write_text(str(os.getpid()))
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                Path(value).with_suffix(".ignored").touch()
    if what == "wait":  # as training does: it looks for signals now and then, and leaves a word when it is stopped
        place = Path(value)
        with Interrupts() as interrupts:
            place.with_suffix(".begun").write_text(str(os.getpid()))
            try:
                while True:
                    interrupts.check_interrupt()
                    time.sleep(0.01)
            except KeyboardInterrupt:
                place.with_suffix(".stopped").touch()
                raise
    return value, os.getpid()
"""

PROGRAM = """
import sys
from pathlib import Path
from sparserl.sweeps.executors.processes import Processes
from work import work

if __name__ == "__main__":
    items = [(sys.argv[2], f"{sys.argv[1]}/{number}", bytes(10_000_000)) for number in range(3)]
    try:
        Processes(2).execute(work, items, "abc")
    except KeyboardInterrupt as interrupt:
        sys.exit(100 + sum(interrupt.args))
"""


IMPORTS = """
import os, time
from pathlib import Path

if __name__ != "__main__":
    (Path(__file__).parent / f"{os.getpid()}.importing").touch()
    while not (Path(__file__).parent / "imported").exists():
        time.sleep(0.02)
"""
"""Of a worker, which come to their end when a file says so."""


@pytest.fixture(scope="module", autouse=True)
def _work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("work")
    (folder / "work.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    sys.modules.pop("work", None)


def do(executor: Executor, items: Sequence[tuple[str, object]]) -> list[object]:
    from work import work

    return executor.execute(work, items, [what for what, _ in items])


ITEMS: dict[str, object] = {
    "give": 1,
    "raise": "mine",
    "raise what cannot be read again": None,
    "raise what cannot be said": None,
    "give what cannot be sent": 2,
    "threads": None,
    "give too": 3,
}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What came of items of every kind in two processes; they cost seconds to start, so once for several tests."""
    return dict(zip(ITEMS, do(Processes(2), list(ITEMS.items())), strict=True))


def test_what_raises_in_this_process_stands_in_its_own_place() -> None:
    first, error, last = do(Inline(), [("give", 1), ("raise", "mine"), ("give", 3)])
    assert (first, last) == ((1, os.getpid()), (3, os.getpid()))
    assert isinstance(error, ValueError)
    assert str(error) == "mine"


def test_what_raises_in_another_process_stands_in_its_own_place(found: dict[str, Any]) -> None:
    assert isinstance(found["raise"], ValueError)
    assert str(found["raise"]) == "mine"
    assert (found["give"][0], found["give too"][0]) == (1, 3)


def test_what_cannot_be_sent_is_said_in_words(found: dict[str, Any]) -> None:
    """An exception that pickle writes and cannot read, one that has no words, and a result that pickle cannot even write."""
    assert str(found["raise what cannot be said"]) == "MuteError"
    assert str(found["raise what cannot be read again"]) == "TwoWordsError: not one"
    assert "lambda" in str(found["give what cannot be sent"])


def test_processes_have_one_thread_for_work_and_one_for_the_parent(found: dict[str, Any]) -> None:
    assert found["threads"] == 2, "a library has begun threads of its own"


def test_processes_are_used_again_and_leave_with_the_last_item() -> None:
    pids = {pid for _, pid in do(Processes(1), [("give", number) for number in range(5)])}  # type: ignore[misc]
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert not any(map(is_alive, pids))


def test_a_process_that_is_killed_takes_only_its_own_item_along() -> None:
    items = [("die", signal.SIGKILL), ("die too", signal.SIGTERM), ("give", 2)]
    threads = threading.active_count()
    died, ended, last = do(Processes(1), items)
    assert str(died) == "the process of die was ended by signal SIGKILL"
    assert str(ended) == "the process of die too was ended by signal SIGTERM"
    assert last[0] == 2  # type: ignore[index]
    assert multiprocessing.active_children() == []
    assert threading.active_count() == threads


def test_an_item_that_cannot_be_sent_leaves_no_process() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        do(Processes(1), [("give", lambda: 1)])
    assert multiprocessing.active_children() == []


def test_nothing_to_do_starts_nothing() -> None:
    assert do(Processes(None), []) == []


def start(folder: Path, what: str, imports: str = "") -> subprocess.Popen[str]:
    """A program with two workers and three items, in a process group of its own as a terminal would start it."""
    (folder / "work.py").write_text(WORK)
    (folder / "program.py").write_text(imports + PROGRAM)
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{folder}"}
    command = [sys.executable, folder / "program.py", folder, what]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def begin(folder: Path, what: str = "wait") -> tuple[subprocess.Popen[str], list[int]]:
    """The same, once both workers have begun; their process numbers."""
    program = start(folder, what)
    until(lambda: len([path for path in folder.glob("*.begun") if path.read_text()]) == 2)
    return program, [int(path.read_text()) for path in folder.glob("*.begun")]


def until(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
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


def test_workers_start_together_and_control_c_while_they_do_is_quiet(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the workers too, in the middle of their imports.

    The items are more than a pipe has room for: sent before the second worker is started, the first item would keep that
    waiting for the imports of the first worker.
    """
    program = start(tmp_path, "wait", IMPORTS)
    until(lambda: len(list(tmp_path.glob("*.importing"))) == 2)
    os.killpg(program.pid, signal.SIGINT)
    (tmp_path / "imported").touch()
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 100 + signal.SIGINT, errors
    assert errors == ""


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    program, workers = begin(tmp_path, "hang")
    program.send_signal(signal.SIGINT)
    until(lambda: len(list(tmp_path.glob("*.ignored"))) == 2)
    assert all(map(is_alive, (program.pid, *workers))), "what hangs does not react to the first"
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=60)
    assert not any(map(is_alive, workers))


def test_workers_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    program, workers = begin(tmp_path)
    program.kill()
    until(lambda: not any(map(is_alive, workers)))
    assert len(list(tmp_path.glob("*.stopped"))) == 2


@pytest.mark.parametrize("executor", [Inline(), Processes(3)], ids=["inline", "processes"])
def test_the_number_of_workers_is_that_of_what_works_at_once(executor: Executor) -> None:
    assert executor.workers == (3 if isinstance(executor, Processes) else 1)


def test_where_the_system_does_not_say_which_cores_are_ours_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where `make demo` ended in an AttributeError."""
    assert Processes(None).workers == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert Processes(None).workers == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert Processes(None).workers == 1


AS_ON_MACOS = """
import os
del os.sched_getaffinity, os.sched_setaffinity
"""
"""A sitecustomize.py: in every process that is started."""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["bench.py", "--help"], id="bench"),
        pytest.param(["bench_sweeps.py", "--help"], id="bench_sweeps"),
        pytest.param(
            ["demo.py", "trainer=smoke", "lowrank.ranks=[1]", "network.hidden=[8]"], id="demo", marks=pytest.mark.slow
        ),
    ],
)
def test_scripts_start_where_cores_cannot_be_asked_for(command: list[str], tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    (tmp_path / "sitecustomize.py").write_text(AS_ON_MACOS)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"}
    script, *arguments = command
    done = subprocess.run(
        [sys.executable, root / "scripts" / script, *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    if script == "demo.py":
        assert (tmp_path / "outputs/demo/figures/comparison.png").exists()


def test_a_measurement_runs_unpinned_where_that_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    import bench

    before = os.sched_getaffinity(0)
    try:
        bench.pin([max(before)])
        assert os.sched_getaffinity(0) == {max(before)}
    finally:
        os.sched_setaffinity(0, before)
    monkeypatch.delattr(os, "sched_setaffinity")
    bench.pin([max(before)])


def test_a_task_that_failed_without_a_word_is_said_to_have(tmp_path: Path) -> None:
    path = tmp_path / "result.pkl"
    task = SimpleNamespace(paths=SimpleNamespace(result_pickle=path), job_id="7_0")
    for traceback, reason in (
        ("Traceback\n ValueError: made to fail\n", "ValueError: made to fail"),
        (" \n", "it does not say why"),
    ):
        path.write_bytes(pickle.dumps(("error", traceback)))
        assert str(slurm._result(task, "name")).endswith(f"(name) failed: {reason}")
