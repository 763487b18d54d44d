from __future__ import annotations

import csv
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sparserl.population import State
from sparserl.records import checkpoint
from sparserl.records.disk import RunFolder, read_json, replace, write_json
from sparserl.records.schema import RankRow, SingularValue, as_json


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
    folder.table("lowrank", [RankRow(1, 0.1 + 0.2, 1e-300, 2, None, -third, 3, 12, 3, 44, nan)])
    folder.table("lowrank", [RankRow("full", third, 0.0, 2, 1.0, 0.0, 3, 12, 3, 44, 1.0)])
    folder.table("spectrum", [SingularValue("0", 1, 0.1 + 0.2, third, 0), SingularValue("1", 1, nan, 1e-300, 2)])
    folder.close()
    names = "rank,return_mean,return_std,episodes,retention,compression,parameters,bytes,macs,csr_bytes,energy"
    assert (tmp_path / "lowrank.csv").read_text() == f"{names}\nfull,{third!r},0.0,2,1.0,0.0,3,12,3,44,1.0\n"
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


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"not json"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is not whole"):
        read_json(path)


# ---------------------------------------------------------------- checkpoints


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / str(member) for member in range(3)]
    for folder in made:
        folder.mkdir()
    return made


def states(step: int, members: int = 3) -> list[State]:
    """What is kept of each member: tensors and plain values, recognisable."""
    return [
        {
            "step": step,
            "member": member,
            "weights": torch.full((4,), float(step + member)),
            "more": [None, {"a": 1.5}, "text"],
        }
        for member in range(members)
    ]


def step_of(loaded: Sequence[State] | None) -> int | None:
    """The step at which these states were saved, checked to be whole and each member's own."""
    if loaded is None:
        return None
    step = loaded[0]["step"]
    for given, expected in zip(loaded, states(step, len(loaded)), strict=True):
        assert torch.equal(given.pop("weights"), expected.pop("weights"))
        assert given == expected
    return int(step)


def save(folders: Sequence[Path], *steps: int) -> None:
    for step in steps:
        checkpoint.save(folders, step, states(step, len(folders)))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def file_of(folder: Path, step: int) -> Path:
    (path,) = folder.glob(f"checkpoint-*{step}.pt")
    return path


def test_nothing_saved_is_nothing_to_go_on_from(folders: list[Path]) -> None:
    assert checkpoint.load(folders) is None


def test_the_newest_is_loaded_and_two_are_kept(folders: list[Path]) -> None:
    for count, step in enumerate((100, 200, 1000, 20000), start=1):
        save(folders, step)
        assert step_of(checkpoint.load(folders)) == step
        assert [len(files(folder)) for folder in folders] == [min(count, 2)] * 3
    assert checkpoint.steps(folders[0]) == [1000, 20000]


def test_members_can_go_on_in_any_company(folders: list[Path]) -> None:
    save(folders, 100)
    loaded = checkpoint.load([folders[2], folders[0]])
    assert loaded is not None
    assert [state["member"] for state in loaded] == [2, 0]


