"""Speed of training with compiled gradient steps beside eager ones, on one core. What `make bench` runs after bench.py.

Both train in one process by turns, a few gradient steps each, which is a pair; the ratio is the median of those of all pairs.
Time is CPU time, since neighbours on the core would show in any other. It is that of the whole loop: acting, environment,
replay, update and rows. Gates of L0 move all the time. The cache of programs is empty before each pair of an algorithm and a
regulariser: what its first process took longer with compiled steps is what compiling takes, once for any number of members.
Rows and a table for docs/benchmarks.md go to results/DATE-compiled-speed/.

    python scripts/bench_compiled.py                                # everything: half an hour
    python scripts/bench_compiled.py --only dqn --regularizer none  # one pair; others of the same day are kept
    python scripts/bench_compiled.py --smoke                        # does it work? in outputs/smoke-results
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

from bench import PHASES, in_a_process
from measurements import Measurements, Row

from sparserl.sweeps.executors.processes import usable_cores

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


def measure(algorithm: str, regularizer: str, pairs: int) -> list[dict[str, Any]]:
    """A row for each number of members."""
    from sparserl.training import interrupts, programs

    interrupts.prepare()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for members in MEMBERS:
            both = [slices(algorithm, regularizer, members, compiled) for compiled in (False, True)]
            begun = [next(its)["total"] for its in both]
            made = {"compile_seconds": rows[0]["compile_seconds"] if rows else begun[1] - begun[0]}
            made["programs"] = len(list(programs.folder().rglob("*.pt2")))
            if not made["programs"]:
                sys.exit("nothing could be compiled")
            compared = by_turns(dict(zip(("eager", "compiled"), both, strict=True)), pairs, members * TASKS[algorithm].slice)
            rows.append({"members": members, **compared, **made})
    return rows


def by_turns(trained: Mapping[str, Iterator[Seconds]], pairs: int, steps: int) -> dict[str, Any]:
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


def slices(algorithm: str, regularizer: str, members: int, compiled: bool, more: Sequence[str] = ()) -> Iterator[Seconds]:
    """Train without end: of each slice the CPU seconds of this process and its children, and of each phase."""
    from sparserl.config.build import build
    from sparserl.config.validation import compose
    from sparserl.training.events import Row

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
    trainer, parts = build([compose(*overrides, f"seed={seed}") for seed in range(members)])
    started, learned = cpu(), False
    for event in trainer.run(parts):
        if isinstance(event, Row):
            learned = learned or any(name.startswith("loss/") for name in event.metrics[0])
            if learned:  # all before the first gradient steps is part of the first slice
                yield {"total": cpu() - started, **{phase: event.seconds.get(phase, 0.0) for phase in PHASES}}
                started = cpu()


def cpu() -> float:
    """CPU seconds of this process and of those that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(its.ru_utime + its.ru_stime for its in used)


def readable(row: Row) -> dict[str, str]:
    """The numbers of a row as the table has them."""
    rates, shares = ("eager_steps_per_second", "compiled_steps_per_second"), ("eager_share_update", "compiled_share_update")
    times, low, high = (float(row[name]) for name in ("times", "times_25", "times_75"))
    return {
        **{name: f"{float(row[name]):,.0f}" for name in (*rates, "compile_seconds")},
        **{name: f"{float(row[name]):.0%}" for name in shares},
        "times": f"{times:.2f} ({low:.2f} to {high:.2f})",
    }


MEASUREMENTS = Measurements(
    {
        "algorithm": "algorithm",
        "environment": "environment",
        "regularizer": "regularizer",
        "members": "members",
        "eager_steps_per_second": "eager, steps/s",
        "compiled_steps_per_second": "compiled, steps/s",
        "times": "times (quartiles of pairs)",
        "eager_share_update": "update, eager",
        "compiled_share_update": "update, compiled",
        "programs": "programs",
        "compile_seconds": "compiling, s",
    },
    key=("algorithm", "regularizer", "members"),
    readable=readable,
    order=lambda row: ([*TASKS].index(row["algorithm"]), row["regularizer"] != "none", int(row["members"])),
)


def main() -> None:
    """Measure, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="of slices for each row")
    parser.add_argument("--core", type=int, default=max(usable_cores()), help="the core to run on")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=[*TASKS], metavar="NAME", help="algorithms")
    parser.add_argument("--regularizer", nargs="+", choices=("none", "l0"), default=["none", "l0"], help="regularisers")
    parser.add_argument("--smoke", action="store_true", help="two pairs, kept out of results/")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps({"rows": measure(**json.loads(options.measure))}))
        return
    folder = Path("outputs/smoke-results" if options.smoke else "results") / f"{date.today()}-compiled-speed"
    for algorithm in options.only:
        for regularizer in options.regularizer:
            pair = {"algorithm": algorithm, "regularizer": regularizer, "pairs": 2 if options.smoke else options.pairs}
            rows = in_a_process([options.core], script=__file__, **pair)["rows"]
            table = MEASUREMENTS.add(folder, [pair | {"environment": TASKS[algorithm].environment} | row for row in rows])
    print(table)
    print(f"rows and table: {folder}")


if __name__ == "__main__":
    main()
