"""The launcher of multiruns: what is left to train of a sweep's jobs, what of it in one loop, and what came of each job.

Hydra runs each job in a folder of its own, with callbacks, and expects one JobReturn of each. So the jobs of a group are
nested: the task function of the first job runs the second job, and so on, and that of the last job trains the whole group.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from sparserl.config.identity import canonical, identity, populations
from sparserl.config.schema import ConfigError, PartError
from sparserl.config.validation import interpolation_error, to_plain, without_hydra
from sparserl.runs import provenance
from sparserl.runs.files import DiskError
from sparserl.runs.schema import Result
from sparserl.sweeps import folders  # noqa: F401 (the resolvers of conf/train.yaml, also where a task of Slurm starts from here)
from sparserl.sweeps.composer import SEED, of_seed
from sparserl.sweeps.executors.base import Executor
from sparserl.sweeps.executors.inline import Inline
from sparserl.sweeps.executors.processes import Processes
from sparserl.sweeps.executors.slurm import Slurm, SlurmError
from sparserl.sweeps.grouping import group_jobs
from sparserl.sweeps.jobs import (
    Job,
    JobError,
    check_and_reserve,
    difference,
    digest,
    fail,
    file_name,
    finished,
    label,
    note,
    objective,
    result_of,
    write_job_status,
)
from sparserl.sweeps.loop import run
from sparserl.terminal import describe, say
from sparserl.tracking.console import print_jobs

JobOutcome: TypeAlias = float | Exception | None
"""What a sweeper is told of a job: its objective, or why there is none."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The keys of the launcher, as ``PopulationLauncher`` describes them."""

    executor: str
    workers: int | None
    max_members: int
    slurm: Mapping[str, Any]


def launch(
    settings: Settings, context: HydraContext, sweep: DictConfig, configs: Sequence[DictConfig], first: int
) -> list[JobReturn]:
    """Train what is left to train of these jobs, the first of them number ``first``; what came of each, in their order.

    ``configs`` are theirs, Hydra's node included, and ``sweep`` is that of the whole multirun.

    Raises ConfigError where the settings are wrong or there are no jobs; what is wrong with a job is in its JobReturn.
    """
    if not configs:
        raise ConfigError("the sweep has no jobs: a list of values is empty; name a value of each key")
    setup_globals()
    configure_log(sweep.hydra.hydra_logging, sweep.hydra.verbose)
    runs = [_with_seeds(config) for config in configs]
    for number, its in enumerate(runs, first):
        for member, config in enumerate(its):
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number * len(its) + member
    root = Path(sweep.hydra.sweep.dir).absolute()
    jobs = Launch(context, [config for its in runs for config in its], root)
    try:
        executor = _executor(settings, root)
        jobs.plan()
        jobs.train(executor, settings.max_members)
    except SlurmError as error:  # before anything was trained
        raise ConfigError(str(error)) from error
    jobs.copy_duplicates()
    configure_log(sweep.hydra.hydra_logging, sweep.hydra.verbose)
    jobs.print()
    returns = (jobs.returns[index] for index in range(len(jobs.returns)))
    return [_joined(config, list(islice(returns, len(its)))) for config, its in zip(configs, runs, strict=True)]


def _with_seeds(config: DictConfig) -> list[DictConfig]:
    """The runs of a job: one for each of its ``objective_seeds`` seeds, or the job itself.

    What is no number is left to the check of the job, which says so.
    """
    count, first = config.objective_seeds, config.seed
    if not isinstance(count, int) or not isinstance(first, int):
        return [config]
    given = [each for each in config.hydra.overrides.task if not each.startswith(SEED)]
    return [of_seed(config, seed, [*given, f"{SEED}{seed}"]) for seed in range(first, first + count)] or [config]


def _joined(config: DictConfig, returns: Sequence[JobReturn]) -> JobReturn:
    """What came of a job, from what came of its runs: the IQM of their objectives, or the first failure."""
    if config.objective_seeds is None:
        return returns[0]
    told = next((its for its in returns if its.status is JobStatus.FAILED), returns[0])
    task = list(config.hydra.overrides.task)
    if told.status is JobStatus.FAILED:
        return replace(told, overrides=task)
    from sparserl.report.statistics import iqm  # scipy takes a second, and few sweeps need it

    values = [its.return_value for its in returns]
    mean = None if None in values else float(iqm(values))
    seeds = f"seeds {config.seed} to {config.seed + len(values) - 1}"
    say(f"{' '.join(task) or 'the job'}: {config.objective} {mean}, the IQM of {seeds}")
    return replace(told, overrides=task, _return_value=mean)


def _executor(settings: Settings, root: Path) -> Executor:
    if settings.max_members < 1:
        raise ConfigError(f"hydra.launcher.max_members is {settings.max_members}; it must be 1 or more")
    if settings.workers is not None and settings.workers < 1:
        raise ConfigError(f"hydra.launcher.workers is {settings.workers}; it must be 1 or more, or null")
    match settings.executor:
        case "inline":
            return Inline()
        case "processes":
            return Processes(settings.workers)
        case "slurm":
            return Slurm(root / ".slurm", settings.slurm)
    raise ConfigError(f"hydra.launcher.executor is {settings.executor!r}; it must be inline, processes or slurm")