@pytest.mark.parametrize("damage", ["delete", "empty", "half", "last byte"])
@pytest.mark.parametrize("member", [0, 2])
def test_a_damaged_file_of_one_member_takes_all_back_to_the_step_before(folders: list[Path], member: int, damage: str) -> None:
    save(folders, 100, 200)
    path = file_of(folders[member], 200)
    if damage == "delete":
        path.unlink()
    else:
        whole = path.stat().st_size
        os.truncate(path, {"empty": 0, "half": whole // 2, "last byte": whole - 1}[damage])
    assert step_of(checkpoint.load(folders)) == 100
    # and it goes on from there: the damaged step is saved once more
    save(folders, 200)
    assert step_of(checkpoint.load(folders)) == 200
    assert [checkpoint.steps(folder) for folder in folders] == [[100, 200]] * 3, "and there are two generations again"


# torch's reader raises whatever comes of them: EOFError, UnpicklingError, IndexError, struct.error
@pytest.mark.parametrize("content", [b"\x00" * 50, b"PK\x03\x04", b"\x80\x02}", b".", b"K", b"G"])
def test_a_file_with_anything_in_it_is_damaged(folders: list[Path], content: bytes) -> None:
    save(folders, 100, 200)
    file_of(folders[1], 200).write_bytes(content)
    assert step_of(checkpoint.load(folders)) == 100


def test_members_at_different_steps_meet_at_the_newest_common_one(folders: list[Path]) -> None:
    save(folders, 100, 200)
    checkpoint.save(folders[:1], 300, states(300, 1))
    assert checkpoint.steps(folders[0]) == [200, 300]
    assert step_of(checkpoint.load(folders)) == 200


def test_where_no_common_step_can_be_read_it_is_said(folders: list[Path]) -> None:
    save(folders, 100, 200)
    file_of(folders[0], 100).unlink()
    file_of(folders[1], 200).unlink()
    with pytest.raises(ValueError, match=rf"{folders[0]}.*take the damaged folders away"):
        checkpoint.load(folders)


def test_a_member_that_has_none_is_not_trained_anew_in_silence(folders: list[Path]) -> None:
    save(folders[:2], 100)
    with pytest.raises(ValueError, match="take the damaged folders away"):
        checkpoint.load(folders)


@pytest.mark.parametrize("content", [b"", b'{"steps": [100', b"{}", b"[1]"])
def test_a_damaged_manifest_is_not_trained_over_in_silence(folders: list[Path], content: bytes) -> None:
    """A day of training is in the files beside it: either they are found, or it is said that they cannot be."""
    alone = folders[:1]
    save(alone, 100)
    (alone[0] / checkpoint.MANIFEST).write_bytes(content)
    try:
        loaded = checkpoint.load(alone)
    except ValueError:
        return
    assert step_of(loaded) == 100


class Killed(BaseException):
    """As if the process had died: nothing catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, operation: int) -> Callable[[], int]:
    """Die just before the n-th time that the disk is told something final; returns how often it was told."""
    count = 0

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def told(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count > operation:
                raise Killed
            return original(*arguments, **named)

        return told

    monkeypatch.setattr(os, "fsync", dying(os.fsync))
    monkeypatch.setattr(Path, "replace", dying(Path.replace))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))
    return lambda: count


def operations_of(save_once: Callable[[], None]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        told = kill_at(patch, 10**9)
        save_once()
        return told()


@pytest.mark.parametrize("before", [[100], [100, 200]])
def test_whenever_a_process_dies_all_members_go_on_from_one_step(tmp_path: Path, before: list[int]) -> None:
    def fresh(name: str) -> list[Path]:
        made = [tmp_path / name / str(member) for member in range(3)]
        for folder in made:
            folder.mkdir(parents=True)
        save(made, *before)
        return made

    counted = fresh("counted")
    total = operations_of(lambda: save(counted, 900))
    # three member files and three manifests of three operations each, and three old files if there are any
    assert total == 18 + (3 if len(before) == 2 else 0)
    came_from = []
    for operation in range(total):
        killed = fresh(str(operation))
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, operation)
            with pytest.raises(Killed):
                save(killed, 900)
        came_from.append(step_of(checkpoint.load(killed)))
        save(killed, 900, 950)  # and training goes on
        assert step_of(checkpoint.load(killed)) == 950
        assert [len(files(folder)) for folder in killed] == [2, 2, 2]
    assert set(came_from) == {before[-1], 900}
    assert came_from == sorted(came_from), "once the new step counts, it stays"


def test_a_process_that_dies_in_its_first_checkpoint_starts_again_or_goes_on(tmp_path: Path) -> None:
    for operation in range(18):
        killed = [tmp_path / str(operation) / str(member) for member in range(3)]
        for folder in killed:
            folder.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, operation)
            with pytest.raises(Killed):
                save(killed, 100)
        assert step_of(checkpoint.load(killed)) in (None, 100)


class Malicious:
    """Unpickled, it makes a file: code of a stranger has run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_a_checkpoint_from_a_stranger_runs_no_code_and_is_refused(folders: list[Path], tmp_path: Path, by: str) -> None:
    alone, made = folders[:1], tmp_path / "made by the stranger"
    save(alone, 100)
    if by == "torch":
        torch.save({"step": 100, "state": Malicious(made)}, file_of(alone[0], 100))
    else:
        file_of(alone[0], 100).write_bytes(pickle.dumps({"step": 100, "state": Malicious(made)}))
    with pytest.raises(ValueError, match="take the damaged folders away"):
        checkpoint.load(alone)
    assert not made.exists()
    # this file would have done it
    if by == "pickle":
        pickle.loads(file_of(alone[0], 100).read_bytes())
    else:
        torch.load(file_of(alone[0], 100), weights_only=False)
    assert made.exists()


def test_a_flipped_bit_is_damage(folders: list[Path]) -> None:
    """torch alone would load it, with a weight that was never trained."""
    save(folders, 100)
    save(folders, 200)
    damaged = file_of(folders[0], 200)
    content = bytearray(damaged.read_bytes())
    with zipfile.ZipFile(damaged) as archive:
        tensor = next(info for info in archive.infolist() if "/data/" in info.filename)
        start = tensor.header_offset + 30 + len(tensor.filename)
    # the padding that aligns a tensor's numbers is as long as the header says; the numbers are what follows it
    start += int.from_bytes(content[tensor.header_offset + 28 : tensor.header_offset + 30], "little")
    content[start] ^= 1
    damaged.write_bytes(content)
    assert step_of(checkpoint.load(folders)) == 100
