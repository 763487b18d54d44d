"""``rows.csv``: every run with every field of its result, and runs read back from it.

What is in a repository so is enough to make every table and figure again that needs results only.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd

from sparserl.report import details
from sparserl.runs.reader import NAMED, OF_REGULARIZER, Row, Run, distinguishing
from sparserl.runs.schema import Result

OF_FOLDER = ("folder", "status", "error", "counted", "learned", "seed")
"""The columns that are neither a setting nor, but for the seed, a field of a result."""

NEEDED = ("algorithm", "environment", "regularizer", "seed", "return_mean", "env_steps")
"""The columns without which a table is not one of runs."""

MADE_BY = "report_"
"""What the columns begin with that say how the table was made."""

LENGTH = "env_steps"
"""The result that is a setting too where runs of several tables are compared."""

FIELDS = tuple(field.name for field in fields(Result))


def rows(runs: Sequence[Run], counted: Sequence[Run]) -> pd.DataFrame:
    """Every run, with every field of its result: also those that have none, and those that are not ``counted``."""
    columns = distinguishing(runs)
    return pd.DataFrame(
        {
            "folder": str(run.folder),
            "status": run.status,
            "error": run.error,
            "counted": run in counted,
            "learned": run.learned,
            "seed": run.seed,
        }
        | {key: run.settings.get(key) for key in (*NAMED, *OF_REGULARIZER, *columns)}
        | {key: "; ".join(value) if isinstance(value, list) else value for key, value in run.result.items() if key != "status"}
        for run in runs
    ).convert_dtypes()


def read_rows(path: Path) -> list[Run]:
    """The runs that a ``rows.csv`` lists, but for those that it does not count, with the ranks and curves kept beside it.

    A field that the table lacks is null: the version that made it did not know it. Every column that is no field of a result
    and says nothing of the folder or the report is a setting. Raises ValueError where it is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header, lines = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of runs: {error}") from error
    lacking = [name for name in NEEDED if name not in header]
    if lacking:
        raise ValueError(f"{path} is not a table of runs: it has no {', '.join(lacking)}")
    try:
        by_rank, by_step = details.read(path)
        runs = [
            replace(_run(line), lowrank=by_rank.get(place, []), metrics=by_step.get(place, []))
            for place, line in enumerate(lines)
            if line.get("counted") != "False"
        ]
    except ValueError as error:
        raise ValueError(f"{path} is not whole: {error}") from error
    return _with_lengths(runs)


def alike(runs: Sequence[Run]) -> list[Run]:
    """The same runs with the same settings stated, those of folders and those of tables: so both can be compared.

    A table does not state a setting in which its own runs do not differ. Where those of folders differ in it, the value
    of its runs is not known, so they are of another group.
    """
    on_disk, tabled = [run for run in runs if run.stated is None], [run for run in runs if run.stated is not None]
    stated = (key for run in tabled for key in run.settings if key != LENGTH)
    columns = [*dict.fromkeys((*NAMED, *OF_REGULARIZER, *distinguishing(on_disk), *stated))]
    return [*_with_lengths([replace(run, stated={key: run.settings.get(key) for key in columns}) for run in on_disk]), *tabled]


def _with_lengths(runs: Sequence[Run]) -> list[Run]:
    """The runs with their length as a setting, which tables of several experiments may differ in and state as a result only.

    One that has no result has the length of those of the same settings that have.
    """
    lengths = {_key(run): run.result["env_steps"] for run in runs if run.result}
    return [replace(run, stated=run.settings | {LENGTH: lengths.get(_key(run))}) for run in runs]


def _key(run: Run) -> str:
    return json.dumps(run.settings, sort_keys=True)


def _run(line: Mapping[str, str]) -> Run:
    hints = get_type_hints(Result)
    has_result = line["env_steps"] != ""
    status = line.get("status") or "done"
    result: Row = {name: _field(name, hints[name], line.get(name, "")) for name in FIELDS if name != "status"}
    if "rank_reason" not in line:
        result["rank_reason"] = "not_swept"
    settings = {name: _number(text) for name, text in line.items() if _is_setting(name)}
    settings |= {name: result[name] for name in (*NAMED, *OF_REGULARIZER)}
    return Run(
        folder=Path(line.get("folder", "")),
        config={"seed": result["seed"]},
        status_file={"status": status, "error": line.get("error") or None},
        # the status of a run that is trained but not swept is that of its rank sweep
        result=result | {"status": "done" if result["rank_reason"] == "not_swept" else status} if has_result else {},
        metrics=[],
        lowrank=[],
        spectrum=[],
        layer_ranks=[],
        problems=[],
        stated=settings,
    )


def _is_setting(name: str) -> bool:
    return name not in (*OF_FOLDER, *FIELDS) and not name.startswith(MADE_BY)


def _field(name: str, hint: Any, text: str) -> Any:
    """A cell as the type that the result says."""
    types = get_args(hint) or (hint,)
    try:
        if text == "":
            return [] if get_origin(hint) is list else None
        if get_origin(hint) is list:
            return text.split("; ")
        if int in types and text != "full":
            return int(float(text))
        return float(text) if float in types else text
    except ValueError:
        raise ValueError(f"its {name} is {text!r:.80}") from None


def _number(text: str) -> Any:
    """A cell of a setting: whole numbers as such, also where an empty cell in the column made them fractions."""
    if text in ("True", "False"):
        return text == "True"
    try:
        value = json.loads(text)
    except ValueError:
        return text or None
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value if isinstance(value, int) else text
