"""Disks become full, files are damaged, two processes meet: one sentence each, and what was whole stays whole."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sparserl import terminal
from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import compose
from sparserl.runs import checkpoint, reader
from sparserl.runs import folder as disk
from sparserl.runs.files import DiskError, read_json, replace
from sparserl.runs.folder import RunFolder
from sparserl.sweeps.loop import run
from sparserl.train import main

SETTINGS = (
    "trainer=smoke",
    "trainer.checkpoint_every=100",
    "trainer.eval_every=400",
    "environment.max_episode_steps=40",
    "experience.train_freq=20",
    "experience.batch_size=16",
    "network.hidden=[8]",
    "lowrank.ranks=[1]",
    "lowrank.episodes=2",
    "logger=disk",
)

OUTCOME = "metrics.jsonl", "policy.safetensors", "lowrank.csv", "spectrum.csv"

MAKE_ROOM = "No space left on device; make room and start it again"


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """No pictures, and no waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(*SETTINGS)


def train(config: Config, root: Path) -> None:
    """Two members, into ``a`` and ``b``."""
    run([config | {"seed": seed} for seed in (0, 1)], [root / "a", root / "b"], live=False)


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes of it where nothing goes wrong."""
    root = tmp_path_factory.mktemp("whole")
    train(config, root)
    return root


@pytest.fixture(scope="module")
def _halfway(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, save = tmp_path_factory.mktemp("halfway"), checkpoint.save

    def stop(folders: Sequence[Path], step: int, states: Sequence[Any], run_by: Sequence[Any]) -> None:
        if step == 300:
            raise KeyboardInterrupt
        save(folders, step, states, run_by)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, root)
    assert checkpoint.steps(root / "a") == checkpoint.steps(root / "b") == [100, 200]
    return root


@pytest.fixture
def halfway(_halfway: Path, tmp_path: Path) -> Path:
    """The same, interrupted when it had checkpoints of the steps 100 and 200, and rows of step 300."""
    return shutil.copytree(_halfway, tmp_path / "halfway")


def assert_whole(root: Path, whole: Path) -> None:
    """Every file as if nothing had happened, and nothing left over."""
    for name in "ab":
        for file in OUTCOME:
            assert (root / name / file).read_bytes() == (whole / name / file).read_bytes()
        assert read_json(root / name / "status.json")["status"] == "done"
        assert read_json(root / name / "result.json")["status"] == "done"
        assert {path.name for path in (root / name).iterdir()} == {path.name for path in (whole / name).iterdir()}


# ---------------------------------------------------------------- a full disk


def fill(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str, times: int) -> None:
    """When ``file`` is written for that time, the disk of ``folder`` becomes full: half of the file fits."""
    count, full, write = 0, False, disk._write

    def refuse(path: Path) -> bool:
        nonlocal count, full
        count += path.parent == folder and path.match(file)
        full = full or count == times
        return full and path.parent == folder

    def sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.suffix == ".part" and refuse(path.with_suffix("").with_suffix("")):
            os.truncate(path, path.stat().st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def append(log: io.FileIO, line: bytes) -> int:
        if not refuse(Path(log.name)):
            return write(log, line)
        if len(line) > 20:
            return write(log, line[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(disk, "_write", append)


@pytest.mark.parametrize(
    ("file", "times"),
    [
        ("metrics.jsonl", 2),
        ("timing.jsonl", 3),
        ("checkpoint-*.pt", 2),
        ("checkpoint.json", 3),
        ("lowrank.csv", 1),
        ("spectrum.csv", 1),
        ("policy.safetensors", 1),
        ("result.json", 1),
        ("status.json", 2),  # at the end; the first one is of the beginning
    ],
)
def test_a_disk_that_becomes_full_stops_all_members_and_with_room_they_end_as_if_it_had_not(
    file: str, times: int, config: Config, whole: Path, tmp_path: Path
) -> None:
    """Only that of the second member: the first says who stopped it, or is done already."""
    with pytest.MonkeyPatch.context() as patch:
        fill(patch, tmp_path / "b", file, times)
        with pytest.raises(DiskError, match=MAKE_ROOM) as stopped:
            train(config, tmp_path)
    assert Path(str(stopped.value).split()[0]).match(f"b/{file}")
    assert not [*tmp_path.glob("*/*.part")], "half a file takes room"
    for path in tmp_path.glob("*/*.jsonl"):
        assert all(json.loads(line) for line in path.read_text().splitlines()), "nor is there half a row"
    status = read_json(tmp_path / "a" / "status.json")
    if status["status"] != "done":
        assert (status["status"], status["error"]) == ("interrupted", str(stopped.value))
    assert read_json(tmp_path / "b" / "status.json")["status"] == "running"  # what it is now could not be written
    train(config, tmp_path)
    assert_whole(tmp_path, whole)


def test_a_folder_that_cannot_even_take_its_config(config: Config, whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: _no_room())
        with pytest.raises(DiskError, match=rf"a/config.json cannot be written: {MAKE_ROOM}"):
            train(config, tmp_path)
    train(config, tmp_path)
    assert_whole(tmp_path, whole)


def _no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_torch_says_of_a_full_disk_is_understood(tmp_path: Path) -> None:
    """Its RuntimeError speaks of positions in a file. A limit to the size of files needs no small disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(DiskError, match=rf"{tmp_path / 'x.pt'} cannot be written: File too large; make room"):
            replace(tmp_path / "x.pt", lambda file: torch.save({"a": torch.zeros(9000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.iterdir()]


def test_an_error_that_is_not_the_disks_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no disk"), disk.writing(tmp_path):
        raise RuntimeError("no disk")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of the given size, or gives the mounted one that size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: str) -> Path:
        options = f"remount,size={size}" if place.is_mount() else f"size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
@pytest.mark.parametrize("size", ["24k", "160k", "300k"])
def test_a_real_disk_that_is_too_small(size: str, small_disk: Callable[[str], Path], config: Config, whole: Path) -> None:
    """Full at a row, between the first checkpoints of the two members, at the second ones."""
    root = small_disk(size)
    with pytest.raises(DiskError, match=MAKE_ROOM):
        train(config, root)
    assert not [*root.glob("*/*.part")]
    small_disk("8m")
    train(config, root)
    assert_whole(root, whole)


# ---------------------------------------------------------------- something else in a folder's place


@pytest.mark.parametrize("place", ["a", "a/config.json", ""])
def test_a_file_or_folder_in_the_way(place: str, config: Config, tmp_path: Path) -> None:
    root = tmp_path / "root"
    if place.endswith("json"):
        (root / place).mkdir(parents=True)
    else:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text("mine")
    with pytest.raises(ConfigError, match=rf"the output folder {root / 'a'} cannot be used: .*; choose another one or"):
        train(config, root)
    if not place.endswith("json"):
        assert (root / place).read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.jsonl", "status.json"])
def test_a_folder_in_the_place_of_a_file(name: str, config: Config, tmp_path: Path) -> None:
    (tmp_path / "a" / name).mkdir(parents=True)
    with pytest.raises(DiskError, match=rf"{tmp_path / 'a' / name} cannot be written: Is a directory; put that right"):
        train(config, tmp_path)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("content", ["", '{"seed": 0', "[1, 2]", "{}", "another"])
def test_a_config_that_is_not_the_runs(content: str, config: Config, halfway: Path) -> None:
    path = halfway / "b" / "config.json"
    path.write_text(content if content != "another" else json.dumps(config | {"seed": 7}))
    before = {path: path.read_bytes() for path in halfway.glob("*/*")}
    with pytest.raises(ConfigError, match=rf"{halfway / 'b'}.*(cannot be used|another config)"):
        train(config, halfway)
    assert {path: path.read_bytes() for path in halfway.glob("*/*")} == before


def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(
    config: Config, whole: Path, halfway: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged,) = (halfway / "b").glob("checkpoint-*200.pt")
    os.truncate(damaged, damaged.stat().st_size // 2)
    train(config, halfway)
    said = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert said == [f"warning: {damaged} cannot be read; the checkpoint of step 100 can"]
    assert_whole(halfway, whole)


def test_where_no_checkpoint_is_whole_nothing_is_trained_over(config: Config, halfway: Path) -> None:
    for path in (halfway / "b").glob("checkpoint-*.pt"):
        path.write_bytes(path.read_bytes()[:99])
    before = {path: path.read_bytes() for path in halfway.glob("*/*")}
    with pytest.raises(ConfigError, match=rf"{halfway / 'b'}.*take the damaged folders away"):
        train(config, halfway)
    assert {path: path.read_bytes() for path in halfway.glob("*/*")} == before


OTHERWISE: dict[str, Callable[[Any], object]] = {
    "what CartPole keeps": lambda state: state["trainer"]["episodes"]["environment"].pop("first"),
    "a learner": lambda state: state["trainer"]["learner"].pop("updates"),
    "a shape": lambda state: state["trainer"]["learner"]["weights"]["policy"].update({"0.weight": torch.ones(3, 3)}),
    "a replay": lambda state: state["trainer"]["experience"].update(fields=[]) or state["trainer"]["experience"].pop("seen"),
    "random numbers": lambda state: state["trainer"].update(exploration=None),
    "records": lambda state: state["records"].pop("offsets"),
    "all of it": lambda state: state.clear(),
}
"""What another version may have kept otherwise."""


@pytest.mark.parametrize("kept", OTHERWISE)
def test_a_checkpoint_of_an_incompatible_version_is_one_sentence_that_names_it(
    kept: str, config: Config, halfway: Path
) -> None:
    """However often it is started again: nothing has failed that a second attempt could mend. Only one member's is."""
    paths = [halfway / name / "checkpoint-000000000200.pt" for name in "ab"]
    state = torch.load(paths[1], weights_only=True)
    OTHERWISE[kept](state)
    torch.save(state, paths[1])
    for _ in range(2):
        with pytest.raises(DiskError) as caught:
            train(config, halfway)
        said = str(caught.value)
        assert said.startswith(f"one of {paths[0]}, {paths[1]} was written by an incompatible version of sparserl (")
        assert said.endswith("give the run another name, or take its folder away to train from the start")
        assert "\n" not in said
        assert read_json(halfway / "a" / "status.json")["status"] == "interrupted"


def test_a_damaged_manifest_is_said_and_the_files_beside_it_taken(
    config: Config, whole: Path, halfway: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (halfway / "b" / "checkpoint.json").write_text('{"steps": [1')
    train(config, halfway)
    assert f"{halfway / 'b' / 'checkpoint.json'} cannot be read; the checkpoint of step 200 can" in capsys.readouterr().err
    assert_whole(halfway, whole)


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"status": "do'])
def test_a_damaged_status_or_result_is_written_anew(content: str, config: Config, whole: Path, halfway: Path) -> None:
    for name in ("status.json", "result.json"):
        (halfway / "a" / name).write_text(content)
    train(config, halfway)
    assert_whole(halfway, whole)


@pytest.mark.parametrize("damage", ["shorter", "gone", "another", "not rows"])
def test_rows_that_are_lost_are_said(damage: str, config: Config, halfway: Path) -> None:
    """Going on would leave a hole that nobody sees."""
    path = halfway / "b" / "metrics.jsonl"
    text = path.read_text()
    if damage == "gone":
        path.unlink()
    else:
        path.write_text({"shorter": text[:50], "another": text[:300] + "\n" + text[300:], "not rows": "x" * len(text)}[damage])
    with pytest.raises(DiskError, match=rf"{path} (has lost rows|is damaged).*take the folder away"):
        train(config, halfway)
    assert "metrics.jsonl" in read_json(halfway / "b" / "status.json")["error"]
    assert "metrics.jsonl" in str(reader.read(halfway / "a").error)


# ---------------------------------------------------------------- two processes

HOLD = """
import sys, time
from pathlib import Path
from sparserl.runs.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), total_steps=1)
folder.status("running", 0)
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_process_in_a_folder_stops_with_one_sentence(
    config: Config, halfway: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in halfway.glob("*/*") if path.name != "status.json"}
    command = [sys.executable, "-c", HOLD, str(halfway / "b")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        sentence = (
            f"{halfway / 'b'} is being written by process {other.pid} on {socket.gethostname()}; wait for it to end, or stop it"
        )
        with pytest.raises(DiskError) as refused:
            train(config, halfway)
        assert str(refused.value) == sentence
        monkeypatch.setattr(sys, "argv", ["sparserl-train", f"resume={halfway / 'b'}"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(SystemExit, match=f"sparserl: {sentence}"):
            main()
        assert capsys.readouterr().err == ""
        assert {path: path.read_bytes() for path in before} == before
        assert read_json(halfway / "b" / "status.json")["process"] == other.pid
        other.kill()
    RunFolder(halfway / "b", total_steps=1).close()  # what held it is gone, however it ended


def test_two_members_cannot_share_a_folder(config: Config, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=rf"{tmp_path} is being written by another process"):
        run([config, config], [tmp_path, tmp_path], live=False)
    RunFolder(tmp_path, total_steps=1).close()  # and nobody holds it now


def test_where_files_cannot_be_locked_a_run_goes_without_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on some network file systems: two processes are not kept apart there."""

    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    terminal.say_once.cache_clear()
    monkeypatch.setattr("sparserl.runs.folder.lock_descriptor", unsupported)
    folders = [RunFolder(tmp_path, total_steps=1) for _ in range(2)]
    disk.check_free(tmp_path)
    for step, folder in enumerate(folders):
        folder.metrics({"env_step": step})
        folder.close()
    assert [row["env_step"] for row in reader.read(tmp_path).metrics] == [0, 1]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: files cannot be locked here (Operation not supported), so nothing keeps a second process")
