"""Train runs in one loop, from their configs to what they leave."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from sparserl.config.build import build, build_logger, build_rank_sweep, build_start
from sparserl.config.identity import identity
from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import check_start
from sparserl.lowrank.sweep import RankSweep
from sparserl.population.state import State, restoring
from sparserl.report.figures import draw
from sparserl.runs import checkpoint, provenance
from sparserl.runs.files import DiskError
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import Result, StatusName
from sparserl.sweeps.jobs import Job, cell_name, label, reserve_folder
from sparserl.terminal import optional, say
from sparserl.tracking.console import Display
from sparserl.tracking.recorder import Recorder
from sparserl.training.evaluation import random_returns
from sparserl.training.events import Finished, Progress, Row, Snapshot
from sparserl.training.interrupts import Interrupts, own_defaults, prepare
from sparserl.training.loop_parts import LoopParts
from sparserl.training.trainer import Trainer
from sparserl.training.worth_compiling import how_it_goes_on


@own_defaults()
def run(
    configs: Sequence[Config], folders: Sequence[str | Path], live: bool = True, command: str | None = None
) -> list[Result]:
    """Train runs in one loop, each into its own folder, going on from the folders' checkpoints if they have any.

    The configs are resolved ones (``validation.compose``) that may differ in seeds, per-member values and their
    regulariser only; neighbours that do not differ in it are one population. SIGINT and SIGTERM end it with KeyboardInterrupt,
    all rows written; called again, it goes on from the last checkpoint. Without ``live`` there are plain lines also on a
    terminal, for processes that share one. ``command`` is what results say they were made with, where that is not what started
    this process.

    A member whose loss is not finite is stopped, and its result has the status ``failed``; the others do not change.
    Raises ConfigError before anything is trained, and DiskError where a member's folder cannot be written, another process
    writes there, or an incompatible version has written its checkpoint. Members share one loop, so that stops all of them,
    ``interrupted``; called again, they go on from the newest checkpoint that all of them have.
    """
    prepare()
    trainer, parts = build(configs)
    logger = build_logger(configs[0])
    jobs = [Job(config, Path(folder)) for config, folder in zip(configs, folders, strict=True)]
    with ExitStack() as held:
        opened = []
        for job in jobs:
            reserve_folder(job)
            opened.append(held.enter_context(closing(RunFolder(job.folder, trainer.total_steps))))
        paths = [job.folder for job in jobs]
        try:
            states = checkpoint.load(paths)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        with checkpoint.naming(paths), restoring():
            note = how_it_goes_on(trainer.compile, [state["trainer"] for state in states or ()])
        if note:
            say(note)
        for config in configs if states is None else ():
            check_start(config)
        logs = logger.open(paths, configs, [label(config) for config in configs])
        members, typed = range(len(configs)), command or provenance.command()
        identities = [identity(config) for config in configs]
        regularizers = [its.regularizer for its in parts.populations for _ in its.members.seeds]
        each = zip(opened, configs, identities, regularizers, members, logs, strict=True)
        recorders = [
            Recorder(folder, config, its, regularizer, member, log, typed)
            for folder, config, its, regularizer, member, log in each
        ]
        try:
            with checkpoint.naming(paths):
                return _train(trainer, parts, paths, recorders, states, live)
        except KeyboardInterrupt:
            _end(recorders, "interrupted")
            raise
        except DiskError as error:
            _end(recorders, "interrupted", str(error))
            raise
        except (Exception, SystemExit):  # an environment may raise that too
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
    parts: LoopParts,
    paths: Sequence[Path],
    recorders: Sequence[Recorder],
    states: Sequence[State] | None,
    live: bool,
) -> list[Result]:
    cells = [cell_name(recorder.config) for recorder in recorders]
    sweep = build_rank_sweep(recorders[0].config)
    saved = [state.pop("trainer") for state in states or ()]
    for member, recorder in enumerate(recorders):
        with restoring():
            recorder.begin(states[member]["records"] if states else None)
    with Display(cells, trainer.total_steps, live) as display, Interrupts() as interrupts:
        if states:
            display.say(f"going on from step {saved[0]['env_step']}")
        display.say(sweep.cost(parts.environment, parts.algorithm, trainer.total_steps))
        start = () if states else [build_start(recorder.config) for recorder in recorders]
        with closing(trainer.run(parts, saved, start, interrupts.check_interrupt)) as events:
            for event in events:
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
                        checkpoint.save(
                            paths,
                            event.env_step,
                            [{"trainer": own, "records": its} for own, its in members],
                            event.run_by(),
                        )
                        event.states.clear()  # they are large, and the event stays until the next one
                    case Finished():
                        return _finish(event, trainer, parts, paths, recorders, sweep, display, interrupts)
                interrupts.check_interrupt()
    raise AssertionError("a trainer's last event is Finished")


def _finish(
    event: Finished,
    trainer: Trainer,
    parts: LoopParts,
    paths: Sequence[Path],
    recorders: Sequence[Recorder],
    sweep: RankSweep,
    display: Display,
    interrupts: Interrupts,
) -> list[Result]:
    """Write policies and results, then evaluate the ranks, which completes the results."""
    check = interrupts.check_interrupt
    random = random_returns(parts.environment, trainer.eval_episodes, check_interrupt=check)
    for recorder in recorders:
        recorder.trained(event, random, parts.members.device.type)
    check()
    display.say("trained; policies are saved; now the ranks are evaluated")
    started = time.perf_counter()
    algorithm = event.group.learners[0].algorithm
    found = sweep(parts.environment, algorithm, event.group.deployed(), check, event.group.policies)
    seconds = time.perf_counter() - started
    results = []
    for path, recorder, swept, stopped in zip(paths, recorders, found, event.group.stopped(), strict=True):
        results.append(recorder.swept(swept, seconds))
        for warning in recorder.at_end:
            display.say(f"warning: {label(recorder.config)}: {warning}")
        with optional(f"figure of {path}"):
            draw(path)
        recorder.end(results[-1].status, stopped)
        check()
    return results