class Launch:
    """The jobs of one launch, by their place in it, on their way from configs to returns."""

    def __init__(self, context: HydraContext, configs: Sequence[DictConfig], root: Path) -> None:
        self._context, self._configs = context, configs
        for config in configs:
            _set_place(config, root)  # with hydra.job.chdir a job would look for a relative one in another job's folder
        self._jobs: dict[int, Job] = {}
        self._left: dict[int, Job] = {}
        self._repeats: dict[int, int] = {}
        self.returns: dict[int, JobReturn] = {}

    def plan(self) -> None:
        """Find out of which jobs there is something left to train, and which are the same run as another.

        Two jobs are the same run where their configs say so. Two runs in one folder are an error of the second one.
        """
        runs: dict[str, int] = {}
        places: dict[Path, int] = {}
        for index, config in enumerate(self._configs):
            HydraConfig.instance().set_config(config)  # `names` and folders ask it for the options chosen
            try:
                _set_place(config, config.hydra.sweep.dir, config.hydra.sweep.subdir)  # so that it is found out once
                if config.resume:
                    raise ConfigError("resume is for a single run; the same sweep started again goes on by itself")
                job = Job(to_plain(without_hydra(config)), _folder(config))
                if (original := runs.setdefault(canonical(identity(job.config)), index)) != index:
                    self._repeats[index] = original
                    continue
                if (other := places.setdefault(job.folder, index)) != index:
                    raise _SharedFolderError(self._jobs[other], job)
                self._jobs[index] = job
                result = check_and_reserve(job, config.retry_failed)
                if result is None:
                    write_job_status(job, "waiting")
                    self._left[index] = job
                else:
                    self._finish_without_training(index, objective(job, result))
            except OmegaConfBaseException as error:  # a subdir of the user's own, which this config has no values for
                _set_place(config, config.hydra.sweep.dir, f"invalid-{digest(str(config.hydra.overrides.task))}")
                self._finish_without_training(index, ConfigError(f"hydra.sweep.subdir: {interpolation_error(error)}"))
            except Exception as error:  # noqa: BLE001 (a config may name any code; the other jobs go on)
                self._finish_without_training(index, error)
        failed = sum(its.status is JobStatus.FAILED for its in self.returns.values())
        found = {
            "to train": len(self._left),
            "ended before": len(self.returns) - failed,
            "refused": failed,  # by their config, or since they failed before
            "the same as another": len(self._repeats),
        }
        counts = ", ".join(f"{count} {what}" for what, count in found.items() if count)
        say(f"{len(self._configs)} jobs: {counts}")

    def train(self, executor: Executor, max_members: int) -> None:
        """Train what is left, in as few loops as there are workers for."""
        places = {job.folder: index for index, job in self._left.items()}
        command, live = provenance.command(), not executor.shares_terminal
        groups = [
            Group(jobs, [self._configs[places[job.folder]] for job in jobs], self._context, command, live)
            for jobs in group_jobs(list(self._left.values()), max_members, executor.workers)
        ]
        for group, returned in zip(groups, executor.execute(train_group, groups, [g.name for g in groups]), strict=True):
            for member, job in enumerate(group.jobs):
                if isinstance(returned, Exception):  # its process died, so what came of its jobs is not known
                    died = JobError(job.folder.name, str(returned))
                    if (outcome := _outcome(job, died)) is died:
                        with suppress(DiskError):  # which may be what it died of
                            write_job_status(job, "failed", error=str(returned))
                    self._finish_without_training(places[job.folder], outcome)
                else:
                    self.returns[places[job.folder]] = returned[member]

    def copy_duplicates(self) -> None:
        """Give jobs that are the same run as another its outcome."""
        for index, original in self._repeats.items():
            job, config = self._jobs[original], self._configs[index]
            given = digest(str(sorted(config.hydra.overrides.task)))
            _set_place(config, config.hydra.sweep.dir, f"{file_name(job.folder.name)}-again-{given}")
            again = self._jobs[index] = Job(job.config, _folder(config))
            self._finish_without_training(index, self.returns[original]._return_value)  # noqa: SLF001 (of a failure, the property prints and raises)
            write_job_status(again, "duplicate", of=job.folder.name)

    def print(self) -> None:
        """The table at the end: every job, and of those that failed, why."""
        rows: list[tuple[str, str, Result | None, str]] = []
        for index, config in enumerate(self._configs):
            job, returned = self._jobs.get(index), self.returns[index]
            name = job.folder.name if job else " ".join(config.hydra.overrides.task)
            if returned.status is JobStatus.FAILED:
                error = returned._return_value  # noqa: SLF001 (as above)
                rows.append((name, "failed", None, getattr(error, "reason", str(error))))
            elif index in self._repeats:
                rows.append((name, "duplicate", None, f"the same as {self._jobs[self._repeats[index]].folder.name}"))
            else:
                rows.append((name, "done", result_of(job.folder) if job else None, ""))
        print_jobs(rows)

    def _finish_without_training(self, index: int, outcome: JobOutcome) -> None:
        """End a job that is not trained here, with the callbacks of any other."""
        config = self._configs[index]
        # what a first start wrote there stays, and so does what belongs to another job
        is_new = not (isinstance(outcome, _SharedFolderError) or (_folder(config) / ".hydra").exists())

        def give(_: DictConfig) -> float | None:
            if is_new and isinstance(outcome, Exception):
                log.error(outcome)
                if isinstance(outcome, PartError):
                    note(_folder(config), outcome)
            return _unwrap(outcome)

        if not is_new:
            with read_write(config.hydra):
                config.hydra.output_subdir = None
        try:
            self.returns[index] = run_job(give, config, *_KEYS, self._context, configure_logging=is_new)
        except OSError:  # the folder cannot be used, which is what the outcome says
            job = JobReturn(config.hydra.overrides.task, without_hydra(config), config, status=JobStatus.FAILED)
            job.return_value = outcome
            self.returns[index] = job


