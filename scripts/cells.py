"""Tables whose runs are trained cell by cell: what is left of each and how long that takes, the commands, and the report."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from sparserl.config.identity import canonical
from sparserl.config.messages import sentence
from sparserl.config.schema import CONF, Config, ConfigError
from sparserl.config.validation import check, check_start, resolve
from sparserl.report.sources import ROWS, kept
from sparserl.runs.files import POLICY, read_json, write_text
from sparserl.runs.reader import RUNS_FILE, Run, distinguishing
from sparserl.sweeps.jobs import finished, job_name
from sparserl.terminal import leave

# ---------------------------------------------------------------- cells and tables


SMOKE = "trainer=smoke"
RESULTS, SMOKE_RESULTS = "results", "outputs/smoke-results"
"""Where tables are: what a few steps gave must not stand among results."""


@dataclass(frozen=True)
class Job:
    """A run of a cell."""

    folder: Path
    config: Config
    combination: tuple[str, ...]
    """Its overrides but for the seed."""


@dataclass(frozen=True)
class Cell:
    """The jobs of one multirun: ``regularizers`` with commas between them, seeds from ``first_seed`` on.

    ``experiment`` is the option of conf/experiment that says the rest, and ``overrides`` what differs from it.
    """

    algorithm: str
    environment: str
    regularizers: str
    seeds: int
    overrides: tuple[str, ...] = ()
    first_seed: int = 0
    experiment: str | None = None

    @property
    def name(self) -> str:
        return f"{self.algorithm}-{self.environment}-{self.regularizers}"

    def choices(self, is_smoke: bool) -> list[str]:
        """What its jobs share, and over what they go. The length of a run is that of the smoke form where ``is_smoke``."""
        chosen = f"algorithm={self.algorithm}", f"environment={self.environment}", f"regularizer={self.regularizers}"
        experiment = [f"experiment={self.experiment}"] if self.experiment else []
        overrides = [each for each in self.overrides if not (is_smoke and each.startswith("trainer.total_steps="))]
        if is_smoke:
            overrides = [each.replace(f"init_from={RESULTS}/", f"init_from={SMOKE_RESULTS}/") for each in overrides]
        return [*experiment, *chosen, f"seed=range({self.first_seed},{self.first_seed + self.seeds})", *overrides]

    def command(self, sweep: str, *more: str) -> list[str]:
        """What a user would type after ``python``."""
        return ["-m", "sparserl.train", "-m", *self.choices(SMOKE in more), f"sweep_name={sweep}", "logger=disk", *more]

    def jobs(self, sweep: str, *more: str) -> Iterator[Job]:
        """Its jobs, whether or not they can be trained on this machine."""
        given = {each.key_or_group: each for each in _parsed([*self.choices(SMOKE in more), f"sweep_name={sweep}", *more])}
        swept = _parsed(f"{key}={value}" for key, value in _swept_by(self.experiment).items() if key not in given)
        values = [
            [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
            if each.is_sweep_override()
            else [str(each.input_line)]
            for each in (*swept, *given.values())
        ]
        (seeds,) = ([int(each.removeprefix("seed=")) for each in its] for its in values if its[0].startswith("seed="))
        for combination in product(*(its for its in values if not its[0].startswith("seed="))):
            first = resolve(*combination, f"seed={seeds[0]}")
            for seed in seeds:
                # composing takes a tenth of a second, and only what a run begins from may be named by its seed
                run = resolve(*combination, f"seed={seed}") if first["init_from"] else first | {"seed": seed}
                yield Job(Path("outputs") / run["sweep_name"] / job_name(run), run, combination)


def _parsed(overrides: Iterable[str]) -> list[Any]:
    return list(OverridesParser.create().parse_overrides(list(overrides)))


@cache
def _swept_by(experiment: str | None) -> Mapping[str, Any]:
    """What an experiment goes over by itself."""
    if experiment is None:
        return {}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", [f"experiment={experiment}"], return_hydra_config=True)
    return dict(config.hydra.sweeper.params or {})


@dataclass(frozen=True)
class Table:
    """Cells that are reported together in results/<name>.

    Their runs are kept in outputs/<sweep>. Tables of one sweep share runs: the same config has the same folder there.
    Where others begin from these runs, ``keeps_policies`` puts their policies beside the table, in policies/<run folder>,
    so that the others can be trained on another machine.
    """

    name: str
    cells: Sequence[Cell]
    sweep: str = ""
    keeps_policies: bool = False

    @property
    def kept_in(self) -> str:
        return self.sweep or self.name


# ---------------------------------------------------------------- time

RATES = {
    **dict.fromkeys(("dqn", "double_dqn"), 8_000),
    **dict.fromkeys(("ppo", "a2c"), 6_000),
    **dict.fromkeys(("ddpg", "td3", "sac"), 60),
}
"""Environment steps a second of all members together, on one core of a machine that was shared: from results/."""

SLOWER = {"acrobot": 2_500, "lunar_lander": 1_500, "fetch_reach": 55, "super_mario_bros_tiles": 350, "super_mario_bros": 100}
"""The same of environments that take longer than any of these algorithms that is trained on them, or as long."""


@dataclass
class Left:
    """What is left to train of some jobs."""

    jobs: int = 0
    done: int = 0
    steps: int = 0
    seconds: float = 0.0

    def add(self, other: Left) -> None:
        self.jobs, self.done = self.jobs + other.jobs, self.done + other.done
        self.steps, self.seconds = self.steps + other.steps, self.seconds + other.seconds

    def __str__(self) -> str:
        if not self.jobs:
            return "every run of it is in a table before"
        hours, minutes = divmod(round(self.seconds / 60), 60)
        time = f", about {hours} h {minutes:02} min on one core" if self.steps else ""
        return f"{self.done} of {self.jobs} runs are done; {self.steps:,} environment steps are left{time}"


class Rates:
    """Environment steps a second, of all members of a loop together, as finished runs measured them.

    Where there is none of an algorithm in an environment, it is the constant.
    """

    def __init__(self, results: Iterable[Mapping[str, Any]]) -> None:
        self._results = results

    def __call__(self, algorithm: str, environment: str, regularizer: str) -> float:
        for known in ((algorithm, environment, regularizer), (algorithm, environment)):
            loops = [loop for names, loop in self._loops if names[: len(known)] == known]
            if loops:
                return sum(steps for steps, _ in loops) / sum(seconds for _, seconds in loops)
        slower = 60 if environment.startswith("surrol") else SLOWER.get(environment, RATES[algorithm])
        return min(RATES[algorithm], slower)

    @cached_property
    def _loops(self) -> list[tuple[tuple[str, ...], tuple[float, float]]]:
        """Of each regulariser in each loop: its names, and the steps and the seconds of the loop."""
        loops: dict[float, list[Mapping[str, Any]]] = {}
        for row in self._results:  # what trained in one loop has the same seconds, to the last digit
            loops.setdefault(row["wall_seconds"], []).append(row)
        found = []
        for seconds, members in loops.items():
            steps = sum(row["env_steps"] for row in members)
            regularized = {(row["algorithm"], row["environment"], row["regularizer"]) for row in members}
            found += [(names, (steps, seconds)) for names in sorted(regularized)]
        return found


# ---------------------------------------------------------------- train and report


class Plan:
    """The cells of one table that are to be trained, with ``overrides`` of the user's."""

    def __init__(self, table: Table, only: str, overrides: Sequence[str]) -> None:
        is_smoke = SMOKE in overrides
        self.table, self._overrides = table, overrides
        self.cells = [cell for cell in table.cells if only in cell.name]
        self._sweep = f"smoke-{table.kept_in}" if is_smoke else table.kept_in
        self.results = Path(SMOKE_RESULTS if is_smoke else RESULTS) / table.name
        self._jobs: dict[Cell, list[Job]] = {}

    def command(self, cell: Cell) -> list[str]:
        return cell.command(self._sweep, *self._overrides)

    def commands(self, cell: Cell) -> list[list[str]]:
        """Those that train what is left of a cell, and nothing that is known.

        It is one where of each combination the same seeds are left: these train together.
        """
        left: dict[tuple[str, ...], list[int]] = {job.combination: [] for job in self.jobs(cell)}
        for job in self.jobs(cell):
            if not self._is_known(job.folder):
                left[job.combination].append(job.config["seed"])
        seeds = {combination: f"seed={','.join(map(str, its))}" for combination, its in left.items() if its}
        if len(seeds) == len(left) and len({*seeds.values()}) == 1:
            (same,) = {*seeds.values()}
            return [[same if word.startswith("seed=range(") else word for word in self.command(cell)]]
        return [["-m", "sparserl.train", "-m", *words, its, "logger=disk"] for words, its in seeds.items()]

    def jobs(self, cell: Cell) -> list[Job]:
        """Those of a cell, each folder once."""
        if cell not in self._jobs:
            jobs = {job.folder: job for job in reversed([*cell.jobs(self._sweep, *self._overrides)])}
            self._jobs[cell] = [*reversed(jobs.values())]
        return self._jobs[cell]

    def why_not(self, cell: Cell) -> str | None:
        """Why what is left of a cell cannot be trained on this machine, or not yet: None where it can be."""
        left = {canonical(job.config | {"seed": 0}): job.config for job in self.jobs(cell) if not self._is_known(job.folder)}
        try:
            for config in left.values():
                check(config)
                check_start(config)
        except ConfigError as error:
            return str(error)
        return None

    def is_done(self, cell: Cell) -> bool:
        """Whether every run of a cell has ended."""
        return all(self._is_known(job.folder) for job in self.jobs(cell))

    def _is_known(self, path: Path) -> bool:
        """Whether a run has ended, here or, as the tables in results/ say, on another machine."""
        if finished(path) is not None:
            return True
        is_lost = self.table.keeps_policies and not self._policy(path).exists()
        return path in self._kept and self._kept[path].is_swept and not is_lost

    def _policy(self, path: Path) -> Path:
        return self.results / "policies" / path.name / POLICY

    @cached_property
    def _rates(self) -> Rates:
        """From the runs that are here, and from those of the tables in results/, each once."""
        here = {path.parent: read_json(path) for path in Path("outputs", self._sweep).glob("*/result.json")}
        elsewhere = {path: run.result for path, run in self._kept.items() if run.result}
        return Rates((elsewhere | here).values())

    @cached_property
    def _kept(self) -> Mapping[Path, Run]:
        return kept(self.results.parent)

    def left(self, cell: Cell, seen: set[Path]) -> Left:
        """What is left of a cell but for the jobs that were ``seen`` before, which it adds to."""
        jobs = [job for job in self.jobs(cell) if job.folder not in seen]
        seen.update(job.folder for job in jobs)
        left = Left(jobs=len(jobs))
        for job in jobs:
            total, names = job.config["trainer"]["total_steps"], job.config["names"]
            if self._is_known(job.folder):
                left.done += 1
            else:
                steps = total - _reached(job.folder)
                rate = self._rates(names["algorithm"], names["environment"], names["regularizer"])
                left.steps, left.seconds = left.steps + steps, left.seconds + steps / rate
        return left

    def report(self) -> None:
        """Write the table of all its cells, whichever were chosen to be trained."""
        named = {job.folder: job.config for cell in self.table.cells for job in self.jobs(cell)}
        self.results.mkdir(parents=True, exist_ok=True)
        write_text(self.results / RUNS_FILE, "".join(f"{path.as_posix()}\n" for path in named))
        for path in named if self.table.keeps_policies else ():
            if finished(path) is not None and (path / POLICY).exists():
                self._policy(path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path / POLICY, self._policy(path))
        if any(path.is_dir() or path in self._kept for path in named):
            make = [sys.executable, "-m", "sparserl.report", str(self.results)]
            subprocess.run(make, check=True)
            if _completed(self.results / ROWS, named):
                subprocess.run(make, check=True)


