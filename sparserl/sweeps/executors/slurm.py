"""Each item a task of one Slurm job array, by submitit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from sparserl.sweeps.executors.base import Executor, R, T
from sparserl.terminal import say
from sparserl.training.interrupts import Interrupts, prepare

ASK_SECONDS = 10.0
"""How often Slurm is asked what is left in its queue: enough for a person, and little for a cluster."""


SEVERAL = {"nodes", "slurm_nodes", "tasks_per_node", "slurm_ntasks_per_node"}
"""What submitit calls the number of processes of a job: with more than one, all would train the same runs."""


class SlurmError(RuntimeError):
    """Why a task has no result, or Slurm none to give, in one sentence."""


class Slurm(Executor):
    """``parameters`` are the keys of ``hydra.launcher.slurm``; what submitit writes goes into a new folder in ``folder``.

    A task that runs out of its time or is preempted queues itself again, as one is that Slurm requeues: the same work on the
    same item, which had better go on from where it was. Raises SlurmError where there is no submitit, no Slurm, none that
    takes the job, or where a job from the same folder is under way: two would write the same files.
    """

    workers = None

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        self._root = folder
        self._folder = folder / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"  # a new Slurm begins again with job 1
        asked = dict(parameters)
        timeouts, more = asked.pop("max_timeouts"), asked.pop("more")
        if several := sorted(SEVERAL & more.keys()):
            raise SlurmError(f"hydra.launcher.slurm.more.{several[0]} cannot be used: a population is one task on one node")
        asked["slurm_partition"] = asked.pop("partition")
        given = {key: value for key, value in (asked | more).items() if value is not None}
        # where a cluster does not requeue by itself, a job may still ask for it
        given["slurm_additional_parameters"] = {"requeue": True} | given.get("slurm_additional_parameters", {})
        submitit = _submitit()
        try:
            self._slurm = submitit.AutoExecutor(self._folder, cluster="slurm", slurm_max_num_timeout=timeouts)
            self._slurm.update_parameters(name="sparserl", **given)
        except Exception as error:
            raise SlurmError(f"hydra.launcher.slurm cannot be used: {' '.join(str(error).split())}") from error
        under_way = [task for task in _queue() or () if self._is_ours(task)]
        if under_way:
            number = under_way[0].split("_")[0]
            raise SlurmError(f"Slurm job {number} trains this sweep already; wait for it, or end it: scancel {number}")

    def execute(self, work: Callable[[T], R], items: Sequence[T], names: Sequence[str]) -> list[R | Exception]:
        if not items:
            return []
        with Interrupts() as interrupts:
            try:
                tasks = self._slurm.map_array(Requeued(work), items)
            except OSError as error:
                raise SlurmError(f"{self._folder} cannot be written: {error.strerror}") from error
            except _submitit().core.utils.FailedJobError as error:
                raise SlurmError(
                    f"Slurm does not take the job: {' '.join(str(error).split())}; see hydra.launcher.slurm"
                ) from error
            number = tasks[0].job_id.split("_")[0]
            say(f"Slurm job {number}: {len(tasks)} tasks; what they say is in {self._folder}")
            asked, gone = time.monotonic(), 0
            while waiting := {task.job_id for task in tasks if not task.paths.result_pickle.exists()}:
                if time.monotonic() - asked > ASK_SECONDS:
                    asked, queue = time.monotonic(), _queue()
                    gone = 0 if queue is None or waiting & queue else gone + 1
                    if gone == 2:  # a file may be seen later than the end of the task that wrote it
                        break
                time.sleep(0.2)
                if interrupts.received is not None:
                    say(
                        f"Slurm job {number} goes on: `squeue --job {number}` or `python -m sparserl.status "
                        f"{self._root.parent}` shows it, `scancel {number}` ends it; "
                        "when it has ended, the same command says what came of it"
                    )
                    interrupts.check_interrupt()
        return [_result(task, name) for task, name in zip(tasks, names, strict=True)]

    def _is_ours(self, task: str) -> bool:
        """Whether a task in the queue was submitted for this sweep and left no result yet."""
        submitted = self._root.glob(f"*/{task}_submitted.pkl")
        return any(not path.with_name(f"{task}_0_result.pkl").exists() for path in submitted)


class Requeued:
    """Work that goes on by itself however Slurm ends it, but for ``scancel``.

    Slurm asks a task to end by SIGTERM, and submitit, when its time runs out, by a signal of its own: both end the work in its
    orderly way. ``scontrol requeue`` has queued the task again by then. One that is preempted, or out of time, is still
    running for Slurm; if it ended like that it would not come back, so it is queued again from here.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __call__(self, item: Any) -> Any:
        prepare()
        environment = _submitit().JobEnvironment()
        out_of_time = signal.Signals[f"SIG{environment.USR_SIG}"]
        requeue: Any = signal.signal(out_of_time, lambda *_: signal.raise_signal(signal.SIGTERM))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # submitit passes over it
        try:
            return self._work(item)
        except KeyboardInterrupt:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes more than once
            if _ask("--job", environment.job_id, "--format", "%T") == ["RUNNING"]:
                requeue(out_of_time, None)
            sys.exit("sparserl: stopped by Slurm")
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(out_of_time, requeue)

    def checkpoint(self, item: Any) -> Any:
        """What submitit is to queue again: the same."""
        return _submitit().helpers.DelayedSubmission(self, item)


def _queue() -> set[str] | None:
    """The ids of all tasks of this user that wait or run; None where Slurm does not answer.

    Unlike sacct, which submitit asks, squeue needs no accounting, and a task is either in it or has ended for good.
    """
    answer = _ask("--me", "--array", "--format", "%i")
    return None if answer is None else set(answer)


def _ask(*what: str) -> list[str] | None:
    asked = subprocess.run(["squeue", "--noheader", *what], capture_output=True, text=True, check=False)
    return asked.stdout.split() if asked.returncode == 0 else None


def _result(task: Any, name: str) -> Any:
    utils = _submitit().core.utils
    try:
        how, what = utils.pickle_load(task.paths.result_pickle)
    except FileNotFoundError:
        return SlurmError(f"task {task.job_id} of Slurm ({name}) {_end(task)} and left no result")
    if how == "success":
        return what
    reason = (what.strip() or "it does not say why").splitlines()[-1].strip()
    return SlurmError(f"task {task.job_id} of Slurm ({name}) failed: {reason}")


def _end(task: Any) -> str:
    """How it ended: what Slurm remembers for some minutes, and its accounting, if there is one, for longer."""
    command = ["scontrol", "--oneliner", "show", "job", task.job_id]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    states = [word.removeprefix("JobState=") for word in shown.split() if word.startswith("JobState=")]
    return f"ended as {states[0] if states else task.state}"


def _submitit() -> ModuleType:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise SlurmError("hydra.launcher.executor=slurm needs submitit: pip install 'sparserl[slurm]'") from error
    return submitit
