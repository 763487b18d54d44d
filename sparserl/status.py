"""How the runs below a folder are doing: ``python -m sparserl.status FOLDER``.

Nothing is changed, so it may be asked at any moment, while a sweep runs and on another machine; what is half-written or gone
says nothing yet. The exit code is 1 where a job failed or its files are damaged, 2 where there is no run, else 0.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
from rich.table import Column
from rich.text import Text

from sparserl.runs import reader
from sparserl.runs.files import now
from sparserl.runs.schema import as_json
from sparserl.terminal import console, number, print_line, print_table, say

STATUSES = {
    "done": "",
    "duplicate": "dim",
    "waiting": "dim",
    "running": "green",
    "interrupted": "yellow",
    "stopped": "yellow",
    "damaged": "red",
    "failed": "red",
}
"""Those of status.json and two more, in the order in which they are shown, with their colours."""

TROUBLE = ("damaged", "failed")
"""What does not go on by itself when the sweep is started again."""

MANY = 20
"""If more jobs than these have one status, they are one row."""

ROWS = 10
"""How many of the last rows say how fast a job is; with the shipped settings there is one evaluation among them."""

TAIL = 1 << 18
"""How many bytes at the end of a log are read: all of it with the shipped settings."""

SILENCE = 600.0
"""Seconds without a row that say nothing yet of a process on another machine, which cannot be asked ..."""
LONG_SILENCE = 3600.0
"""... and where rows do not say how long they take: before the first, and after the last, while the ranks are evaluated."""

CLOCK = 10.0
"""Seconds by which a machine's clock may be set anew while a process runs: when that began is then another time."""


@dataclass(frozen=True)
class Job:
    """One run: an object of ``jobs`` in ``--json``. What is not known is null."""

    folder: str
    """Below the folder that was asked for."""
    status: str
    """status.json's; ``stopped`` where that says running, and its process is gone; ``damaged`` where it cannot be true."""
    env_step: int
    """Environment steps that were taken."""
    total_steps: int | None
    """Environment steps that there are to take."""
    steps_per_second: float | None
    """Environment steps of this run, over the last rows, while its loop trained other members too."""
    seconds_left: float | None
    """While it runs, until its last step; evaluating the ranks comes after."""
    return_mean: float | None
    """Of the last evaluation."""
    sparsity: float | None
    """Exact zeros, in the last row."""
    warnings: int
    """How many it has given."""
    note: str | None
    """What went wrong, what goes on, or what it is the same as."""


@dataclass(frozen=True)
class Totals:
    """Many jobs: the other keys of ``--json``. Duplicates take no steps."""

    counts: dict[str, int]
    """How many have each status."""
    progress: float | None
    """The share of all their steps that is taken."""
    all_steps_per_second: float
    """The sum of ``steps_per_second`` over the jobs that run."""
    all_seconds_left: float | None
    """Until the last step of those that can go on, at the speed of those that run; null where none does."""


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser("sparserl-status", description="How the runs below a folder are doing.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a sweep, of a run, or with any of them below it")
    parser.add_argument("--all", action="store_true", help=f"a row for each job, also if more than {MANY} have one status")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", type=float, metavar="SECONDS", help="look again every so often while jobs run or wait")
    how.add_argument("--json", action="store_true", help="jobs, counts, progress, all_steps_per_second, all_seconds_left")
    arguments = parser.parse_args()
    screen = console(sys.stdout)
    if arguments.watch is not None and not (screen.is_terminal and arguments.watch > 0):
        parser.error("--watch needs a terminal, and seconds above 0")
    try:
        while True:
            jobs = look(arguments.folder)
            if not jobs:
                say(f"sparserl: there is no run in {arguments.folder}")
                sys.exit(2)
            if arguments.json:
                for line in json.dumps(as_json({"jobs": jobs} | vars(totals(jobs))), indent=2).splitlines():
                    print_line(line)
            else:
                if arguments.watch:
                    screen.clear()
                print_table(_headers(), _lines(jobs, arguments.all))
                print_line(_sentence(totals(jobs)))
            if not arguments.watch or not any(job.status in ("running", "waiting") for job in jobs):
                break
            time.sleep(arguments.watch)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(any(job.status in TROUBLE for job in jobs))


