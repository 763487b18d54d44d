"""What a person sees: a progress bar on a terminal, plain lines in a log, a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sparserl.runs.schema import Result
from sparserl.terminal import console, number, optional, plain, print_table


class Display:
    """Shows how the members of one loop go, each cell by itself; a context manager.

    ``cells`` says of each member what it trains; ``total_steps`` are of each member. Only ``live`` has bars, one for each cell.
    """

    def __init__(self, cells: Sequence[str], total_steps: int, live: bool) -> None:
        self._cells, self._total = cells, total_steps
        self._console = console(sys.stderr)
        self._shown = {cell: {"return": "-", "sparsity": "-"} for cell in cells}
        self._started: tuple[float, int] | None = None
        self._bar: Progress | None = None
        if live and self._console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                "steps",
                "{task.fields[speed]} steps/s",
            )
            values = TextColumn("return {task.fields[score]} · sparsity {task.fields[sparsity]} · left")
            self._bar = Progress(*columns, values, TimeRemainingColumn(), console=self._console)
            self._tasks = {
                cell: self._bar.add_task(plain(cell), total=total_steps, speed="-", score="-", sparsity="-")
                for cell in self._shown
            }

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def progress(self, env_step: int) -> None:
        """Every member has taken ``env_step`` steps."""
        if self._started is None:
            self._started = (time.perf_counter(), env_step)
        if self._bar:
            for task in self._tasks.values():
                self._bar.update(task, completed=env_step, speed=self._speed(env_step))

    def row(self, env_step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A row of every member: means over those of a cell are shown, of the evaluation where there is one."""
        for name, key in (("return", "train/return"), ("return", "eval/return_mean"), ("sparsity", "sparsity/exact")):
            for cell, shown in self._shown.items():
                of_cell = [row for row, its in zip(rows, self._cells, strict=True) if its == cell]
                values = [row[key] for row in of_cell if row.get(key) is not None]
                if values:
                    shown[name] = number(fmean(values), ".3g")
        if self._bar:
            for cell, shown in self._shown.items():
                self._bar.update(self._tasks[cell], score=shown["return"], sparsity=shown["sparsity"])
        elif any("eval/return_mean" in row for row in rows):
            for cell, shown in self._shown.items():
                self.say(
                    f"{cell}: {env_step} of {self._total} steps, {self._speed(env_step)} steps/s, "
                    f"evaluated return {shown['return']}, sparsity {shown['sparsity']}"
                )

    def say(self, sentence: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(plain(sentence), soft_wrap=True)

    def _speed(self, env_step: int) -> str:
        """Environment steps of each member a second, like ``steps_per_second`` in result.json, since this process took over."""
        seconds = time.perf_counter() - self._started[0] if self._started else 0.0
        return f"{(env_step - self._started[1]) / seconds:.0f}" if self._started and seconds else "-"


@optional("table of the results")
def print_results(results: Sequence[Result]) -> None:
    """The table at the end of a run. Raises nothing: the run is done."""
    headers = "regularizer", "lambda_c", "seed", "return", "random", "sparsity", "weights left", "steps/s"
    rows = [
        (
            r.regularizer,
            number(r.lambda_c),
            str(r.seed),
            _return(r),
            number(r.return_random, ".1f"),
            number(r.sparsity, ".1%"),
            f"{r.nonzero_weights} of {r.policy_weights}",
            number(r.steps_per_second, ".0f"),
            *_at_rank(r),
        )
        for r in results
    ]
    print_table([*headers, "rank", "compression", "return at it", "shrunken: compression", "return at it"], rows)


@optional("table of the jobs")
def print_jobs(jobs: Sequence[tuple[str, str, Result | None, str]]) -> None:
    """The table at the end of a sweep: the name of each job, how it ended, its result, and whatever there is to say of it.

    Raises nothing: the jobs are done.
    """
    rows = []
    for name, status, r, remark in jobs:
        found = (_return(r), number(r.sparsity, ".1%"), str(r.nonzero_weights), *_at_rank(r)[:4]) if r else ["-"] * 7
        rows.append((name, status, *found, remark))
    print_table(["job", "", "return", "sparsity", "weights left", "rank", "compression", "return at it", "shrunken", ""], rows)


def _return(r: Result) -> str:
    """With its deviation, where there was more than one episode, and what else the environment judges by."""
    mean, deviation = number(r.return_mean, ".1f"), number(r.return_std, ".1f")
    found = [mean if deviation == "-" else f"{mean} ± {deviation}"]
    if r.success_rate is not None:
        found.append(f"{number(r.success_rate, '.0%')} success")
    if r.x_pos is not None:
        found.append(f"x {number(r.x_pos, '.0f')}")
    if r.flag_rate is not None:
        found.append(f"{number(r.flag_rate, '.0%')} flag")
    return ", ".join(found)


def _at_rank(r: Result) -> tuple[str, str, str, str, str]:
    """The selected rank with what it saves and its return, and these two without the units that do nothing, at their rank."""
    rank = "-" if r.rank is None else str(r.rank)
    plain = number(r.compression, ".1%"), number(r.return_lowrank, ".1f")
    return rank, *plain, number(r.shrunken_compression, ".1%"), number(r.shrunken_return_mean, ".1f")
