"""``python -m sparserl.train``: train one run, or with ``-m`` a sweep."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sparserl.config.messages import instead_of_traceback, left_to_the_jobs, sentence
from sparserl.config.resume import check_recipient, resumed
from sparserl.config.schema import CONF, ConfigError, PartError
from sparserl.config.validation import read_back, to_plain
from sparserl.runs.files import FIGURE, DiskError
from sparserl.runs.schema import Result
from sparserl.sweeps import folders  # noqa: F401 (the resolvers of conf/train.yaml)
from sparserl.sweeps.jobs import CONFIG_FILE, Job, JobError, change, check_and_reserve, fail, note, objective
from sparserl.sweeps.loop import run
from sparserl.terminal import describe, leave, print_line, say
from sparserl.tracking.console import print_results


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _job(config: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    is_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    try:
        return _train(config, folder, is_sweep)
    except (ConfigError, DiskError, JobError) as error:
        if isinstance(error, PartError):
            note(folder, error)
        if is_sweep:  # the other jobs go on, and Hydra reports this one
            raise
        leave(sentence(error))  # before Hydra adds lines of its own
    except KeyboardInterrupt as interrupt:
        if is_sweep:
            raise
        began = (folder / CONFIG_FILE).exists()
        _stop(interrupt, f"python -m sparserl.train {shlex.quote(f'resume={folder}')}" if began else "the same command again")
    except (Exception, SystemExit) as error:
        note(folder, error)
        if is_sweep or isinstance(error, SystemExit):  # Hydra's launchers send errors between processes: not all can be
            raise JobError(folder.name, describe(error)) from None
        raise


def _train(config: DictConfig, folder: Path, is_sweep: bool) -> float | None:
    if config.objective_seeds is not None:  # the launcher `population` makes runs of it, and asks nothing here
        remedy = "start it with hydra/launcher=population" if is_sweep else "start a sweep with -m, or set it to null"
        raise ConfigError(f"objective_seeds is {config.objective_seeds}; this command trains one run: {remedy}")
    if config.resume:
        job, result = _resume(config, folder, is_sweep)
    else:
        job = Job(to_plain(config), folder)
        result = check_and_reserve(job, config.retry_failed)
    if result:
        say(f"{folder} is done already")
    else:
        try:
            (result,) = run([job.config], [folder])
        except (Exception, SystemExit) as error:
            fail(job, error)
            raise
    print_results([result])
    print_line(f"rows, result and policy: {folder}")
    if (folder / FIGURE).exists():
        print_line(f"figure: {folder / FIGURE}")
    return objective(job, result)


def _resume(config: DictConfig, folder: Path, is_sweep: bool) -> tuple[Job, Result | None]:
    """The job that goes on in a folder; its result where nothing is left to do. Raises ConfigError, DiskError and JobError."""
    if is_sweep:
        raise ConfigError("resume is for a single run; the same sweep started again goes on by itself")
    resume = str(config.resume)
    if str(folder) != os.path.abspath(hydra.utils.to_absolute_path(resume)):  # noqa: PTH100 (as Hydra does it)
        raise ConfigError(f"resume={resume} goes on in its own folder; hydra.run.dir cannot be changed")
    found = read_back(folder / CONFIG_FILE, config.trust is True)
    overrides = HydraConfig.get().overrides.task
    job = Job(resumed(found, resume, overrides), folder)
    check_recipient(job.config, job.folder, overrides, config.trust is True)
    result = check_and_reserve(Job(found, folder), retry_failed=True)
    if job.config["lowrank"] != found["lowrank"]:
        result = None
    if result is None and job.config != found:
        change(job)
    return job, result


def _stop(interrupt: KeyboardInterrupt, command: str) -> NoReturn:
    say(f"sparserl: stopped; go on with: {command}")
    sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))


def main() -> None:
    """The console script. Errors of the user's end with one sentence; others with their traceback."""
    # Hydra prints what goes wrong in a job, and some of what goes wrong before; it is asked to hand everything on instead
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        while True:
            try:
                _job()
                return
            except ConfigCompositionException as error:
                if not left_to_the_jobs(error):
                    raise
    except (ConfigError, DiskError, JobError, HydraException, OmegaConfBaseException) as error:
        leave(sentence(error))
    except ValueError as error:
        if (text := instead_of_traceback(error)) is None:
            raise
        leave(text)
    except OSError as error:
        if error.errno == errno.ENOSPC:  # Hydra's own files
            leave(f"{error.strerror} for the files of this run; make room and start it again")
        if error.filename is None:
            raise
        leave(f"{error.filename} cannot be used: {error.strerror}")
    except KeyboardInterrupt as interrupt:
        _stop(interrupt, "the same command again")


if __name__ == "__main__":
    main()
