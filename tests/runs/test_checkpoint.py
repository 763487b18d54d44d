"""Whenever a process dies and whatever is damaged, all members go on from one step that each has whole, or it is said."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sparserl.population.state import State
from sparserl.runs import checkpoint


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


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
    return sorted(path.name for path in folder.glob("checkpoint-*.pt"))


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
