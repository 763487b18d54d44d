"""Which rows of a run are whole, and which of their numbers may be absent."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from folders import result

from sparserl.runs.files import read_record, write_json
from sparserl.runs.schema import Result, Status, as_json, from_json

NUMBERS = {name: hint for name, hint in get_type_hints(Result).items() if {int, float} & {hint, *get_args(hint)}}
OPTIONAL = [name for name, hint in NUMBERS.items() if NoneType in get_args(hint)]
REQUIRED = [name for name in NUMBERS if name not in OPTIONAL]


def row(**given: Any) -> dict[str, Any]:
    return asdict(result()) | given


def test_a_whole_row_reads_back_as_it_was() -> None:
    assert from_json(Result, json.loads(json.dumps(as_json(result())))) == result()


def test_what_may_be_no_number_may_be_absent() -> None:
    """Of one episode there is no deviation, of a reward that is not a number no mean, of a sweep that has not ended no rank."""
    assert {"return_mean", "return_std", "return_random", "train_seconds", "csr_bytes", "compression"} <= {*OPTIONAL}
    assert from_json(Result, row(rank_reason="not_swept", **dict.fromkeys(OPTIONAL))).rank_reason == "not_swept"


@pytest.mark.parametrize("name", REQUIRED)
def test_other_numbers_may_not_be_absent(name: str) -> None:
    with pytest.raises(ValueError, match=f"^its {name} is None$"):
        from_json(Result, row(**{name: None}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": True}, "its seed is True"),
        ({"seed": 1.5}, "its seed is 1.5"),
        ({"return_mean": "high"}, "its return_mean is 'high'"),
        ({"rank": "half"}, "its rank is 'half'"),
        ({"rank_reason": "tired"}, "its rank_reason is 'tired'"),
        ({"status": "unheard of"}, "its status is 'unheard of'"),
        ({"warnings": [1]}, r"its warnings is \[1\]"),
        ({"algorithm": None}, "its algorithm is None"),
        ({"more": 1}, "more is not a field of it"),
        ({"more": 1, "seed": None}, "more is not a field of it; its seed is None"),
    ],
)
def test_what_is_wrong_with_a_row_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        from_json(Result, row(**change))


def test_a_field_that_is_missing_is_named_with_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {key: value for key, value in row().items() if key not in ("seed", "command")})
    with pytest.raises(ValueError, match=r"result\.json is not whole: it has no seed; it has no command$"):
        read_record(Result, tmp_path / "result.json")
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(ValueError, match=r"result\.json is not whole: it is not an object$"):
        read_record(Result, tmp_path / "result.json")


def test_fields_with_a_default_may_be_missing() -> None:
    given = {"status": "running", "env_step": 1, "total_steps": 2, "process": 3, "host": "here"}
    assert from_json(Status, given) == Status("running", 1, 2, 3, "here")


def test_a_field_that_may_be_null_may_be_missing_and_is_null() -> None:
    """The version that wrote the file did not know it."""
    later = "x_pos", "alive_units", "shrunken_weights", "shrunken_return_mean"
    read = from_json(Result, {key: value for key, value in row().items() if key not in later})
    assert [getattr(read, name) for name in later] == [None] * 4
    assert read == from_json(Result, row(**dict.fromkeys(later)))


def test_a_whole_number_is_a_number() -> None:
    assert from_json(Result, row(return_mean=9)).return_mean == 9