class _SharedFolderError(ConfigError):
    """Of the second of two runs that are told to use one folder."""

    def __init__(self, first: Job, second: Job) -> None:
        super().__init__(
            f"{label(first.config)} and {label(second.config)} are two runs in one folder, {first.folder} "
            f"({difference(first.config, second.config)}); let hydra.sweep.subdir tell them apart"
        )


_KEYS = "hydra.sweep.dir", "hydra.sweep.subdir"
"""Where Hydra's config says in which folder a job of a multirun belongs."""


def _folder(config: DictConfig) -> Path:
    return Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()


def _set_place(config: DictConfig, root: str | Path, name: str | None = None) -> None:
    """Let a job's folder be in ``root``, under a ``name`` if one is given."""
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir = str(root)
        if name is not None:
            config.hydra.sweep.subdir = name


# ---------------------------------------------------------------- one loop


@dataclass(frozen=True)
class Group:
    """What trains in one loop, in whatever process: populations that differ in their regulariser, side by side."""

    jobs: list[Job]
    configs: list[DictConfig]
    """Of each job as Hydra composed it."""
    context: HydraContext
    command: str
    live: bool

    @property
    def name(self) -> str:
        """For a reader."""
        more = len(self.jobs) - 1
        return label(self.jobs[0].config) + (f" and {more} more" if more else "")


def train_group(group: Group) -> list[JobReturn]:
    """Train the jobs in one loop, each within Hydra's own frame of a job; what came of each."""
    setup_globals()
    # a job inside a job inside a job: three calls each, and as many again where types are checked
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 10 * len(group.jobs)))
    returns: list[JobReturn] = []
    outcomes: list[JobOutcome] = []
    logs: list[logging.Handler] = []

    def begin(member: int) -> None:
        def frame(_: DictConfig) -> float | None:
            logs.extend(handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler))
            if member + 1 < len(group.jobs):
                begin(member + 1)
            else:
                for handler in logs[:-1]:  # Hydra has put each in the place of the one before
                    logging.getLogger().addHandler(handler)
                outcomes.extend(_train(group.jobs, group.live, group.command))
            return _unwrap(outcomes[member])

        returns.insert(0, run_job(frame, group.configs[member], *_KEYS, group.context))

    begin(0)
    return returns


def _train(jobs: Sequence[Job], live: bool, command: str) -> list[JobOutcome]:
    """Train jobs in one loop, and where that goes wrong each population of them by itself, from the last checkpoint on."""
    error = _stopped_by(jobs, live, command)
    apart = populations(jobs, lambda job: job.config)
    if error and len(apart) > 1:
        say(f"warning: {describe(error)}; each population goes on by itself, and only the one that this comes from fails")
        for job in jobs:
            with suppress(DiskError):  # started again, it meets the same
                if finished(job.folder) is None:
                    write_job_status(job, "waiting")
        return [outcome for population in apart for outcome in _train(population, live, command)]
    reason = error if isinstance(error, ConfigError | DiskError) else None  # started again, it goes on
    if reason is None:
        told = describe(error) if error else "it left no result"
    return [_outcome(job, reason or JobError(job.folder.name, told)) for job in jobs]


def _stopped_by(jobs: Sequence[Job], live: bool, command: str) -> BaseException | None:
    """Train jobs in one loop; what ended it before its end, without what it holds: everything that was trained."""
    try:
        run([job.config for job in jobs], [job.folder for job in jobs], live, command)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever it is, the other populations go on)
        for job in jobs:
            if finished(job.folder) is None:
                fail(job, error)
        return error.with_traceback(None)
    return None


def _outcome(job: Job, otherwise: Exception) -> JobOutcome:
    """What came of a job, by the files in its folder: what its result says, or else the error given."""
    result = finished(job.folder)
    if result is None:
        return otherwise
    try:
        return objective(job, result)
    except JobError as failure:
        return failure


def _unwrap(outcome: JobOutcome) -> float | None:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
