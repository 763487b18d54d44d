from __future__ import annotations

import csv
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from folders import NASTY

from sparserl.runs import checkpoint, reader
from sparserl.runs.files import LEFTOVER_SECONDS, LOG_FILE, DiskError, read_json, replace, write_json
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import RankRow, SingularValue, as_json


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def rows(path: Path) -> list[Any]:
    """The lines of a log, each of which must be strict JSON: no NaN, no Infinity."""
    return [json.loads(line, parse_constant=refuse) for line in path.read_bytes().splitlines()]


# ---------------------------------------------------------------- rows


def test_rows_are_on_the_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, total_steps=100)
    folder.metrics({"env_step": 10, "loss/policy": 0.5})
    folder.timing({"env_step": 10, "update": 1.25})
    assert rows(tmp_path / "metrics.jsonl") == [{"env_step": 10, "loss/policy": 0.5}]
    assert rows(tmp_path / "timing.jsonl") == [{"env_step": 10, "update": 1.25}]
    folder.metrics({"env_step": 20})
    assert [row["env_step"] for row in rows(tmp_path / "metrics.jsonl")] == [10, 20]
    folder.close()


def test_an_opened_folder_appends_to_what_is_there(tmp_path: Path) -> None:
    for step in (10, 20):
        folder = RunFolder(tmp_path, total_steps=100)
        folder.metrics({"env_step": step})
        folder.close()
    assert [row["env_step"] for row in rows(tmp_path / "metrics.jsonl")] == [10, 20]


def test_rows_after_a_checkpoint_are_cut_off_and_written_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, total_steps=100)
    folder.metrics({"env_step": 10})
    folder.timing({"env_step": 10, "update": 1.0})
    offsets = folder.offsets()
    for step in (20, 30):
        folder.metrics({"env_step": step, "a long name that makes a long line": step})
        folder.timing({"env_step": step})
    folder.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"env_step": 40, "los')  # killed in the middle of a line

    again = RunFolder(tmp_path, total_steps=100)
    again.cut(json.loads(json.dumps(offsets)))
    again.metrics({"env_step": 21})
    assert [row["env_step"] for row in rows(tmp_path / "metrics.jsonl")] == [10, 21]
    assert [row["env_step"] for row in rows(tmp_path / "timing.jsonl")] == [10]
    assert again.offsets()["metrics"] == (tmp_path / "metrics.jsonl").stat().st_size
    again.close()


def test_cutting_at_zero_starts_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, total_steps=100)
    folder.metrics({"env_step": 10})
    folder.cut({"metrics": 0, "timing": 0})
    folder.metrics({"env_step": 1})
    folder.close()
    assert rows(tmp_path / "metrics.jsonl") == [{"env_step": 1}]


def test_a_log_of_times_that_is_shorter_than_its_checkpoint_says_gets_no_filling(tmp_path: Path) -> None:
    """Of rows it is an error (test_disk_troubles.py), but how long things took is not worth a run."""
    folder = RunFolder(tmp_path, total_steps=100)
    folder.cut({"metrics": 0, "timing": 500})
    folder.timing({"env_step": 10})
    folder.close()
    assert rows(tmp_path / "timing.jsonl") == [{"env_step": 10}]


