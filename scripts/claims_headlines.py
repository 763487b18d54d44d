"""What the paper says of Super Mario Bros and of surgical robots, beside every setting of them here."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from claims_by_setting import NO_LOSS, Cells, table
from claims_settings import DID_NOT_HOLD, HELD, NOT_DECIDED, Setting, difference, once, verdict

from sparserl.config.schema import CONF
from sparserl.report.statistics import Estimate
from sparserl.report.table import shown
from sparserl.report.tables import gained, scores_of
from sparserl.runs.reader import Run

REACHED, NOT_REACHED, NOT_MEASURED = "reached", "not reached", "not measured"

MEASURES = {"x_pos": ("x", ".0f"), "flag_rate": ("flag", ".1%"), "success_rate": ("success", ".1%")}
STORED = {"compression": "compression", "shrunken_compression": "shrunken compression"}


@dataclass(frozen=True)
class Headline:
    """A result of the paper on environments whose names begin alike."""

    title: str
    environments: str
    """What their names begin with."""
    zeros: float
    compression: float
    """Of the paper, by the SVD of whole matrices."""
    said: str
    """What the paper says of the return."""
    returns: Callable[[Setting], tuple[Estimate | None, float, bool]]
    """What decides that, the line that it has to be at, and whether it has to be above it."""
    points: bool = False
    """Whether policies may have been played in the points of the package."""

    def part(self, settings: Sequence[Setting]) -> Iterator[str]:
        """Its lines of the page."""
        here = [setting for setting in settings if setting.group.task[0].startswith(self.environments)]
        tasks = list(dict.fromkeys(setting.group.task for setting in here))
        yield from (f"## {self.title}", "")
        yield from (f"The paper: {self.zeros:.0%} sparsity, {self.compression:.0%} compression, {self.said}.", "")
        stands = [self.stands([setting for setting in here if setting.group.task == task]) for task in tasks]
        yield from (f"* {sentence}" for sentence in stands or [f"**{NOT_REACHED.capitalize()}.** No setting was trained."])
        yield ""
        if self.points:
            yield from (line for environment, algorithm in tasks for line in (unit(environment, algorithm), ""))
        rows = [self._row(setting) for setting in once(here)]
        yield table([{header: cell for header, cell in row.items() if any(row[header] != "-" for row in rows)} for row in rows])

    def stands(self, settings: Sequence[Setting]) -> str:
        """Where the best sparse setting of one task stands that has the zeros of the paper: the one that kept the most."""
        environment, algorithm = settings[0].group.task
        enough = [setting for setting in settings if setting.dense and self._has_the_zeros(setting)]
        if not enough:
            return f"**{algorithm} on {environment}: {NOT_REACHED}.** No sparse setting has {self.zeros:.0%} zeros."
        best = max(enough, key=lambda setting: kept.value if (kept := gained(setting.group, setting.groups)) else -math.inf)
        parts = returned, stored = standing(*self.returns(best)), self._stored(best)
        overall = NOT_REACHED if NOT_REACHED in parts else REACHED if {*parts} == {REACHED} else NOT_DECIDED
        named = best.named()
        whole, shrunken = (shown(best.group.mean(field), ".1%") for field in STORED)
        measured = "" if stored == NOT_MEASURED else f"{whole} by the SVD alone and {shrunken} shrunken: "
        return (
            f"**{algorithm} on {environment}: {overall}.** Of settings with {self.zeros:.0%} zeros or more the best is "
            f"{named['form']} of {named['table']} (seeds {named['seeds']}): {shown(best.group.mean('sparsity'), '.1%')} zeros; "
            f"{self._beside(best)} ({self.said}: {returned}); compression ({measured}{stored}) beside the paper's "
            f"{self.compression:.0%}."
        )

    def _has_the_zeros(self, setting: Setting) -> bool:
        # as many digits as the page shows: a level is met to within one weight
        return round(setting.group.mean("sparsity") or 0.0, 3) >= self.zeros

    def _stored(self, setting: Setting) -> str:
        found = setting.group.mean("compression")
        return NOT_MEASURED if found is None else REACHED if found >= self.compression else NOT_REACHED

    def _beside(self, setting: Setting) -> str:
        """The return and the other measures beside those of dense policies, where both are known."""
        runs = setting.group.done, setting.dense
        pairs = [("return", [mean(its, "return_mean") for its in runs], ".1f")]
        if self.points:
            pairs += [("points", [played(setting.folder, its, GAMES[0]) for its in runs], ".0f")]
        pairs += [(said, [mean(its, field) for its in runs], form) for field, (said, form) in MEASURES.items()]
        known = [(said, pair, form) for said, pair, form in pairs if None not in pair]
        told = [f"{said} {' beside '.join(shown(value, form) for value in pair)}" for said, pair, form in known]
        return f"{', '.join(told)} of dense policies"

    def _row(self, setting: Setting) -> Cells:
        group = setting.group
        told = {"return mean": shown(group.mean("return_mean"), ".1f")}
        if self.points:
            told |= {f"points, {game}": shown(played(setting.folder, group.done, game), ".0f") for game in GAMES}
        told |= {said: shown(group.mean(field), form) for field, (said, form) in MEASURES.items()}
        told |= {"sparsity": shown(group.mean("sparsity"), ".1%")}
        return setting.named() | told | {said: shown(group.mean(field), ".1%") for field, said in STORED.items()}


def mean(runs: Sequence[Run], field: str) -> float | None:
    """Of the runs that have it; None where none has."""
    return float(scores.mean()) if len(scores := scores_of(runs, field)) else None


def standing(found: Estimate | None, line: float, strict: bool) -> str:
    """Whether a line is reached: by the whole interval; it is not where the value is below, whatever the interval."""
    if found is None:
        return NOT_MEASURED
    alone = Estimate(found.value, found.value, found.value, found.n)
    said = [verdict(each, line, strict=strict) for each in (found, alone)]
    return REACHED if said[0] == HELD else NOT_REACHED if DID_NOT_HOLD in said else NOT_DECIDED


# ---------------------------------------------------------------- points of Super Mario Bros

PLAY = "play.csv"
"""What evaluate_mario.py writes beside a table."""

GAMES = "as trained", "stock"


def unit(environment: str, algorithm: str) -> str:
    """What a return of training is in the package's points, by today's settings."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):  # not checked, since the game need not be installed
        settings = hydra.compose("train", [f"algorithm={algorithm}", f"environment={environment}"]).environment
    scale, flag = settings.reward_scale, settings.flag_reward
    return (
        f"Returns of {algorithm} on {environment} are {scale:g} times the package's points, plus {flag:g} for the flag.\n"
        f"Points are means of greedy episodes of the whole policy, from the table's {PLAY} where it has one: in the game as\n"
        "trained, and in the stock one."
    )


