"""``python -m sparserl.train``: train one run, or with ``-m`` a sweep."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparserl.config.build import build_logger
from sparserl.config.schema import CONF, Config, ConfigError, PartError
from sparserl.config.validation import interpolation_error, options_without, read_back, to_plain, unknown_key
from sparserl.runs.files import FIGURE, DiskError
from sparserl.runs.schema import Result
from sparserl.sweeps import folders  # noqa: F401 (the resolvers of conf/train.yaml)
from sparserl.sweeps.jobs import (
    CONFIG_FILE,
    Job,
    JobError,
    change,
    check_and_reserve,
    fail,
    note,
    objective,
)
from sparserl.sweeps.loop import run
from sparserl.terminal import describe, print_line, say
from sparserl.tracking.console import print_results

# ---------------------------------------------------------------- resume

CHANGEABLE = ("resume", "trust", "retry_failed")
"""What may be given with ``resume``, beside ``lowrank.*`` and ``logger.*``, which are no part of how a run is trained."""


def _resumed(found: Config, resume: str, overrides: Sequence[str]) -> Config:
    """The config of a run that goes on, with what may be changed of it. Raises ConfigError where something else is."""
    changes: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_delete() or not (key in CHANGEABLE or key.startswith(("lowrank.", "logger."))):
            remedy = ""
            if key == "trainer.total_steps":
                remedy = f", since schedules follow it: start a new run, from this one's policy with init_from={resume}"
            raise ConfigError(f"resume={resume} goes on with its own config; {key} cannot be changed{remedy}")
        if key.startswith(("lowrank.", "logger.")):
            changes[key] = override.value()
    if not changes:
        return found
    changed = OmegaConf.create(found)
    for key, value in changes.items():
        OmegaConf.update(changed, key, value, force_add=True)
    return to_plain(changed)


# ---------------------------------------------------------------- one run


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
        sys.exit(_sentence(error))  # before Hydra adds lines of its own
    except KeyboardInterrupt as interrupt:
        if is_sweep:
            raise
        began = (folder / CONFIG_FILE).exists()
        _stop(interrupt, f"python -m sparserl.train resume={folder}" if began else "the same command again")
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
    job = Job(_resumed(found, resume, overrides), folder)
    _check_recipient(job, overrides, config.trust is True)
    result = check_and_reserve(Job(found, folder), retry_failed=True)
    if job.config["lowrank"] != found["lowrank"]:
        result = None
    if result is None and job.config != found:
        change(job)
    return job, result


def _check_recipient(job: Job, overrides: Sequence[str], trust: bool) -> None:
    """Refuse to send rows with the user's key to whom only the folder's config names: it may be a stranger's."""
    if trust or any(override.lstrip("+").startswith("logger.entity=") for override in overrides):
        return
    recipient = build_logger(job.config).recipient
    if recipient is not None:
        raise ConfigError(
            f"{job.folder} would send its rows, with your key, to {recipient!r}, since its config says so: add "
            f"logger.entity={recipient} if that is right, or else logger.entity=null (your own) or logger.mode=offline"
        )


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
                if not _left_to_the_jobs(error):
                    raise
    except (ConfigError, DiskError, JobError, HydraException, OmegaConfBaseException) as error:
        sys.exit(_sentence(error))
    except ValueError as error:
        if "Config group override" not in str(error):  # GROUP=null, which Hydra meets with a traceback
            raise
        sys.exit(f"sparserl: {error}; name an option of each group")
    except OSError as error:
        if error.errno == errno.ENOSPC:  # Hydra's own files
            sys.exit(f"sparserl: {error.strerror} for the files of this run; make room and start it again")
        if error.filename is None:
            raise
        sys.exit(f"sparserl: {error.filename} cannot be used: {error.strerror}")
    except KeyboardInterrupt as interrupt:
        _stop(interrupt, "the same command again")


def _left_to_the_jobs(error: ConfigCompositionException) -> bool:
    """Write a key that only some options of a sweep have as a sweep of one value; False where that is not what is wrong.

    Hydra composes a sweep's single values with the default options first, which need not be among those that are swept over.
    What is swept over is composed for each job, where the launcher leaves out the keys that the job's options lack.
    """
    key = _refused_key(str(error))
    if key is None or not {"-m", "--multirun"} & {*sys.argv} or options_without(key, sys.argv[1:]) is None:
        return False
    before = list(sys.argv)
    swept = rf"{re.escape(key)}=(?!choice\()(.*)"
    sys.argv[1:] = [re.sub(swept, rf"{key}=choice(\1)", each) if re.fullmatch(swept, each) else each for each in before[1:]]
    return sys.argv != before


def _refused_key(text: str) -> str | None:
    """The key that Hydra cannot override, in what it says."""
    found = re.match(r"Could not override '([^']+)'", text)
    return found[1] if found else None


def _sentence(error: Exception) -> str:
    """One line for a user, also of what Hydra says in many."""
    text = " ".join(str(error).split())
    if isinstance(error, OmegaConfBaseException):
        text = interpolation_error(error)
    elif key := _refused_key(text):
        text = unknown_key(key, sys.argv[1:])
    elif match := re.match(r"Error parsing override '(.+?)' missing EQUAL", text):
        text = f"{match[1]!r} is not an override; write KEY=VALUE"
    elif match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?: 1\.| requires)", text):
        key, _, values = match[1].partition("=")
        text = f"{match[1]} is several values: add -m to train each of them"
        if not ("(" in values or (CONF / key).is_dir()):
            text += f", or write {key}=[{values}] for a list"
    elif match := re.match(
        r"(?:In '[^']*': )?Could not find '([^']+)/([^/']+)'(?: Available options in '[^']*': (.*?))? Config search", text
    ):
        known = f"known are {', '.join(match[3].split())}" if match[3] else "there is none yet"
        text = f"{match[1]}={match[2]} is not there to be chosen; {known}"
    return f"sparserl: {text}"


if __name__ == "__main__":
    main()
