"""A job of a sweep: its names, its folder, what earlier starts made of it, and with which others it can be trained at once."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from sparserl.config.identity import canonical, identity
from sparserl.config.schema import Config, ConfigError
from sparserl.runs import checkpoint
from sparserl.runs.files import read_json, read_record, write_json
from sparserl.runs.folder import check_free
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


def kind(config: Config) -> str:
    """What is trained: the options of the groups that a reader looks for first."""
    names = config["names"]
    return f"{names['algorithm']}-{names['environment']}-{names['regularizer']}"


def label(config: Config) -> str:
    """A name that tells the jobs of a sweep apart for a reader, if not always for a program."""
    values = {
        "lambda": config["regularizer"]["lambda_c"],
        "beta": config["regularizer"]["beta"],
        "seed": config["seed"],
    }
    return "-".join([kind(config), *(f"{name}{value:.4g}" for name, value in values.items() if value is not None)])


def job_name(config: Config) -> str:
    """The name of a job's folder in its sweep: readable, and the same for the same config only."""
    return f"{label(config)}-{digest(canonical(identity(config)))}"


def digest(text: str) -> str:
    """Ten hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


# ---------------------------------------------------------------- folders


def claim(job: Job) -> None:
    """Make the folder if need be, with the config in it.

    Raises ConfigError where it belongs to another run or cannot be one's, and DiskError where it cannot be written or another
    process writes there.
    """
    path = job.folder / CONFIG_FILE
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        found = read_json(path) if path.exists() else None
    except (OSError, ValueError) as error:
        remedy = "choose another one or put that right"
        raise ConfigError(f"the output folder {job.folder} cannot be used: {error}; {remedy}") from error
    if found is None:
        write_json(path, job.config)
    elif not isinstance(found, dict) or identity(found) != identity(job.config):
        raise ConfigError(f"{job.folder} holds a run with another config; choose another folder or take it away")
    check_free(job.folder)


def earlier(job: Job, retry_failed: bool) -> Result | None:
    """The result of a job that an earlier start finished; None where there is something left to train.

    Raises JobError where an earlier start failed, unless ``retry_failed``: then what failed goes on from its last checkpoint,
    or from its start where it ended with a loss that was not finite. Raises ConfigError where no checkpoint is whole.
    """
    result = result_of(job.folder)
    if result and result.status == "done":
        return result
    if has_failed(job):
        if not retry_failed:
            raise JobError(job.folder.name, f"before ({_reason(job.folder)}); retry_failed=true trains it again")
        if result:  # its checkpoint has the frozen policy
            checkpoint.remove(job.folder)
    try:
        checkpoint.newest(job.folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return None


def has_failed(job: Job) -> bool:
    """Whether a job's folder says so."""
    status = _status(job.folder)
    return status is not None and status.status == "failed"


def objective(job: Job, result: Result) -> float | None:
    """What a sweeper is told of a finished job. Raises JobError where its loss was not finite to the end."""
    if result.status == "failed":
        raise JobError(job.folder.name, _reason(job.folder))
    value = getattr(result, job.config["objective"])
    return None if value is None else float(value)


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


def mark(job: Job, status: StatusName, *, error: str | None = None, of: str | None = None) -> None:
    """Write the status of a job that nothing is training: it waits, failed, or is a duplicate ``of`` another."""
    reached = _status(job.folder)
    step = reached.env_step if reached else 0
    total = job.config["trainer"]["total_steps"]
    write_json(job.folder / "status.json", Status(status, step, total, os.getpid(), socket.gethostname(), error, of))
