"""``python -m sparserl.train``: train one run, or with ``-m`` a sweep."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from datetime import datetime
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparserl.config.schema import CONF, Config, ConfigError
from sparserl.config.validation import nearest_key, read_back, resolve, without_hydra
from sparserl.runs.files import FIGURE, DiskError
from sparserl.sweeps.jobs import CONFIG_FILE, Job, JobError, claim, digest, earlier, job_name, objective
from sparserl.sweeps.loop import run
from sparserl.terminal import print_line, say
from sparserl.tracking.console import print_results

# ---------------------------------------------------------------- from the command line


def _run_folder(*, _root_: DictConfig) -> str:
    """``${run_folder:}``: where a single run goes."""
    if _root_.resume:
        return str(_root_.resume)
    choices = _root_.hydra.runtime.choices
    name = f"{choices.algorithm}-{choices.environment}-{choices.regularizer}"
    return f"outputs/{name}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"


def _job_folder(*, _root_: DictConfig) -> str:
    """``${job_folder:}``: where a job of a multirun goes. The same config has the same folder, today and tomorrow."""
    job = without_hydra(_root_)
    try:
        config = resolve(job)
    except ConfigError:  # the job itself will say so; until then it needs a folder
        return f"invalid-{digest(OmegaConf.to_yaml(job))}"
    return job_name(config)


OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _job(config: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        job = Job(_config_of(folder, config.trust is True) if config.resume else resolve(config), folder)
        claim(job)
        result = earlier(job, retry_failed=bool(config.retry_failed or config.resume))
        if result:
            say(f"{folder} is done already")
        else:
            (result,) = run([job.config], [folder])
        print_results([result])
        print_line(f"rows, result and policy: {folder}")
        if (folder / FIGURE).exists():
            print_line(f"figure: {folder / FIGURE}")
        return objective(job, result)
    except (ConfigError, DiskError, JobError) as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # the other jobs go on, and Hydra reports this one
            raise
        sys.exit(_sentence(error))  # before Hydra adds lines of its own


def _config_of(folder: Path, trust: bool) -> Config:
    """The config that a run was started with. Raises ConfigError where ``folder`` is no run's."""
    try:
        return read_back(folder / CONFIG_FILE, trust)
    except OSError as error:
        raise ConfigError(f"resume={folder}: there is no run to go on with ({error})") from error


def main() -> None:
    """The console script. Errors of the user's end with one sentence; others with their traceback."""
    # Hydra prints what goes wrong in a job, and some of what goes wrong before; it is asked to hand everything on instead
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _job()
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
        is_sweep = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
        how = "the same command again" if is_sweep else "python -m sparserl.train resume=FOLDER"
        say(f"sparserl: stopped; go on with: {how}")
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))


def _sentence(error: Exception) -> str:
    """One line for a user, also of what Hydra says in many."""
    text = " ".join(str(error).split())
    if match := re.match(r"Could not override '([^']+)'", text):
        text = f"{match[1]} is not a key of the config{nearest_key(match[1])}"
    elif match := re.match(
        r"(?:In '[^']*': )?Could not find '([^']+)/([^/']+)'(?: Available options in '[^']*': (.*?))? Config search", text
    ):
        known = f"known are {', '.join(match[3].split())}" if match[3] else "there is none yet"
        text = f"{match[1]}={match[2]} is not there to be chosen; {known}"
    return f"sparserl: {text}"


if __name__ == "__main__":
    main()
