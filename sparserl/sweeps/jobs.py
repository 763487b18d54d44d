"""A job of a sweep: its names, its folder, and what earlier starts made of it."""

from __future__ import annotations

import hashlib
import re
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sparserl.config.identity import canonical, identity
from sparserl.config.schema import Config, ConfigError, PartError
from sparserl.config.validation import check, check_start
from sparserl.runs import checkpoint
from sparserl.runs.files import LOG_FILE, DiskError, read_json, read_record, write_json, writing
from sparserl.runs.folder import check_free, write_status
from sparserl.runs.reader import flat
from sparserl.runs.schema import Result, Status, StatusName
from sparserl.terminal import say

CONFIG_FILE = "config.json"
"""The resolved config, in every run's folder: what ``resume`` goes on with."""


class JobError(RuntimeError):
    """Why a job has no result that counts, in one sentence; its traceback is in its own folder."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]} failed: {self.reason}"


@dataclass(frozen=True)
class Job:
    """One run: a resolved config, and the folder that belongs to it alone."""

    config: Config
    folder: Path


# ---------------------------------------------------------------- names


def cell_name(config: Config) -> str:
    """What is trained: the options of the groups that a reader looks for first."""
    names = config["names"]
    return f"{names['algorithm']}-{names['environment']}-{names['regularizer']}"


def label(config: Config) -> str:
    """A name for a reader: what is trained, and the exact values of what a sweep varies most."""
    values = {
        "lambda": config["regularizer"]["lambda_c"],
        **{f"{name}-lambda": term["lambda_c"] for name, term in config["regularizer"].get("terms", {}).items()},
        "beta": config["regularizer"]["beta"],
        "seed": config["seed"],
    }
    return "-".join([cell_name(config), *(f"{name}{_exact(value)}" for name, value in values.items() if value is not None)])


def _exact(value: float | int) -> str:
    """The shortest text that is read back as the same number; a whole one has no point."""
    return repr(value).removesuffix(".0")


def job_name(config: Config) -> str:
    """The name of a job's folder in its sweep: readable, and the same for the same config only."""
    return f"{file_name(label(config))}-{digest(canonical(identity(config)))}"


NAME_BYTES = 200
"""File systems allow 255; what is added to a name needs the rest."""


def file_name(text: str) -> str:
    """A text as a name that any file system takes, at most NAME_BYTES long."""
    return re.sub(r"[^\w.+-]", "_", text).encode()[:NAME_BYTES].decode(errors="ignore")


def digest(text: str) -> str:
    """Ten hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


# ---------------------------------------------------------------- folders


def check_and_reserve(job: Job, retry_failed: bool) -> Result | None:
    """Check a job and make its folder; its result where an earlier start finished it.

    Raises ConfigError where its config cannot work, and whatever ``reserve_folder`` and ``previous_result`` raise. A part that
    fails while it is made is a failure of the job, and written into its folder.
    """
    try:
        check(job.config)
        if not (job.folder / checkpoint.MANIFEST).exists():  # a run that goes on needs its start no more
            check_start(job.config)
    except PartError as error:
        if not error.is_expected:
            reserve_folder(job)
            fail(job, error)
        raise
    reserve_folder(job)
    result = previous_result(job, retry_failed)
    if result is None and read_json(job.folder / CONFIG_FILE)["lowrank"] != job.config["lowrank"]:
        change(job)
    return result


def reserve_folder(job: Job) -> None:
    """Make the folder if need be, with the config in it.

    Raises ConfigError where it belongs to another run or cannot be one's, and DiskError where it cannot be written or another
    process writes there.
    """
    path = job.folder / CONFIG_FILE
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        # of two starts at the same moment the second one finds the config of the first
        is_new = not path.exists() and write_json(path, job.config, only_new=True)
        found = None if is_new else read_json(path)
    except (OSError, ValueError) as error:
        remedy = "choose another one or put that right"
        raise ConfigError(f"the output folder {job.folder} cannot be used: {error}; {remedy}") from error
    if isinstance(found, dict) and job.folder.name == job_name(job.config):  # made for this job: resume has changed its ranks
        found = found | {"lowrank": job.config["lowrank"]}
    if not is_new and (different := difference(found, job.config)):
        raise ConfigError(f"{job.folder} holds a run with another config ({different}); choose another folder or take it away")
    check_free(job.folder)


def difference(found: object, given: Config) -> str | None:
    """The first difference between what makes two runs, the config found in a folder and a job's; None where there is none."""
    if not isinstance(found, dict):
        return f"{CONFIG_FILE} is no config"
    there, here = dict(flat(identity(found))), dict(flat(identity(given)))
    for key in here | there:
        if there.get(key) != here.get(key):
            return f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
    return None


