"""Train runs in one loop: ``python -m sparserl.train``, or ``run(configs, folders)`` from Python.

A solo run is a population of one; a launcher of sweeps calls ``run`` with many members, of one population or of several that
differ in their regulariser.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparserl import process
from sparserl.build import (
    CONF,
    Config,
    ConfigError,
    build,
    build_logger,
    build_start,
    build_sweep,
    nearest_key,
    read_back,
    resolve,
    without_hydra,
)
from sparserl.evaluation import random_returns
from sparserl.jobs import CONFIG_FILE, Job, JobError, claim, digest, earlier, job_name, kind, label, objective
from sparserl.population import State
from sparserl.recorder import Recorder
from sparserl.records import checkpoint, provenance
from sparserl.records.console import Display, print_results, say
from sparserl.records.disk import FIGURE, DiskError, RunFolder
from sparserl.records.schema import Result, StatusName
from sparserl.trainer import Finished, Parts, Progress, Row, Snapshot, Trainer

# ---------------------------------------------------------------- from Python


def run(
    configs: Sequence[Config], folders: Sequence[str | Path], live: bool = True, command: str | None = None
) -> list[Result]:
    """Train runs in one loop, each into its own folder, going on from the folders' checkpoints if they have any.

    The configs are resolved ones (``build.resolve`` or ``build.compose``) that may differ in seeds, per-member values and their
    regulariser only; neighbours that do not differ in it are one population. SIGINT and SIGTERM end it with KeyboardInterrupt,
    all rows written; called again, it goes on from the last checkpoint. Without ``live`` there are plain lines also on a
    terminal, for processes that share one. ``command`` is what results say they were made with, where that is not what started
    this process.

    A member whose loss becomes non-finite is frozen, and its result has the status ``failed``; the others do not notice.
    Raises ConfigError before anything is trained, and DiskError where a member's folder cannot be written or another process
    writes there. Members share one loop, so that stops all of them, ``interrupted``; called again, they go on from the newest
    checkpoint that all of them have.
    """
    process.prepare()
    trainer, parts = build(configs)
    logger = build_logger(configs[0])
    jobs = [Job(config, Path(folder)) for config, folder in zip(configs, folders, strict=True)]
    with ExitStack() as held:
        opened = []
        for job in jobs:
            claim(job)
            opened.append(held.enter_context(closing(RunFolder(job.folder, trainer.total_steps))))
        paths = [job.folder for job in jobs]
        try:
            states = checkpoint.load(paths)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        logs = logger.open(paths, configs, [label(config) for config in configs])
        members, typed = range(len(configs)), command or provenance.command()
        recorders = [Recorder(*member, typed) for member in zip(opened, configs, members, logs, strict=True)]
        try:
            return _train(trainer, parts, paths, recorders, states, live)
        except (KeyboardInterrupt, SystemExit):
            _end(recorders, "interrupted")
            raise
        except DiskError as error:
            _end(recorders, "interrupted", str(error))
            raise
        except Exception:
            _end(recorders, "failed", traceback.format_exc())
            raise
        finally:
            logger.close(logs)


def _end(recorders: Sequence[Recorder], status: StatusName, error: str | None = None) -> None:
    """As far as the disk takes it: what goes wrong here follows from what is being raised."""
    for recorder in recorders:
        with suppress(DiskError):
            recorder.end(status, error)


def _train(
    trainer: Trainer,
    parts: Parts,
    paths: Sequence[Path],
    recorders: Sequence[Recorder],
    states: Sequence[State] | None,
    live: bool,
) -> list[Result]:
    kinds = [kind(recorder.config) for recorder in recorders]
    sweep = build_sweep(recorders[0].config)
    saved = [state.pop("trainer") for state in states or ()]
    for member, recorder in enumerate(recorders):
        recorder.begin(states[member]["records"] if states else None)
    with Display(kinds, trainer.total_steps, live) as display, process.Interrupts() as interrupts:
        if states:
            display.say(f"going on from step {saved[0]['env_step']}")
        start = () if states else [build_start(recorder.config) for recorder in recorders]
        for event in trainer.events(parts, saved, start, interrupts.heed):
            match event:
                case Progress():
                    display.progress(event.env_step)
                case Row():
                    rows = [recorder.row(event) for recorder in recorders]
                    display.row(event.env_step, rows)
                    for recorder, row in zip(recorders, rows, strict=True):
                        for warning in row.get("warnings", []):
                            display.say(f"warning: {label(recorder.config)}: {warning}")
                case Snapshot():
                    records = [recorder.state_dict() for recorder in recorders]
                    members = zip(event.states, records, strict=True)
                    checkpoint.save(paths, event.env_step, [{"trainer": own, "records": its} for own, its in members])
                    event.states.clear()  # they are large, and the event stays until the next one
                case Finished():
                    random = random_returns(parts.environment, trainer.eval_episodes, interrupts.heed)
                    display.say("trained; now the ranks are evaluated")
                    started = time.perf_counter()
                    found = sweep(parts.environment, parts.algorithm, event.company.acting_weights(), random, interrupts.heed)
                    seconds = time.perf_counter() - started
                    results = []
                    for recorder, swept in zip(recorders, found, strict=True):
                        recorder.swept_in(seconds)
                        results.append(recorder.finish(event, random, swept, parts.members.device.type))
                        interrupts.heed()
                    return results
            interrupts.heed()
    raise AssertionError("a trainer's last event is Finished")


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
        print(f"rows, result and policy: {folder}")
        if (folder / FIGURE).exists():
            print(f"figure: {folder / FIGURE}")
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
        print(f"sparserl: stopped; go on with: {how}", file=sys.stderr)
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