def look(folder: Path) -> list[Job]:
    """The jobs in a folder and below it, by status: those that need somebody are last."""
    inside = {path: path.relative_to(folder) if path.is_relative_to(folder) else path for path in reader.folders([folder])}
    names = {path: str(name) for path, name in inside.items()}
    jobs = [job for path, name in names.items() if (job := _job(path, folder.resolve().name if name == "." else name))]
    return sorted(jobs, key=lambda job: ([*STATUSES].index(job.status), _counted(job.folder)))


def totals(jobs: Sequence[Job]) -> Totals:
    """What many jobs are together."""
    training = [(job, job.total_steps) for job in jobs if job.total_steps and job.status != "duplicate"]
    running = [job for job in jobs if job.status == "running"]
    steps = sum(total for _, total in training)
    speed = sum((job.steps_per_second or 0.0 for job in running), 0.0)
    ahead = sum(total - job.env_step for job, total in training if job.status not in TROUBLE)
    return Totals(
        counts={status: sum(job.status == status for job in jobs) for status in STATUSES},
        progress=sum(job.env_step for job, _ in training) / steps if steps else None,
        all_steps_per_second=speed,
        all_seconds_left=max([ahead / speed, *(job.seconds_left or 0.0 for job in running)]) if speed else None,
    )


# ---------------------------------------------------------------- one job


def _job(folder: Path, name: str) -> Job | None:
    """What the files of a run say at this moment; None where they are gone."""
    run = reader.read(folder, rows=False)
    said, result = run.status_file, run.result
    if not (said or result or run.config or run.problems):
        return None
    metrics = _tail(folder / "metrics.jsonl")
    speed, seconds = _pace(_tail(folder / "timing.jsonl"))
    status, note = run.status, run.error
    if status == "no status" and not run.problems:
        status = "waiting"  # it has its folder, and has not begun
    elif status not in STATUSES:
        status = "damaged"
        note = "; ".join(run.problems) or f"status.json says {said.get('status')!r}, and there is no result.json"
    total = said.get("total_steps") or run.config.get("trainer", {}).get("total_steps")
    total = total if isinstance(total, int) else None  # of a damaged file
    step = _last(metrics, "env_step") or said.get("env_step", 0)
    if total is not None:
        step = total if status == "done" else min(step, total)
    if status == "running":
        trained = step == total
        patience = max(SILENCE, ROWS * max(seconds)) if seconds and not trained else LONG_SILENCE
        if _is_gone(folder, said, patience):
            if reader.read(folder, rows=False).status_file != said:  # it came to its end while we looked
                return _job(folder, name)
            status, note = "stopped", "its process is gone; start the sweep again: it goes on"
        elif trained:
            note = "the ranks are evaluated"
    elif status == "duplicate":
        note = f"the same as {said.get('of')}"
    warnings = sum(len(row["warnings"]) for row in _rows(metrics, "warnings") if isinstance(row["warnings"], list))
    return Job(
        folder=name,
        status=status,
        env_step=step,
        total_steps=total,
        steps_per_second=speed,
        seconds_left=(total - step) / speed if status == "running" and speed and total else None,
        return_mean=result.get("return_mean", _last(metrics, "eval/return_mean")),
        sparsity=result.get("sparsity", _last(metrics, "sparsity/exact")),
        warnings=len(result["warnings"]) if result else warnings,
        note=note or "; ".join(run.problems) or None,
    )


def _is_gone(folder: Path, said: reader.Row, patience: float) -> bool:
    """Whether the process is gone that status.json says runs: it is asked here, and elsewhere silent for ``patience`` s."""
    if said.get("host") == socket.gethostname():
        return not _lives(said["process"], said["process_began"])
    last = max(_written(folder / "status.json"), _written(folder / "metrics.jsonl"))
    return now(folder) - last > patience


def _lives(number: int, began: float | None) -> bool:
    """Whether this machine runs a process of this number that ``began`` then (seconds since 1970), where that is known."""
    try:
        process = psutil.Process(number)
        same = began is None or abs(process.create_time() - began) < CLOCK
        return same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


