"""What runs left, read back from their folders, and what tells one run from another."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sparserl.runs.files import LAYER_RANKS, read_json, read_record
from sparserl.runs.schema import LayerRanks, RankRow, Result, SingularValue, Status, is_text, may_be_null

T = TypeVar("T")

Row = dict[str, Any]

MARKS: Mapping[str, set[str]] = {
    "config.json": {"names", "regularizer", "trainer"},
    "status.json": {"status", "env_step", "total_steps"},
    "result.json": {"algorithm", "environment", "return_mean", "seed"},
}
"""Keys by which a file tells that its folder is a run's: others write files of these names too."""

OWN = {"timing.jsonl", "lowrank.csv"}
"""Names that no other program uses: they tell a run's folder whose other files are damaged."""

NAMED = ("algorithm", "environment", "network", "regularizer", "lambda_c")
"""The settings that a reader looks for first: a column of every table of runs that differ in them."""

OF_REGULARIZER = ("lambda_c", "lambda_c_critic", "beta", "reduction", "scope", "zero_threshold")
_NO_SETTINGS = (
    *("names", "seed", "init_from", "sweep_name", "objective", "objective_seeds"),
    *("resume", "retry_failed", "trust", "working_directory", "logger"),
)
"""Keys of a config that name a run, or say where it is kept or what is reported of it; or that are among the named settings."""


@dataclass(frozen=True, eq=False)
class Run:
    """The files of one folder. What is not there is empty; what cannot be read is empty too, and one of ``problems``."""

    folder: Path
    config: Row
    status_file: Row
    result: Row
    metrics: list[Row]
    lowrank: list[Row]
    """By increasing rank, as numbers; the rank of the last, ``full``, is infinite."""
    spectrum: list[Row]
    layer_ranks: list[Row]
    """As text the form, the way and the ranks, as numbers all else."""
    problems: list[str]
    """A sentence for each file that is damaged."""
    stated: Row | None = None
    """The settings, where no config has them but a table of rows; None elsewhere."""

    @property
    def status(self) -> str:
        """The result's; before the rank sweep has ended, status.json's, or ``no result`` where that says ``done``."""
        said = str(self.status_file.get("status", "no status"))
        if self.result and (self.is_swept or not self.status_file):
            return str(self.result["status"])
        return "no result" if said == "done" and not self.result else said

    @property
    def is_swept(self) -> bool:
        """Whether its rank sweep has ended: until then a result has no ranks, or those from before it began again."""
        begun_again = self.status_file.get("status") in ("waiting", "running", "interrupted")
        return bool(self.result) and self.result["rank_reason"] != "not_swept" and not begun_again

    @property
    def counts(self) -> bool:
        """Whether it has a result for means and figures, with or without ranks: that of a run which diverged is none."""
        return bool(self.result) and self.result["status"] != "failed"

    @property
    def error(self) -> str | None:
        """What stopped a run before its end: the last line, if it is a traceback."""
        lines = str(self.status_file.get("error") or "").strip().splitlines()
        return lines[-1] if lines and self.status in ("failed", "interrupted") else None

    @property
    def seed(self) -> int | None:
        seed: int | None = self.config.get("seed", self.result.get("seed"))
        return seed

    @cached_property
    def settings(self) -> Row:
        """Everything that decides how a run is trained but its seed, flat: the named settings, then whatever the config has."""
        if self.stated is not None:
            return self.stated
        if not self.config:
            return {key: self.result.get(key) for key in dict.fromkeys((*NAMED, *OF_REGULARIZER))}
        named: Row = self.config["names"] | {key: self.config["regularizer"].get(key) for key in OF_REGULARIZER}
        start = self.config.get("init_from")  # each seed from its own
        named["init_from"] = start and start.replace(f"seed{self.seed}", "seed*")
        every = flat({key: value for key, value in self.config.items() if key not in _NO_SETTINGS})
        return named | {key: value for key, value in every if key != "trainer.compile"}  # which changes rounding only

    @property
    def learned(self) -> bool | None:
        """Whether the policy learned anything that a rank could keep, as the rank sweep found; None where there was none."""
        return self.result["rank_reason"] != "not_learned" if self.is_swept else None

    @property
    def swept(self) -> list[Row]:
        """The rows of lowrank.csv but for that of the whole policy."""
        return [row for row in self.lowrank if math.isfinite(row["rank"])]

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """A column of metrics.jsonl: the environment steps at which it has a number, and the numbers."""
        rows = [row for row in self.metrics if row.get(key) is not None]
        return [row["env_step"] for row in rows], [row[key] for row in rows]


def folders(roots: Sequence[Path]) -> list[Path]:
    """The folders of runs among these and below them, each once; what others keep there is passed over.

    Links are followed, after what is not a link: a folder that is there itself and linked too goes by its own name. Where a
    root has a RUNS_FILE, the runs that it names are among them.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for root in roots:
        for path, below, names in os.walk(root, followlinks=True):
            real = os.path.realpath(path)
            if real in seen:  # through a link, which may lead back to where it is
                below.clear()
                continue
            seen.add(real)
            below.sort(key=lambda name, path=path: (Path(path, name).is_symlink(), name))  # type: ignore[misc]
            if _is_run(Path(path), {*names}):
                found.append(Path(path))
    found += {os.path.realpath(path): path for path in _listed(roots) if os.path.realpath(path) not in seen}.values()
    return sorted(found)


def _is_run(folder: Path, names: set[str]) -> bool:
    return not OWN.isdisjoint(names) or any(_is_ours(folder / name, keys) for name, keys in MARKS.items() if name in names)


def _is_ours(path: Path, keys: set[str]) -> bool:
    try:
        return keys <= {*_object(path)}
    except (OSError, ValueError):
        return False


def find(roots: Sequence[Path]) -> list[Run]:
    """The runs in these folders and below them, each once: a job of a sweep that is the same run as another is none."""
    return [run for folder in folders(roots) if (run := read(folder)).status != "duplicate"]


RUNS_FILE = "runs.txt"
"""The runs of a table, in the table's folder: a run's folder on each line, as seen from the working directory."""


def named(root: Path) -> list[Path]:
    """The folders of runs that the RUNS_FILE of a table's folder names, whether they are there or not; empty without one."""
    path = root / RUNS_FILE
    return [Path(line) for line in path.read_text("utf-8").splitlines() if line] if path.is_file() else []