def change(job: Job) -> None:
    """Record that a run goes on with another config in its own folder, where what differs is not how it is trained.

    Its result no longer counts: what ``lowrank`` says is done again. Raises DiskError where it cannot be written or another
    process writes there.
    """
    check_free(job.folder)
    write_job_status(job, "waiting")  # first: with the new config and the old status the result would count
    write_json(job.folder / CONFIG_FILE, job.config)


def previous_result(job: Job, retry_failed: bool) -> Result | None:
    """The result of a job that an earlier start finished; None where there is something left to do.

    Raises JobError where an earlier start failed, unless ``retry_failed``: then what failed goes on from its last checkpoint.
    A run that diverged is never tried again: it would end in the same way. Raises ConfigError where no checkpoint is whole.
    """
    result = finished(job.folder)
    if result and result.status == "done":
        return result
    if result:
        remedy = "a second attempt gives the same: change its config, or take its folder away"
        raise JobError(job.folder.name, f"before ({_reason(job.folder)}); {remedy}")
    if has_failed(job.folder) and not retry_failed:
        raise JobError(job.folder.name, f"before ({_reason(job.folder)}); retry_failed=true trains it again")
    try:
        checkpoint.newest(job.folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return None


def has_failed(folder: Path) -> bool:
    """Whether the status of a job says so."""
    status = _status(folder)
    return status is not None and status.status == "failed"


def objective(job: Job, result: Result) -> float | None:
    """What a sweeper is told of a finished job: a number also where nothing was learned, so that no rank was selected.

    Then it is what holds of the whole policy. None where the number is no number for another reason. Raises JobError where the
    loss was not finite in the end.
    """
    if result.status == "failed":
        raise JobError(job.folder.name, _reason(job.folder))
    name = job.config["objective"]
    value = getattr(result, name)
    if value is None:
        saved = "compression", "retention", "shrunken_compression", "shrunken_retention"
        returned = "return_lowrank", "shrunken_return_mean"
        value = 0.0 if name in saved else result.return_mean if name in returned else None
    return None if value is None else float(value)


def finished(folder: Path) -> Result | None:
    """The result of a run for which nothing is left to do: its ranks are evaluated, or it has diverged."""
    result, status = result_of(folder), _status(folder)
    if result is None or result.rank_reason == "not_swept":
        return None
    return None if status and status.status in ("waiting", "running", "interrupted") else result


def result_of(folder: Path) -> Result | None:
    """The result that a run left; None where there is none, or none that is whole, which is said."""
    path = folder / "result.json"
    try:
        return read_record(Result, path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        say(f"warning: {path} cannot be read, so it is made again from the last checkpoint: {' '.join(str(error).split())}")
        return None


def _reason(folder: Path) -> str:
    """The last line of what a failed job's status says."""
    status = _status(folder)
    return ((status and status.error) or "status.json does not say why").strip().splitlines()[-1]


def _status(folder: Path) -> Status | None:
    try:
        return read_record(Status, folder / "status.json")
    except (OSError, ValueError):  # nothing depends on it but whether a failure is tried again
        return None


def write_job_status(job: Job, status: StatusName, *, error: str | None = None, of: str | None = None) -> None:
    """Write the status of a job that nothing is training: it waits, failed, or is a duplicate ``of`` another."""
    reached = _status(job.folder)
    step = reached.env_step if reached else 0
    total = job.config["trainer"]["total_steps"]
    write_status(job.folder, status, step, total, error, of)


def fail(job: Job, error: BaseException) -> None:
    """Write that a job failed, with the traceback, unless its folder says so already.

    Nothing is written of an error that says what to put right: started again, the job goes on.
    """
    is_failure = not error.is_expected if isinstance(error, PartError) else not isinstance(error, ConfigError | DiskError)
    if not is_failure or has_failed(job.folder):
        return
    told = _traceback(error)
    note(job.folder, error)
    with suppress(DiskError):  # which may be what it failed of
        write_job_status(job, "failed", error=told)


def note(folder: Path, error: BaseException) -> None:
    """Add a traceback to a folder's run.log, if that can be; once a job has failed it is there.

    Nothing is added of a DiskError: its sentence says it all, and another process may be writing there.
    """
    path = folder / LOG_FILE
    if not (isinstance(error, DiskError) or has_failed(folder)):
        with suppress(DiskError), writing(path), path.open("a") as log:
            log.write(f"[{datetime.now():%Y-%m-%d %H:%M:%S}] {_traceback(error).strip()}\n")


def _traceback(error: BaseException) -> str:
    """Of what a part raised, where that is what went wrong."""
    origin = error.__cause__ if isinstance(error, PartError) and error.__cause__ else error
    return "".join(traceback.format_exception(origin))