# ---------------------------------------------------------------- logs


def _pace(timing: Sequence[bytes]) -> tuple[float | None, list[float]]:
    """Steps a second over the last rows of timing.jsonl, and the seconds of each."""
    # ranks take no step
    rows = [row for row in _rows(timing[-ROWS - 2 :], "env_step") if _is_number(row["env_step"]) and "lowrank" not in row]
    if len(timing) <= ROWS:  # these are all
        rows.insert(0, {"env_step": 0})
    seconds = [sum(value for key, value in row.items() if key != "env_step" and _is_number(value)) for row in rows[1:]]
    steps = rows[-1]["env_step"] - rows[0]["env_step"] if rows else 0
    return steps / sum(seconds) if steps > 0 and sum(seconds) > 0 else None, seconds


def _last(lines: Sequence[bytes], key: str) -> Any:
    """The last value of a key that is a number."""
    return next((row[key] for row in _rows(reversed(lines), key) if _is_number(row[key])), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rows(lines: Iterable[bytes], key: str) -> Iterator[reader.Row]:
    """The rows that have a key; the others, and what is not whole in a copy, are passed over."""
    for line in lines:
        if f'"{key}"'.encode() in line:  # or else it need not be parsed
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and key in row:
                    yield row


def _tail(path: Path) -> list[bytes]:
    """The last whole lines of a log; none where there is no log."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(start)
            lines = file.read().split(b"\n")
    except OSError:
        return []
    return lines[1 if start else 0 : -1]  # the last is empty, or being written at this moment


# ---------------------------------------------------------------- for a reader


def _headers() -> list[str | Column]:
    numbers = ("%", "steps", "steps/s", "left", "return", "sparsity")
    return ["job", "status", *(Column(header, justify="right", no_wrap=True) for header in numbers), ""]


def _lines(jobs: Sequence[Job], everything: bool) -> Iterator[list[Text]]:
    """The rows of the table, with an empty one after those of each status."""
    for status, group in groupby(jobs, key=lambda job: job.status):
        alike = [*group]
        for members in [alike] if len(alike) > MANY and not everything else [[job] for job in alike]:
            yield _cells(status, members)
        yield []


def _cells(status: str, jobs: Sequence[Job]) -> list[Text]:
    """The row of a job, or of many that have one status: sums of their steps, means of what they reached."""
    whole = totals(jobs)
    share, speed, left = whole.progress, whole.all_steps_per_second, whole.all_seconds_left
    steps, total = sum(job.env_step for job in jobs), sum(job.total_steps or 0 for job in jobs)
    numbers = [
        "" if share is None else f"{share:.0%}",
        "" if share is None else f"{steps} of {total}",
        f"{speed:.0f}" if speed else "",
        "" if left is None else _duration(left),
        _mean([job.return_mean for job in jobs], ".1f"),
        _mean([job.sparsity for job in jobs], ".1%"),
    ]
    note, times = Counter(map(_note, jobs)).most_common(1)[0]
    return [
        Text(jobs[0].folder if len(jobs) == 1 else f"{len(jobs)} jobs"),
        Text(status, STATUSES[status], no_wrap=True),
        *map(Text, numbers),
        Text(f"{times} times: {note}" if note and len(jobs) > 1 else note),
    ]


def _note(job: Job) -> str:
    told = f"{job.warnings} warning{'s' * (job.warnings > 1)}" if job.warnings else ""
    return "; ".join(filter(None, (job.note, told)))


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return number(fmean(known) if known else None, form, "")


def _sentence(whole: Totals) -> str:
    """The last line."""
    counts = ", ".join(f"{count} {status}" for status, count in whole.counts.items() if count)
    parts = [
        "" if whole.progress is None else f"{whole.progress:.0%} of all steps",
        f"{whole.all_steps_per_second:.0f} steps/s" if whole.all_steps_per_second else "",
        "" if whole.all_seconds_left is None else f"{_duration(whole.all_seconds_left)} left",
    ]
    return "; ".join(filter(None, (counts, ", ".join(filter(None, parts)))))


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _counted(name: str) -> list[str | int]:
    """To sort by: seed 10 comes after seed 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


if __name__ == "__main__":
    main()