def played(folder: Path, runs: Sequence[Run], game: str) -> float | None:
    """The points of the package that these runs' whole policies get greedily, of those that were played; None without any."""
    if not (folder / PLAY).is_file():
        return None
    with (folder / PLAY).open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    chosen = {"rank": "full", "game": game, "actions": "greedy"}
    points = {_key(line): float(line["return_mean"]) for line in lines if chosen.items() <= line.items()}
    found = [points[key] for run in runs if (key := _key(run.result)) in points]
    return sum(found) / len(found) if found else None


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a line of play.csv and a result have in common."""
    numbers = [float(row[name]) if row[name] not in ("", None) else None for name in ("lambda_c", "seed", "sparsity")]
    return row["algorithm"], row["environment"], row["regularizer"], *numbers


# ---------------------------------------------------------------- the paper's


def better(setting: Setting) -> tuple[Estimate | None, float, bool]:
    """The mean return above that of dense policies."""
    return difference(setting.group.scores("return_mean"), scores_of(setting.dense)), 0.0, True


def performant(setting: Setting) -> tuple[Estimate | None, float, bool]:
    """What claim 1 asks for."""
    return gained(setting.group, setting.groups), NO_LOSS, False


HEADLINES = (
    Headline("Super Mario Bros 7-1", "super_mario_bros", 0.93, 0.70, "a better policy than the dense one", better, points=True),
    Headline("Surgical robot learning", "surrol", 0.36, 0.46, '"while being performant"', performant),
)