def test_what_a_checkpoint_counts_on_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The offsets of a checkpoint, which itself is synced, must not point beyond what survives a power failure."""
    synced: set[tuple[str, int]] = set()

    def watched(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.add((target.name, target.stat().st_size))

    folder = RunFolder(tmp_path, total_steps=100)
    folder.metrics({"env_step": 10})
    folder.timing({"env_step": 10, "update": 1.0})
    monkeypatch.setattr(os, "fsync", watched)
    offsets = folder.offsets()
    assert synced >= {("metrics.jsonl", offsets["metrics"]), ("timing.jsonl", offsets["timing"])}
    folder.close()


@dataclass(frozen=True)
class Point:
    name: str
    value: float
    path: list[float]


def test_numbers_that_are_not_finite_become_null_however_deep(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    row = {
        "a": nan,
        "b": [1.0, inf, {"c": -inf}],
        "d": (nan, 2),
        "e": Point("p", nan, [inf, 3.0]),
        "f": None,
        "g": "nan",
    }
    expected = {
        "a": None,
        "b": [1.0, None, {"c": None}],
        "d": [None, 2],
        "e": {"name": "p", "value": None, "path": [None, 3.0]},
        "f": None,
        "g": "nan",
    }
    assert as_json(row) == expected
    folder = RunFolder(tmp_path, total_steps=100)
    folder.metrics(row)
    folder.timing(row)
    folder.close()
    write_json(tmp_path / "whole.json", row)
    assert rows(tmp_path / "metrics.jsonl") == rows(tmp_path / "timing.jsonl") == [expected]
    assert json.loads((tmp_path / "whole.json").read_text(), parse_constant=refuse) == expected


def test_a_table_reads_back_exactly_and_null_is_an_empty_cell(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, total_steps=100)
    third, nan = 1 / 3, float("nan")
    cut = RankRow(1, 0.1 + 0.2, 1e-300, 0.5, 70.5, 0.0, 2, None, -third, 3, 12, 3, 44, 41, nan, nan, None, 0.0, 3, 3)
    whole = RankRow("full", third, 0.0, None, None, None, 2, 1.0, 0.0, 3, 12, 3, 44, 41, 1.0, third, None, 0.5, 2, 2)
    folder.table("lowrank", [cut])
    folder.table("lowrank", [whole])
    folder.table("spectrum", [SingularValue("0", 1, 0.1 + 0.2, third, 0), SingularValue("1", 1, nan, 1e-300, 2)])
    folder.close()
    names = "rank,return_mean,return_std,success_rate,x_pos,flag_rate,episodes,retention,compression,parameters,bytes,macs"
    names += ",csr_bytes,sparse_bytes,energy,shrunken_return_mean,shrunken_retention,shrunken_compression"
    names += ",shrunken_parameters,shrunken_macs"
    assert (
        tmp_path / "lowrank.csv"
    ).read_text() == f"{names}\nfull,{third!r},0.0,,,,2,1.0,0.0,3,12,3,44,41,1.0,{third!r},,0.5,2,2\n"
    first, second = list(csv.DictReader((tmp_path / "spectrum.csv").open(newline="")))
    assert (float(first["singular_value"]), float(first["effective_rank"])) == (0.1 + 0.2, third)
    assert (second["layer"], second["singular_value"], second["dead_units"]) == ("1", "", "2")
    assert sorted(path.name for path in tmp_path.glob("*.csv*")) == ["lowrank.csv", "spectrum.csv"]


def test_status_is_replaced_and_keeps_the_traceback(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, total_steps=100)
    folder.status("running", 30)
    status = read_json(tmp_path / "status.json")
    assert (status["status"], status["env_step"], status["total_steps"], status["error"]) == ("running", 30, 100, None)
    assert status["process"] == os.getpid()
    folder.status("failed", 40, error="Traceback: boom")
    status = read_json(tmp_path / "status.json")
    assert (status["status"], status["env_step"], status["error"]) == ("failed", 40, "Traceback: boom")
    folder.close()


# ---------------------------------------------------------------- whole files


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def write(file: Any) -> None:
        file.write(b"half of the new")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        replace(path, write)
    assert path.read_text() == "old"
    replace(path, lambda file: file.write(b"new"))  # what the first one left behind is in nobody's way
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}


def test_a_file_is_synced_whole_before_it_takes_its_place_and_the_place_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power failure may leave the new name with no content, or the old content."""
    path, order = tmp_path / "file", []
    rename = Path.replace

    def watched_fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append(f"sync {'folder' if target.is_dir() else target.read_text()}")

    def watched_rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_rename)
    replace(path, lambda file: file.write(b"content"))
    assert order == ["sync content", "rename", "sync folder"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"not json", b"[" * 100_000])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is not whole"):
        read_json(path)