def _listed(roots: Sequence[Path]) -> list[Path]:
    """The folders of runs that are named where tables are; those that are not there yet are left out."""
    found = [folder for root in roots for folder in named(root)]
    return [folder for folder in found if folder.is_dir() and _is_run(folder, {path.name for path in folder.iterdir()})]


def read(folder: Path, rows: bool = True) -> Run:
    """The files of one run's folder, whole or not; without ``rows`` only what is short however long the run."""
    problems: list[str] = []

    def attempt(name: str, reader: Callable[[Path], T], empty: T) -> T:
        path = folder / name
        try:
            return reader(path) if path.exists() else empty
        except Exception as error:  # noqa: BLE001 (damage makes a parser raise whatever its bytes lead it to)
            told = str(error) if str(path) in str(error) else f"{path} is not whole: {type(error).__name__}: {error}"
            problems.append(" ".join(told.split()))
            return empty

    return Run(
        folder,
        attempt("config.json", _config, {}),
        attempt("status.json", lambda path: vars(read_record(Status, path)), {}),
        attempt("result.json", lambda path: vars(read_record(Result, path)), {}),
        attempt("metrics.jsonl", _lines, []) if rows else [],
        attempt("lowrank.csv", lambda path: table(RankRow, path), []) if rows else [],
        attempt("spectrum.csv", lambda path: table(SingularValue, path), []) if rows else [],
        attempt(LAYER_RANKS, lambda path: table(LayerRanks, path), []) if rows else [],
        problems,
    )


def distinguishing(runs: Sequence[Run]) -> list[str]:
    """The settings that tell these runs apart, whatever their seeds.

    A named one wherever two runs differ in it; any other only where the ones before it do not tell two runs apart, since
    most keys of a config follow from others.
    """
    settings = [run.settings for run in runs]

    def distinct(columns: Sequence[str]) -> int:
        return len({tuple(values.get(column) for column in columns) for values in settings})

    columns = [key for key in NAMED if distinct([key]) > 1]
    for key in dict.fromkeys(key for values in settings for key in values):
        if distinct([*columns, key]) > distinct(columns):
            columns.append(key)
    return columns


def groups(runs: Sequence[Run]) -> dict[tuple[Any, ...], list[Run]]:
    """The runs that differ in nothing but their seed, by their values of ``distinguishing``, in the order of these."""
    columns = distinguishing(runs)
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(run.settings.get(column) for column in columns), []).append(run)
    return dict(sorted(found.items(), key=lambda item: [(v is None, isinstance(v, str), v or 0) for v in item[0]]))


def without_repeats(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Of runs that count and have equal settings and seed only the newest, and a sentence for each that was left out.

    They are one sample of what a seed does, not two.
    """
    newest: dict[str, Run] = {}
    left_out: dict[int, str] = {}
    for run in sorted((run for run in runs if run.counts), key=_written):
        # a table states a few settings only, and runs of several tables may differ in others
        key = json.dumps([run.seed, run.settings] if run.stated is None else run.result, sort_keys=True)
        if key in newest:
            left_out[id(newest[key])] = f"{newest[key].folder} is left out: {run.folder} is the same run, and newer"
        newest[key] = run
    return [run for run in runs if id(run) not in left_out], list(left_out.values())


def _written(run: Run) -> int:
    """When its result was written; 0 for a run out of a table, which does not say it."""
    path = run.folder / "result.json"
    return path.stat().st_mtime_ns if path.exists() else 0


# ---------------------------------------------------------------- files


def flat(config: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config by their full keys, lists as JSON."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value


def _object(path: Path) -> Row:
    row = read_json(path)
    if not isinstance(row, dict):
        raise ValueError(f"{path} is not whole: it is not an object")
    return row


def _config(path: Path) -> Row:
    """A config as far as readers rely on it; what trains checks it all."""
    config = _object(path)
    for key, needed in {"names": {*NAMED} - {"lambda_c"}, "regularizer": set(), "trainer": {"total_steps"}}.items():
        if not isinstance(config.get(key), dict) or not needed <= {*config[key]}:
            raise ValueError(f"{path} is not whole: {key} is {config.get(key)!r:.80}")
    return config


def _lines(path: Path) -> list[Row]:
    whole, _, _ = path.read_text("utf-8").rpartition("\n")  # the last line may be written at this moment
    rows = [json.loads(line) for line in whole.split("\n") if whole]
    for row in rows:
        row["env_step"] + 0
    return rows


def table(cls: type, path: Path) -> list[Row]:
    """The lines of a table, each a dataclass ``cls`` when it was written. An empty or missing cell is no number."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        absent = [field.name for field in fields(cls) if field.name not in header]
        lacking = [name for name in absent if not may_be_null(cls, name)]
        if lacking:
            raise ValueError(f"{path} is not whole: it has no {', '.join(lacking)}")
        texts = {field.name for field in fields(cls) if is_text(cls, field.name)}
        return [
            dict.fromkeys(absent, math.nan) | {key: text if key in texts else _number(text) for key, text in row.items()}
            for row in reader
        ]


def _number(text: str) -> float:
    if text == "full":
        return math.inf
    return float(text) if text != "" else math.nan
