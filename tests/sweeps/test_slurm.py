"""Sweeps on Slurm, on a real one of two nodes on this machine: whatever it does to a task, what comes out is the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from multiruns import LONG, ROOT, begin, outcome, sweep, wait_for

from sparserl.runs.files import read_json
from sparserl.sweeps.executors.slurm import Slurm, SlurmError

SETTINGS = yaml.safe_load((ROOT / "conf/hydra/launcher/population.yaml").read_text())["slurm"]
SLURM = ("hydra.launcher.executor=slurm", "hydra.launcher.slurm.mem_gb=1")
ALONE = "hydra.launcher.max_members=1"

# ---------------------------------------------------------------- without one


def test_without_submitit_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SlurmError, match=r"pip install 'sparserl\[slurm\]'"):
        Slurm(tmp_path, SETTINGS)


def test_without_slurm_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="slurm cluster"):
        Slurm(tmp_path, SETTINGS)


def test_a_parameter_that_submitit_does_not_know_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srun").touch(mode=0o755)  # by which submitit knows Slurm
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="slurm_partitoin") as raised:
        Slurm(tmp_path, SETTINGS | {"more": {"slurm_partitoin": "gpu"}})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["nodes", "tasks_per_node", "slurm_nodes", "slurm_ntasks_per_node"])
def test_several_processes_for_one_population_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SlurmError, match=rf"slurm\.more\.{key} cannot be used: a population is one task"):
        Slurm(tmp_path, SETTINGS | {"more": {key: 2}})


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sparserl.sweeps.executors.slurm._queue", lambda: None)
    executor = Slurm(tmp_path / "a file", SETTINGS)
    (tmp_path / "a file").touch()
    with pytest.raises(SlurmError, match=r"a file.* cannot be written: Not a directory"):
        executor.execute(print, [1], ["one"])


# ---------------------------------------------------------------- on a real one


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two nodes, one core each."""
    script, folder = ROOT / "scripts/slurm_on_one_machine.sh", tmp_path_factory.mktemp("slurm")
    if os.getuid() != 0:
        pytest.skip("a Slurm of one's own needs root")
    up = subprocess.run([script, "up", folder], capture_output=True, text=True, check=False)
    if up.returncode != 0:
        pytest.skip(f"no Slurm: {up.stderr.strip()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
    subprocess.run([script, "down", folder], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """What two jobs give that nobody disturbs, in one process."""
    return outcome(sweep(tmp_path_factory.mktemp("whole"), *JOBS))


JOBS = ("regularizer=none", "seed=0,1", *LONG)


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def number() -> str:
    """Of the job that waits or runs."""
    (found,) = set(ask("squeue", "--noheader", "--format", "%F").split())
    return found


def shown(job: str) -> list[dict[str, str]]:
    """What Slurm knows of each of its tasks."""
    lines = ask("scontrol", "--oneliner", "show", "job", job).splitlines()
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def statuses(root: Path) -> list[str]:
    return [read_json(path)["status"] for path in sorted(root.glob("*/status.json"))]


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_tasks_on_two_nodes_give_what_one_process_gives(tmp_path: Path) -> None:
    jobs = "regularizer=none,l1", "seed=0,1"
    inline = outcome(sweep(tmp_path / "inline", *jobs))
    process = begin(tmp_path / "slurm", *jobs, *SLURM, ALONE)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found = re.search(r"Slurm job (\d+): 4 tasks", errors)
    assert found
    assert [task["NodeList"] for task in shown(found[1])].count("n1") in {1, 2, 3}, "all on one of n1 and n2"
    assert len(inline) == 4
    assert outcome(tmp_path / "slurm/outputs/mine") == inline


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_what_slurm_does_not_take_is_one_sentence(tmp_path: Path) -> None:
    process = begin(tmp_path, *JOBS, *SLURM, "hydra.launcher.slurm.partition=nowhere")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "invalid partition specified: nowhere" in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_task_that_is_cancelled_has_failed_and_the_others_are_done(tmp_path: Path) -> None:
    process, root = begin(tmp_path, *JOBS, "regularizer=none,l1", *SLURM, ALONE), tmp_path / "outputs/mine"
    wait_for(root, 1, 1)
    job = number()
    ask("scancel", f"{job}_0")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    sentence = rf"task {job}_0 of Slurm \(.*seed0\) ended as CANCELLED and left no result"
    assert re.search(sentence, errors)
    assert sorted(statuses(root)) == ["done", "done", "done", "failed"]
    (failed,) = (path for path in root.glob("*/status.json") if read_json(path)["status"] == "failed")
    assert re.fullmatch(sentence, read_json(failed)["error"])
    assert failed.parent.name in output, "the closing table"


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_task_that_runs_out_of_time_too_often_has_failed(tmp_path: Path) -> None:
    limits = "hydra.launcher.slurm.timeout_min=5", "hydra.launcher.slurm.max_timeouts=0"
    process, root = begin(tmp_path, *JOBS, *SLURM, *limits), tmp_path / "outputs/mine"
    wait_for(root, 2, 1)
    job = number()
    ask("scancel", "--signal=USR2", job)  # which is what Slurm does shortly before the time is over
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    for path in root.glob("*/status.json"):
        assert re.match(rf"task {job} of Slurm .* timed-out too many times", read_json(path)["error"])


def requeue(job: str, root: Path) -> None:
    ask("scontrol", "requeue", job)


def preempt(job: str, root: Path) -> None:
    (task,) = shown(job)
    ask("sbatch", "--partition=urgent", f"--nodelist={task['NodeList']}", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: shown(job)[0]["Restarts"] == "1")


def let_time_run_out(job: str, root: Path) -> None:
    """Slurm looks at its clock every 30 s, in which the run would be over: so it stands still until Slurm's SIGCONT."""
    (process,) = {read_json(path)["process"] for path in root.glob("*/status.json")}
    os.kill(process, signal.SIGSTOP)
    hours, minutes, _ = map(int, shown(job)[0]["RunTime"].split(":"))
    ask("scontrol", "update", f"JobId={job}", f"TimeLimit={hours * 60 + minutes + 2}")
    until(lambda: shown(job)[0]["Restarts"] == "1")
    ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")


@pytest.mark.slow
@pytest.mark.parametrize("disturb", [requeue, preempt, let_time_run_out])
@pytest.mark.usefixtures("slurm")
def test_a_task_that_slurm_takes_off_its_node_goes_on_by_itself(
    disturb: Callable[[str, Path], None], whole: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    process, root = begin(tmp_path, *JOBS, *SLURM), tmp_path / "outputs/mine"
    wait_for(root, 2, 4)
    job = number()
    disturb(job, root)
    until(lambda: shown(job)[0]["JobState"] == "PENDING")
    assert statuses(root) == ["interrupted"] * 2, "it ended in an orderly way"
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (log,) = (root / ".slurm").glob("*/*.err")
    assert log.read_text().count("going on from step") == 1
    assert outcome(root) == whole


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_tasks_outlive_who_waits_for_them_and_are_not_started_twice(
    whole: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    """However fast the machine is: the task stands still from its first rows on, until the sweep was started a second time."""
    process, root = begin(tmp_path, *JOBS, *SLURM), tmp_path / "outputs/mine"
    wait_for(root, 2, 1)
    (task,) = {read_json(path)["process"] for path in root.glob("*/status.json")}
    os.kill(task, signal.SIGSTOP)
    job = number()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert f"Slurm job {job} goes on" in errors
    assert f"scancel {job}" in errors
    again = begin(tmp_path, *JOBS, *SLURM)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 1
    assert f"Slurm job {job} trains this sweep already" in errors
    os.kill(task, signal.SIGCONT)
    until(lambda: not ask("squeue", "--noheader"))
    again = begin(tmp_path, *JOBS, *SLURM)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert "2 ended before" in errors
    assert outcome(root) == whole
