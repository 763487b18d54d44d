"""Each item a task of one Slurm job array, by submitit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sparserl import process
from sparserl.executors.base import Executor, R, T
from sparserl.records.console import say

ASK_SECONDS = 20.0
"""How often Slurm is asked for tasks that left no result: enough for a person, and little for a cluster."""


class SlurmError(RuntimeError):
    """Why a task has no result, or Slurm none to give, in one sentence."""


class Slurm(Executor):
    """``parameters`` are the keys of ``hydra.launcher.slurm``; what submitit writes goes into ``folder``.

    A task that runs out of its time is queued again by itself, as one is that Slurm requeues: the same work on the same item,
    which had better go on from where it was. Raises SlurmError where there is no submitit, no Slurm, or none that takes it.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        self._folder = folder
        asked = dict(parameters)
        timeouts, more = asked.pop("max_timeouts"), asked.pop("more")
        asked["slurm_partition"] = asked.pop("partition")
        given = {key: value for key, value in (asked | more).items() if value is not None}
        submitit = _submitit()
        try:
            self._slurm = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts)
            self._slurm.update_parameters(name="sparserl", **given)
        except Exception as error:
            raise SlurmError(f"hydra.launcher.slurm cannot be used: {' '.join(str(error).split())}") from error

    def execute(self, work: Callable[[T], R], items: Sequence[T], names: Sequence[str]) -> list[R | Exception]:
        if not items:
            return []
        try:
            tasks = self._slurm.map_array(Requeued(work), items)
        except _submitit().core.utils.FailedJobError as error:
            raise SlurmError(
                f"Slurm does not take the job: {' '.join(str(error).split())}; see hydra.launcher.slurm"
            ) from error
        number = tasks[0].job_id.split("_")[0]
        say(f"Slurm job {number}: {len(tasks)} tasks; what they say is in {self._folder}")
        with process.Interrupts() as interrupts:
            asked = time.monotonic()
            while waiting := [task for task in tasks if not task.paths.result_pickle.exists()]:
                if time.monotonic() - asked > ASK_SECONDS:
                    asked = time.monotonic()
                    if all(task.done(force_check=task is waiting[0]) for task in waiting):
                        break
                time.sleep(0.2)
                if interrupts.received is not None:
                    say(f"Slurm job {number} goes on: `squeue --job {number}` shows it, `scancel {number}` ends it")
                    interrupts.heed()
        return [_result(task, name) for task, name in zip(tasks, names, strict=True)]


class Requeued:
    """Work that submitit queues again where its time runs out; ``checkpoint`` is submitit's word for that."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def __call__(self, item: Any) -> Any:
        process.prepare()
        return self._work(item)

    def checkpoint(self, item: Any) -> Any:
        """The same again."""
        return _submitit().helpers.DelayedSubmission(self, item)


def _result(task: Any, name: str) -> Any:
    submitit = _submitit()
    try:
        return task.result()
    except submitit.core.utils.UncompletedJobError:
        return SlurmError(f"task {task.job_id} of Slurm ({name}) ended as {task.state} and left no result")
    except submitit.core.utils.FailedJobError as error:
        return SlurmError(f"task {task.job_id} of Slurm ({name}) failed: {str(error).strip().splitlines()[-1]}")


def _submitit() -> ModuleType:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise SlurmError("hydra.launcher.executor=slurm needs submitit: pip install 'sparserl[slurm]'") from error
    return submitit