def _completed(rows: Path, configs: Mapping[Path, Config]) -> bool:
    """Whether runs of other machines lacked settings, which they are given here.

    A table does not state what all its runs have in common, so rows that it keeps lack what only newer ones differ in.
    """
    runs = [Run(folder, config, {}, {}, [], [], [], [], []) for folder, config in configs.items()]
    settings = {str(run.folder): run.settings for run in runs}
    table = pd.read_csv(rows, dtype=str, keep_default_na=False)
    before = table.copy()
    for key in distinguishing(runs):
        values = [settings[folder].get(key) for folder in table["folder"]]
        known = table[key] if key in table else [""] * len(table)
        table[key] = [old or ("" if new is None else str(new)) for old, new in zip(known, values, strict=True)]
    if table.equals(before):
        return False
    table.to_csv(rows, index=False)
    return True


def _reached(folder: Path) -> int:
    """The step that a run has reached, 0 where there is none."""
    path = folder / "status.json"
    return int(read_json(path)["env_step"]) if path.exists() else 0


def reproduce(tables: Sequence[Table], description: str) -> None:
    """Train the cells of tables that the command line chooses, after an estimate of the time.

    After each cell the report of its table goes to results/<table>. Started again, it goes on where it was.
    """
    parser = argparse.ArgumentParser(description=description)
    several = f"tables ({', '.join(table.name for table in tables)}; by default all) and " if len(tables) > 1 else ""
    parser.add_argument("--only", default="", metavar="TEXT", help="the cells whose name contains it")
    parser.add_argument("--list", action="store_true", help="print the command of each cell, and train nothing")
    parser.add_argument("--estimate", action="store_true", help="print what is left and how long it takes, and train nothing")
    parser.add_argument("--report", action="store_true", help="report what there is, and train nothing")
    parser.add_argument("chosen", nargs="*", metavar="WORD", help=f"{several}more overrides, such as trainer=smoke")
    arguments = parser.parse_intermixed_args()
    overrides = [word for word in arguments.chosen if "=" in word]
    names = [word for word in arguments.chosen if "=" not in word]
    if unknown := {*names} - {table.name for table in tables}:
        parser.error(f"{', '.join(sorted(unknown))}: known tables are {', '.join(table.name for table in tables)}")
    plans = [Plan(table, arguments.only, overrides) for table in tables if not names or table.name in names]
    if not any(plan.cells for plan in plans):
        parser.error(f"--only {arguments.only}: no cell has that in its name; --list prints them")
    try:
        _reproduce(plans, arguments)
    except (ConfigError, HydraException) as error:
        leave(sentence(error))