def test_two_writers_of_one_file_each_finish_and_the_last_one_wins(tmp_path: Path) -> None:
    """They had one temporary name: the second took the file of the first away, which then could not be put in its place."""
    path = tmp_path / "config.json"

    def write(file: Any) -> None:
        file.write(b'{"of": "the first"}')
        write_json(path, {"of": "the second"})  # the other process, at the worst moment

    replace(path, write)
    assert read_json(path) == {"of": "the first"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_a_signal_while_a_file_is_written_leaves_nothing_behind(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(tmp_path / "checkpoint-000000000100.pt", write)
    assert not [*tmp_path.iterdir()]


def test_what_a_killed_process_was_writing_is_removed_by_the_next_and_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [tmp_path / f"{name}.0123abcd.part" for name in ("result.json", "status.json", "checkpoint-000000000100.pt")]
    for path in left:
        path.write_text("{")
    assert (checkpoint.newest(tmp_path), reader.find([tmp_path])) == (0, [])
    with monkeypatch.context() as patch:  # this machine's clock is two hours ahead of the file server's
        patch.setattr(time, "time", lambda real=time.time: real() + 7200)
        RunFolder(tmp_path, total_steps=100).close()
    assert all(path.exists() for path in left), "their process may still be writing"
    for path in left:
        os.utime(path, (time.time() - LEFTOVER_SECONDS - 60,) * 2)
    RunFolder(tmp_path, total_steps=100).close()
    assert not any(path.exists() for path in left)


def test_a_file_that_others_put_beside_checkpoints_is_none_and_stays(tmp_path: Path) -> None:
    other = tmp_path / "checkpoint-best.pt"
    other.write_text("mine")
    for step in (100, 200, 300):
        checkpoint.save([tmp_path], step, [{}])
    assert other.read_text() == "mine"
    assert checkpoint.newest(tmp_path) == 300


def test_files_that_cannot_all_be_opened_are_all_closed(tmp_path: Path) -> None:
    """Or else nobody could write to the folder until this process ends."""
    (tmp_path / LOG_FILE).mkdir()
    with pytest.raises(DiskError, match="Is a directory"):
        RunFolder(tmp_path, total_steps=100)
    (tmp_path / LOG_FILE).rmdir()
    RunFolder(tmp_path, total_steps=100).close()


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_any_text_can_be_told_and_kept(text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, total_steps=100)
    folder.tell(f"failed: {text}")
    folder.metrics({"env_step": 1, "warnings": [text]})
    folder.status("failed", 1, text)
    folder.table("spectrum", [SingularValue(text, 1, 1.0, 1.0, 0)])
    folder.close()
    assert rows(tmp_path / "metrics.jsonl")[0]["warnings"] == [text]
    run = reader.read(tmp_path)
    assert not run.problems
    assert run.status_file["error"] == text
    written = text.encode("utf-8", "backslashreplace").decode()
    assert run.spectrum[0]["layer"] == written
    # as it is, also over several lines; Python's own reading would make one line break of each kind
    assert f"failed: {written.strip()}".encode() in (tmp_path / LOG_FILE).read_bytes()


def test_a_table_that_is_not_whole_is_a_problem_and_not_a_row_of_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, total_steps=100)
    cut = RankRow(1, None, None, None, None, None, 1, None, 0.5, 3, 12, 3, 44, 41, 1.0, None, None, 0.5, 3, 3)
    folder.table("lowrank", [cut])
    folder.close()
    path = tmp_path / "lowrank.csv"
    header, line = path.read_text().splitlines()
    (row,) = reader.read(tmp_path).lowrank
    assert row["return_std"] != row["return_std"], "an empty cell is no number"
    for content in (f"{header}\n{line[:-3]}x\n", f"{header}\n{line[:20]}\n", f"{header}\n{line},7\n", "rank,episodes\n1,1\n"):
        path.write_text(content)
        run = reader.read(tmp_path)
        assert (len(run.problems), run.lowrank) == (1, [])
        assert "lowrank.csv is not whole" in run.problems[0]
