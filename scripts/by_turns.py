"""Trainings by turns in one process, a few gradient steps each: what benches that compare two ways of training share.

Time is CPU time, since neighbours on the core would show in any other. It is that of the whole loop: acting, environment,
replay, update and rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from bench import PHASES, in_a_process, options_of
from measurements import Measurements, Row, folder_of

MEMBERS = (1, 8)

Seconds: TypeAlias = dict[str, float]
"""Of one slice: CPU seconds in ``total``, and by phase the wall seconds of the trainer."""


@dataclass(frozen=True)
class Task:
    """One algorithm as it is shipped for an environment, but that it begins to learn at once."""

    environment: str
    slice: int
    """Environment steps of each member in one half of a pair: several gradient steps, and whole rollouts."""
    overrides: tuple[str, ...]


_ACTOR_CRITIC = "experience.learning_starts=300", "algorithm.random_steps=300"

TASKS = {
    "dqn": Task("cartpole", 2000, ("experience.learning_starts=1000", "algorithm.epsilon=0.05")),
    "ppo": Task("cartpole", 1024, ()),
    "td3": Task("half_cheetah", 10, _ACTOR_CRITIC),
    "sac": Task("half_cheetah", 10, _ACTOR_CRITIC),
}
GATES_MOVE = (
    "regularizer.delay_steps=0",
    "regularizer.ramp_steps=0",
    "regularizer.freeze_at_step=null",
    "regularizer.lambda_c=1e-3",
)


def compare(trained: Mapping[str, Iterator[Seconds]], pairs: int, steps: int) -> dict[str, Any]:
    """Two trainings by turns, in slices of ``steps`` environment steps of all members: how many times as fast the second is."""
    first, second = trained
    spent: dict[str, list[Seconds]] = {name: [] for name in trained}
    for number in range(pairs):
        for name in (first, second) if number % 2 else (second, first):
            spent[name].append(next(trained[name]))
    times = [before["total"] / after["total"] for before, after in zip(spent[first], spent[second], strict=True)]
    low, _, high = statistics.quantiles(times, n=4)
    row: dict[str, Any] = {"pairs": pairs, "times": statistics.median(times), "times_25": low, "times_75": high}
    for name, slices in spent.items():
        row[f"{name}_steps_per_second"] = steps / statistics.median(its["total"] for its in slices)
        phases = {phase: sum(its[phase] for its in slices) for phase in PHASES}
        row |= {f"{name}_share_{phase}": value / sum(phases.values()) for phase, value in phases.items()}
    return row


def parts_of(algorithm: str, regularizer: str, members: int, compiled: bool, more: Sequence[str] = ()) -> Any:
    """A trainer without end, and what it trains."""
    from sparserl.config.build import build
    from sparserl.config.validation import compose

    task = TASKS[algorithm]
    overrides = (
        f"algorithm={algorithm}",
        f"environment={task.environment}",
        f"regularizer={regularizer}",
        f"trainer.compile={str(compiled).lower()}",
        f"trainer.log_every={task.slice}",
        *(f"trainer.{key}=1000000000" for key in ("eval_every", "checkpoint_every", "total_steps")),
        "trainer.eval_episodes=1",
        "logger=disk",
        "device=cpu",
        *task.overrides,
        *(GATES_MOVE if regularizer == "l0" else ()),
        *more,
    )
    return build([compose(*overrides, f"seed={seed}") for seed in range(members)])


def slices(algorithm: str, regularizer: str, members: int, compiled: bool, more: Sequence[str] = ()) -> Iterator[Seconds]:
    """Train without end: of each slice the CPU seconds of this process and its children, and of each phase."""
    from sparserl.training.events import Row

    trainer, parts = parts_of(algorithm, regularizer, members, compiled, more)
    started, learned = cpu(), False
    for event in trainer.run(parts):
        if isinstance(event, Row):
            learned = learned or any(name.startswith("loss/") for name in event.metrics[0])
            if learned:  # all before the first gradient steps is part of the first slice
                yield {"total": cpu() - started, **{phase: event.seconds.get(phase, 0.0) for phase in PHASES}}
                started = cpu()


def within(context: Callable[[], AbstractContextManager[Any]], trained: Iterator[Seconds]) -> Iterator[Seconds]:
    """The same training, each slice of it within a context."""
    while True:
        with context():
            spent = next(trained)
        yield spent


def cpu() -> float:
    """CPU seconds of this process and of those that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(its.ru_utime + its.ru_stime for its in used)


def readable_rates(row: Row, ways: Sequence[str]) -> dict[str, str]:
    """The steps/s of both ways and their ratio, as a table has them."""
    times, low, high = (float(row[name]) for name in ("times", "times_25", "times_75"))
    rates = {f"{way}_steps_per_second": f"{float(row[f'{way}_steps_per_second']):,.0f}" for way in ways}
    return rates | {"times": f"{times:.2f} ({low:.2f} to {high:.2f})"}


def arguments(description: str | None, algorithms: Sequence[str]) -> argparse.ArgumentParser:
    """The options of such a bench."""
    parser = options_of(description, algorithms)
    parser.add_argument("--pairs", type=int, default=15, help="of slices for each row; a smoke run has two")
    return parser


def measure_all(
    options: argparse.Namespace,
    script: str,
    name: str,
    measure: Callable[..., list[dict[str, Any]]],
    measurements: Measurements,
    tasks: Sequence[Mapping[str, Any]],
) -> None:
    """Measure each task in a process of its own, keep the rows in results/NAME, and print the table.

    In such a process ``options.measure`` is the task, of an algorithm of TASKS.
    """
    if options.measure:
        print(json.dumps({"rows": measure(**json.loads(options.measure))}))
        return
    folder = folder_of(name, options.smoke)
    table = ""
    for task in tasks:
        given = {**task, "pairs": 2 if options.smoke else options.pairs}
        rows = in_a_process([options.core], script=script, **given)["rows"]
        table = measurements.add(folder, [given | {"environment": TASKS[task["algorithm"]].environment} | row for row in rows])
    print(table)
    print(f"rows and table: {folder}")