def _reproduce(plans: Sequence[Plan], arguments: argparse.Namespace) -> None:
    """What the command line asks for."""
    if arguments.list:
        for plan in plans:
            for cell in plan.cells:
                print(f"{cell.name}: python {shlex.join(plan.command(cell))}")
        return
    if arguments.report:
        for plan in plans:
            plan.report()
        return
    _estimate(plans)
    if arguments.estimate:
        return
    for plan in plans:
        left = [cell for cell in plan.cells if not plan.is_done(cell)]
        for cell in left:
            for command in plan.commands(cell):
                # a member that fails is a row of the table; the other cells are trained all the same
                subprocess.run([sys.executable, *command], check=False)
            plan.report()
        if not left:
            plan.report()
    if untrained := [f"{cell.name}: {why}" for plan in plans for cell in plan.cells if (why := plan.why_not(cell))]:
        sys.exit("\n".join(["not trained:", *untrained]))


def _estimate(plans: Sequence[Plan]) -> None:
    """Print what is left and how long it takes, and why a cell cannot be trained."""
    seen: set[Path] = set()
    total = Left()
    for plan in plans:
        whole, waiting = Left(), 0
        for cell in plan.cells:
            if why := plan.why_not(cell):
                waiting += 1
                print(f"  {cell.name}: {why}", flush=True)
            else:
                left = plan.left(cell, seen)
                print(f"  {cell.name}: {left}", flush=True)
                whole.add(left)
        told = [str(whole)] * (waiting < len(plan.cells)) + [f"{waiting} cells cannot be trained yet"] * (waiting > 0)
        print(f"{plan.table.name}: {'; '.join(told)}", flush=True)
        total.add(whole)
    print(f"all: {total}. Stop it at any time: the same command goes on.", flush=True)
