"""Train one population of runs: ``python -m sparserl.train``, or ``run(configs, folders)`` from Python.

A solo run is a population of one; a launcher of sweeps calls ``run`` with many.
"""

from __future__ import annotations

import errno
import hashlib
import json
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
from typing import NoReturn

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
    identity,
    nearest_key,
    resolve,
    without_hydra,
)
from sparserl.evaluation import random_returns
from sparserl.population import State, split, stack
from sparserl.recorder import Recorder
from sparserl.records import checkpoint
from sparserl.records.console import Display, print_results
from sparserl.records.disk import FIGURE, DiskError, RunFolder, read_json, write_json
from sparserl.records.schema import Result, StatusName
from sparserl.trainer import Finished, Parts, Progress, Row, Snapshot, Trainer

CONFIG_FILE = "config.json"
"""The resolved config, in every run's folder: what ``resume`` goes on with."""


class FrozenError(Exception):
    """A run that came to its end, but frozen."""


# ---------------------------------------------------------------- from Python


def run(configs: Sequence[Config], folders: Sequence[str | Path], live: bool = True) -> list[Result]:
    """Train a population of runs, each into its own folder, going on from the folders' checkpoints if they have any.

    The configs are resolved ones (``build.resolve`` or ``build.compose``) that may differ in seeds and per-member values
    only. SIGINT and SIGTERM end it with KeyboardInterrupt, all rows written; called again, it goes on from the last
    checkpoint. Without ``live`` there are plain lines also on a terminal, for processes that share one.

    A member whose loss becomes non-finite is frozen, and its result has the status ``failed``; the others do not notice.
    Raises ConfigError before anything is trained, and DiskError where a member's folder cannot be written or another process
    writes there. Members share one loop, so that stops all of them, ``interrupted``; called again, they go on from the newest
    checkpoint that all of them have.
    """
    process.prepare()
    trainer, parts = build(configs)
    logger = build_logger(configs[0])
    with ExitStack() as held:
        opened = [_claim(Path(folder), config, held) for folder, config in zip(folders, configs, strict=True)]
        paths = [folder.path for folder in opened]
        try:
            states = checkpoint.load(paths)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        logs = logger.open(paths, configs, [_label(config) for config in configs])
        members = range(len(configs))
        recorders = [Recorder(*member) for member in zip(opened, configs, members, logs, strict=True)]
        try:
            return _train(trainer, parts, paths, recorders, states, live)
        except KeyboardInterrupt:
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
    title = ", ".join(dict.fromkeys(_name(recorder.config) for recorder in recorders))
    sweep = build_sweep(recorders[0].config)
    state = stack([saved["trainer"] for saved in states]) if states else None
    for member, recorder in enumerate(recorders):
        recorder.begin(states[member]["records"] if states else None)
    with Display(title, len(recorders), trainer.total_steps, live) as display, process.Interrupts() as interrupts:
        if state:
            display.say(f"going on from step {state['env_step']}")
        start = () if state else [build_start(recorder.config) for recorder in recorders]
        for event in trainer.events(parts, state, start):
            match event:
                case Progress():
                    display.progress(event.env_step)
                case Row():
                    rows = [recorder.row(event) for recorder in recorders]
                    display.row(event.env_step, rows)
                    for recorder, row in zip(recorders, rows, strict=True):
                        for warning in row.get("warnings", []):
                            display.say(f"warning: {_label(recorder.config)}: {warning}")
                case Snapshot():
                    members = [
                        {"trainer": split(event.state, member), "records": recorder.state_dict()}
                        for member, recorder in enumerate(recorders)
                    ]
                    checkpoint.save(paths, event.env_step, members)
                case Finished():
                    random = random_returns(parts.environment, trainer.eval_episodes)
                    display.say("trained; now the ranks are evaluated")
                    started = time.perf_counter()
                    found = sweep(parts.environment, parts.algorithm, event.learner.hardened(), random, interrupts.heed)
                    seconds = time.perf_counter() - started
                    results = []
                    for recorder, swept in zip(recorders, found, strict=True):
                        recorder.swept_in(seconds)
                        results.append(recorder.finish(event, random, swept, parts.members.device.type))
                        interrupts.heed()
                    return results
            interrupts.heed()
    raise AssertionError("a trainer's last event is Finished")


def _claim(folder: Path, config: Config, held: ExitStack) -> RunFolder:
    """The folder, made if need be and ``held`` by this process, with the config in it.

    Raises ConfigError where it belongs to another run or cannot be one's, DiskError where another process holds it.
    """
    path = folder / CONFIG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = read_json(path) if path.exists() else config
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the output folder {folder} cannot be used: {error}; choose another one or put that right"
        ) from error
    if not isinstance(found, dict) or identity(found) != identity(config):
        raise ConfigError(f"{folder} holds a run with another config; choose another folder or take it away")
    opened = held.enter_context(closing(RunFolder(folder, config["trainer"]["total_steps"])))
    if not path.exists():
        write_json(path, config)
    return opened


# ---------------------------------------------------------------- from the command line


def _name(config: Config) -> str:
    names = config["names"]
    return f"{names['algorithm']}-{names['environment']}-{names['regularizer']}"


def _label(config: Config) -> str:
    """A name that tells the jobs of a sweep apart for a reader, if not always for a program."""
    values = {
        "lambda": config["regularizer"]["lambda_c"],
        "beta": config["regularizer"]["beta"],
        "seed": config["seed"],
    }
    return "-".join([_name(config), *(f"{name}{value:.4g}" for name, value in values.items() if value is not None)])


def job_name(config: Config) -> str:
    """The name of a job's folder in its sweep: readable, and the same for the same config only."""
    digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:10]
    return f"{_label(config)}-{digest}"


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
        text = OmegaConf.to_yaml(job)
        return f"invalid-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return job_name(config)


OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _job(config: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        resolved = _config_of(folder) if config.resume else resolve(config)
        results = run([resolved], [folder])
    except (ConfigError, DiskError) as error:
        _stop(error)
    print_results(results)
    print(f"rows, result and policy: {folder}")
    if (folder / FIGURE).exists():
        print(f"figure: {folder / FIGURE}")
    if results[0].status == "failed":
        _stop(FrozenError(f"{folder}: {read_json(folder / 'status.json')['error']}"))
    value = getattr(results[0], resolved["objective"])
    return None if value is None else float(value)


def _stop(error: Exception) -> NoReturn:
    if HydraConfig.get().mode is RunMode.MULTIRUN:  # the other jobs go on, and Hydra reports this one
        raise error
    sys.exit(_sentence(error))  # before Hydra adds lines of its own


def _config_of(folder: Path) -> Config:
    """The config that a run was started with. Raises ConfigError where ``folder`` is no run's."""
    try:
        config: Config = read_json(folder / CONFIG_FILE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"resume={folder}: there is no run to go on with ({error})") from error
    return config


def main() -> None:
    """The console script. Errors of the user's end with one sentence; others with their traceback."""
    # Hydra prints what goes wrong in a job, and some of what goes wrong before; it is asked to hand everything on instead
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _job()
    except (ConfigError, DiskError, FrozenError, HydraException, OmegaConfBaseException) as error:
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
        print("sparserl: stopped; go on with: python -m sparserl.train resume=FOLDER", file=sys.stderr)
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
