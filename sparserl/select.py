"""Choose the rank of each layer of trained policies within budgets of stored numbers: ``python -m sparserl.select FOLDER...``.

Each run's rows go to layer_ranks.csv in its folder, and stay there: started again, only what is missing is done. The table
of all runs, which compares the ways at equal stored numbers, goes to the first folder.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sparserl.environments.base import Environment
from sparserl.loading import bound_algorithm, described
from sparserl.lowrank.allocation import most_evaluations, smallest
from sparserl.lowrank.selection import Selection, Wanted
from sparserl.lowrank.truncation import RankAssignment, cut_of
from sparserl.report import writer
from sparserl.report.groups import grouped
from sparserl.runs import provenance, reader
from sparserl.runs.files import LAYER_RANKS, DiskError, components, read_policy, write_table
from sparserl.runs.reader import Row, Run
from sparserl.runs.schema import FORMS, WAYS, Form, LayerRanks, Way
from sparserl.terminal import leave, one_sentence, print_line, print_table, say
from sparserl.training import interrupts

TABLE = "rank_selection"


def main() -> None:
    """The console script. Errors of the user's end with one sentence; one run's do not keep the others from being done."""
    interrupts.prepare()
    arguments = _arguments()
    try:
        with one_sentence(DiskError):
            _select_all(arguments)
    except KeyboardInterrupt as interrupt:
        say("sparserl: stopped; the same command again goes on")
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))


def _select_all(arguments: argparse.Namespace) -> None:
    """Complete the rows of every run, then report all."""
    runs = _runs(arguments.folders)
    with interrupts.Interrupts() as received:
        for run in runs:
            try:
                print_line(f"{run.folder}: {_select(run, arguments, received.check_interrupt)}")
            except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
                say(f"sparserl: {run.folder} is left out: {' '.join(str(error).split())}")
    to = arguments.to or arguments.folders[0]
    to.mkdir(parents=True, exist_ok=True)
    _report([reader.read(run.folder) for run in runs], to)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("sparserl-select", description="Choose the rank of each layer of trained policies.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a finished run, or with runs below it")
    parser.add_argument(
        "--budgets",
        type=_budgets,
        metavar="N,N",
        help="numbers that may be stored at most (by default what uniform ranks 1, 2, 4, 8 and so on store in the network)",
    )
    parser.add_argument(
        "--ways", type=_ways, default=list(WAYS), metavar="WAY,WAY", help=f"of choosing the ranks ({','.join(WAYS)})"
    )
    parser.add_argument("--episodes", type=int, metavar="N", help="for each network (as many as in lowrank.csv)")
    parser.add_argument("--shrink", action="store_true", help="of the policies without the units that do nothing")
    parser.add_argument("--again", action="store_true", help="also what is in layer_ranks.csv already")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where the table goes (the first folder)")
    parser.add_argument(
        "--trust", action="store_true", help="build what is not sparserl's too, which runs the code of whoever wrote it"
    )
    arguments = parser.parse_args()
    if arguments.episodes is not None and arguments.episodes < 1:
        parser.error(f"--episodes is {arguments.episodes}; it must be 1 or more")
    return arguments


def _budgets(text: str) -> list[int]:
    numbers = [int(part) if part.strip().isdigit() else 0 for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of 1 or more, such as 400,800")
    return numbers


def _ways(text: str) -> list[Way]:
    named = text.split(",")
    if unknown := [way for way in named if way not in WAYS]:
        raise argparse.ArgumentTypeError(f"there is no way {unknown[0]!r}; the ways are {', '.join(WAYS)}")
    return [way for way in WAYS if way in named]


def _runs(folders: Sequence[Path]) -> list[Run]:
    """The runs below some folders that have a result, each once. Exits where there is none."""
    found = reader.find(folders)
    for run in found:
        if not run.counts:
            say(f"sparserl: {run.folder} is left out: it is {run.status}")
    if not any(run.counts for run in found):
        leave(f"there is no finished run in {', '.join(map(str, folders))}")
    return [run for run in found if run.counts]


# ---------------------------------------------------------------- one run


def _select(run: Run, arguments: argparse.Namespace, check_interrupt: Callable[[], object]) -> str:
    """Complete the rows of a run, each part on the disk as soon as it is known; what was done, in a clause.

    Raises ValueError and FileNotFoundError where its policy cannot be loaded.
    """
    path, description, tensors = read_policy(run.folder)
    weights, trust = components(tensors), arguments.trust
    algorithm = bound_algorithm(path, description, weights, trust)
    environment: Environment = described(description["config"], "environment", Environment, path, trust)
    episodes: int = arguments.episodes or _episodes(run)
    selection = Selection(environment, algorithm, weights, episodes, check_interrupt)

    form: Form = "shrunken" if arguments.shrink else "plain"
    layers, asked = selection.layers(form), arguments.budgets or selection.budgets()
    if small := [budget for budget in asked if budget < smallest(layers)]:
        told = ", ".join(map(str, small))
        say(f"sparserl: {run.folder}: budget {told} is left out: at rank 1 its layers store {smallest(layers)} numbers")
    wanted = [(way, budget) for budget in asked if budget not in small for way in arguments.ways]

    # what is not asked for stays as it is, also where it was measured in another number of episodes
    known = [
        row
        for row in map(_recorded, run.layer_ranks)
        if row.form != form or (row.way, row.budget) not in wanted or (row.episodes == episodes and not arguments.again)
    ]
    done = {(row.way, row.budget): row for row in known if row.form == form and row.episodes == episodes}
    missing = [key for key in dict.fromkeys(wanted) if key not in done]
    same: list[LayerRanks] = []
    if form not in selection.policies and not arguments.again:  # no unit does nothing, so the policy is the plain one
        plain = [row for row in known if row.form == "plain" and row.episodes == episodes]
        same = [replace(row, form=form) for row in plain if (row.way, row.budget) in missing]
        done |= {(row.way, row.budget): row for row in same}
        missing = [key for key in missing if key not in done]
    if any(way == "return" for way, _ in missing):
        most = most_evaluations(layers)
        print_line(f"{run.folder}: greedy by return plays at most {most} networks in {episodes} episodes each")
    start = None if arguments.again else _start(done, missing)
    for rows in chain([same] if same else [], selection.rows(form, missing, start)):
        known += rows
        write_table(run.folder / LAYER_RANKS, sorted(known, key=_place))
    return f"{len(missing)} rows of {form} policies are new, {len(known)} are in {LAYER_RANKS}"


def _episodes(run: Run) -> int:
    """Of its rank sweep, or of its last evaluation where it has none."""
    return int(run.lowrank[-1]["episodes"] if run.lowrank else run.result["episodes"])


def _recorded(row: Row) -> LayerRanks:
    """A line of layer_ranks.csv as it was written."""
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(LayerRanks).items():
        value = row[name]
        values[name] = None if value != value else int(value) if int in (hint, *get_args(hint)) else value
    return LayerRanks(**values)


def _start(done: dict[Wanted, LayerRanks], missing: Sequence[Wanted]) -> RankAssignment | None:
    """The ranks from which greedy by return can go on: of the smallest larger budget that is done."""
    largest = max((budget for way, budget in missing if way == "return"), default=math.inf)
    larger = [row for (way, budget), row in done.items() if way == "return" and budget > largest]
    return cut_of(min(larger, key=lambda row: row.budget).ranks) if larger else None


def _place(row: LayerRanks) -> tuple[int, int, int]:
    """Of a line in layer_ranks.csv."""
    return FORMS.index(row.form), row.budget, WAYS.index(row.way)


# ---------------------------------------------------------------- all runs


def _report(runs: Sequence[Run], to: Path) -> None:
    """Print and write the table of all runs, and the rows that it is made of."""
    kept, repeats = reader.without_repeats(runs)
    for sentence in (*(problem for run in runs for problem in run.problems), *repeats):
        say(f"sparserl: {sentence}")
    groups = grouped(kept)
    tables, skipped = writer.make_tables(groups, kept, "", (TABLE,))
    if not tables:
        leave(skipped[0])
    (table,) = tables
    origin = {
        "command": provenance.command(),
        "commit": provenance.commit(),
        "versions": provenance.versions("pandas", "scipy"),
    }
    print_table([*table.cells[0]], [[*row.values()] for row in table.cells], table.title)
    print_line(table.caption)
    written = [*writer.write_table(table, to, origin), *writer.write_selections(groups, to)]
    print_line(f"{', '.join(written)}: {to}")


if __name__ == "__main__":
    main()
