"""What is said of jobs: of made-up ones whose numbers are known, of one that is being trained, and of what is not whole."""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
from folders import NASTY, made_up

from sparserl import status
from sparserl.config.validation import compose
from sparserl.report import __main__ as report
from sparserl.runs import reader
from sparserl.runs.files import read_json, write_json
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import Status, StatusName
from sparserl.sweeps.loop import run

ROOT = Path(__file__).parents[1]
ELSEWHERE = "another-machine"


def job(folder: Path, name: str = "running", *, step: int = 400, seconds: float = 0.5, **given: Any) -> Path:
    """A job of 1,000 steps that has a row each 100, ``seconds`` apart, and lives in this process unless ``given`` otherwise."""
    folder.mkdir(parents=True)
    about: dict[str, Any] = {"process": os.getpid(), "host": socket.gethostname()} | given
    write_json(folder / "status.json", Status(name, 0, 1000, **about))
    rows = range(100, step + 1, 100)
    metrics = [
        {"env_step": at, "sparsity/exact": at / 1000} | ({"eval/return_mean": float(at)} if at % 200 == 0 else {})
        for at in rows
    ]
    timing = [{"env_step": at, "acting": 0.2 * seconds, "update": 0.8 * seconds} for at in rows]
    for log, lines in {"metrics": metrics, "timing": timing}.items():
        (folder / f"{log}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def one(folder: Path) -> status.Job:
    (found,) = status.look(folder)
    return found


def age(folder: Path, seconds: float) -> None:
    """As if nothing had been written since."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def ask(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["sparserl-status", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        status.main()
    return int(ended.value.code or 0)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


# ---------------------------------------------------------------- one job


def test_a_running_job_is_told_from_its_last_rows(tmp_path: Path) -> None:
    job(tmp_path / "a", step=500, seconds=0.5)
    found = one(tmp_path)
    assert (found.folder, found.status, found.env_step, found.total_steps) == ("a", "running", 500, 1000)
    # 100 steps take 0.5 s, and 500 are left; the last evaluation was at 400
    assert (found.steps_per_second, found.seconds_left) == (pytest.approx(200), pytest.approx(2.5))
    assert (found.return_mean, found.sparsity, found.warnings, found.note) == (400.0, 0.5, 0, None)


def test_speed_is_that_of_the_last_rows(tmp_path: Path) -> None:
    """Thirty rows of 10 s, then ten of 1 s: what was slow in the beginning does not count."""
    folder = job(tmp_path / "a")
    rows = [{"env_step": 10 * (row + 1), "update": 10.0 if row < 30 else 1.0} for row in range(40)]
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert one(tmp_path).steps_per_second == pytest.approx(10.0, rel=0.5)  # one more or less is no matter; all would be 1.3
    with (folder / "timing.jsonl").open("a") as file:
        file.write(json.dumps({"env_step": 400, "lowrank": 1e6}) + "\n")
    assert one(tmp_path).steps_per_second == pytest.approx(10.0, rel=0.5), "the ranks take no steps"


def test_every_status_is_known_and_told(tmp_path: Path) -> None:
    assert set(get_args(StatusName)) <= set(status.STATUSES)
    job(tmp_path / "waits", "waiting", step=0)
    job(tmp_path / "copy", "duplicate", step=0, of="stood-for")
    job(tmp_path / "fell", "failed", error="Traceback:\n  a line\nValueError: made to [red]fail[/red]\n")
    job(tmp_path / "cut", "interrupted")
    job(tmp_path / "ranks", step=1000)
    made_up(tmp_path / "whole", warnings=["one", "two"])
    found = {job.folder: job for job in status.look(tmp_path)}
    assert [*found] == ["whole", "copy", "waits", "ranks", "cut", "fell"], "those that need somebody come last"
    assert found["fell"].note == "ValueError: made to [red]fail[/red]"
    assert found["copy"].note == "the same as stood-for"
    assert found["ranks"].note == "the ranks are evaluated"
    assert (found["whole"].status, found["whole"].return_mean, found["whole"].sparsity) == ("done", 100.0, 0.75)
    assert (found["whole"].env_step, found["whole"].warnings) == (20, 2)
    assert found["waits"].env_step == 0
    assert found["waits"].seconds_left is None


def test_seeds_are_sorted_as_numbers(tmp_path: Path) -> None:
    for seed in (10, 9, 1):
        job(tmp_path / f"seed{seed}-x")
    assert [job.folder for job in status.look(tmp_path)] == ["seed1-x", "seed9-x", "seed10-x"]


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    folder = job(tmp_path / "a", step=1000)
    log = folder / "metrics.jsonl"
    log.write_bytes(b'{"env_step": 1, "warnings": ["early"]}\n' * 100_000 + log.read_bytes())
    assert log.stat().st_size > 10 * status.TAIL
    read = status._tail(log)
    assert sum(map(len, read)) < status.TAIL
    assert all(json.loads(line) for line in read), "none is cut in two"
    assert one(tmp_path).return_mean == 1000.0


# ---------------------------------------------------------------- whether its process lives


def test_a_process_that_is_gone_is_told(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    job(tmp_path / "a", process=other.pid)
    assert one(tmp_path).status == "running"
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert one(tmp_path).status == "stopped", "dead, and its parent has not asked how it died"
    other.wait()
    found = one(tmp_path)
    assert (found.status, found.seconds_left) == ("stopped", None)
    assert "start the sweep again" in (found.note or "")


def test_a_number_that_is_another_process_by_now_is_no_sign_of_life(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    """A process is its number and when it began: no clock of a file server has a say in that."""
    began = psutil.Process(other.pid).create_time()
    job(tmp_path / "before", process=other.pid, process_began=began - 60)
    job(tmp_path / "now", process=other.pid, process_began=began)
    job(tmp_path / "unknown", process=other.pid)  # of an earlier version: the number has to do
    age(tmp_path / "now", 3600)
    found = {job.folder: job.status for job in status.look(tmp_path)}
    assert found == {"before": "stopped", "now": "running", "unknown": "running"}


def test_a_status_names_the_process_that_wrote_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, total_steps=100)
    folder.status("running", 0)
    folder.close()
    written = read_json(tmp_path / "status.json")
    assert (written["process"], written["process_began"]) == (os.getpid(), psutil.Process().create_time())
    assert one(tmp_path).status == "running"


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
def test_silence_is_measured_by_the_clock_that_dates_the_files(
    ahead: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's clock is two hours ahead of the file server's, or behind it."""
    folder = job(tmp_path / "a", host=ELSEWHERE)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + ahead)
        assert one(tmp_path).status == "running"
    age(folder, status.SILENCE + 30)
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    assert one(tmp_path).status == "stopped"
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "status.json", "timing.jsonl"]


def test_where_no_file_can_be_made_silence_is_measured_by_this_machines_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    folder = job(tmp_path / "a", host=ELSEWHERE)
    assert one(tmp_path).status == "running"
    age(folder, status.SILENCE + 30)
    assert one(tmp_path).status == "stopped"


def test_links_are_followed_and_no_run_is_found_twice(tmp_path: Path) -> None:
    """As where outputs are kept on another disk: links to a sweep, to a run that is there itself, and back to the top."""
    job(tmp_path / "disk" / "elsewhere" / "a")
    asked = tmp_path / "asked"
    job(asked / "mine" / "b")
    (asked / "sweep").symlink_to(tmp_path / "disk" / "elsewhere")
    (asked / "latest").symlink_to(asked / "mine" / "b")
    (asked / "mine" / "back").symlink_to(asked)
    assert sorted(found.folder for found in status.look(asked)) == ["mine/b", "sweep/a"]


@pytest.mark.parametrize(
    ("step", "seconds", "patience"),
    [
        pytest.param(400, 1.0, status.SILENCE, id="rows of a second"),
        pytest.param(400, 100.0, 1000.0, id="rows of 100 seconds"),  # ten times as long
        pytest.param(0, 1.0, status.LONG_SILENCE, id="no row yet"),
        pytest.param(1000, 1.0, status.LONG_SILENCE, id="at the ranks"),
    ],
)
def test_elsewhere_a_long_silence_is_a_sign(tmp_path: Path, step: int, seconds: float, patience: float) -> None:
    folder = job(tmp_path / "a", step=step, seconds=seconds, host=ELSEWHERE)
    age(folder, patience - 30)  # 30 s: the test may be held up
    assert one(tmp_path).status == "running"
    age(folder, patience + 30)
    assert one(tmp_path).status == "stopped"


def test_a_job_that_ends_while_one_looks_is_not_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status is read, then it ends with its process, and then the process is looked for."""
    folder = job(tmp_path / "a")

    def ends(*_: object) -> bool:
        write_json(folder / "status.json", Status("interrupted", 400, 1000, 1, "host"))
        return False

    monkeypatch.setattr(status, "_lives", ends)
    assert one(tmp_path).status == "interrupted"


# ---------------------------------------------------------------- what is not whole


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    folder = job(tmp_path / "a", step=300)
    for name in ("metrics", "timing"):
        with (folder / f"{name}.jsonl").open("a") as log:
            log.write('{"env_step": 400, "eval/return_me')
    assert (one(tmp_path).env_step, one(tmp_path).return_mean) == (300, 200.0)


@pytest.mark.parametrize("content", ["", '{"status": "ru', "[]", '{"status": "unheard of"}', '{"status": "done"}'])
def test_a_status_that_cannot_be_is_damage(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = job(tmp_path / "a")
    (folder / "status.json").write_text(content)
    assert one(tmp_path).status == "damaged"
    assert "status.json" in (one(tmp_path).note or "")
    assert ask(monkeypatch, tmp_path) == 1


def test_folders_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = job(tmp_path / "there")
    monkeypatch.setattr(reader, "folders", lambda _: [tmp_path / "gone", there])
    assert one(tmp_path).folder == "there"
    (there / "metrics.jsonl").unlink()
    (there / "timing.jsonl").unlink()
    found = one(tmp_path)
    assert (found.env_step, found.steps_per_second, found.return_mean) == (0, None, None)
    (there / "status.json").unlink()
    write_json(there / "config.json", read_json(made_up(tmp_path / "model") / "config.json"))
    shutil.rmtree(tmp_path / "model")
    found = one(tmp_path)
    assert (found.status, found.total_steps) == ("waiting", 20), "it has its folder, and has not begun"


def looked_at_during(work: Callable[[list[list[status.Job]]], object], folder: Path) -> list[list[status.Job]]:
    """What was said from before the first file was there until after the last. ``work`` is given what was said so far."""
    seen: list[list[status.Job]] = []
    thread = threading.Thread(target=work, args=(seen,))
    thread.start()
    while thread.is_alive():
        seen.append(status.look(folder))
        time.sleep(0.01)  # or the two threads would be at the same lock all the time
    thread.join()
    return [*seen, status.look(folder)]


def test_a_job_is_told_of_while_its_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    def steps(seen: list[list[status.Job]]) -> set[int]:
        return {job.env_step for jobs in [*seen] for job in jobs}

    def write(seen: list[list[status.Job]]) -> None:
        folder = RunFolder(tmp_path / "a", 100_000)
        folder.status("running", 0)
        # until some steps were seen, however fast the machine is
        for step in takewhile(lambda step: step <= 300 or len(steps(seen)) <= 5, range(1, 100_000)):
            folder.metrics({"env_step": step, "eval/return_mean": float(step), "filler": list(range(300))})
            folder.timing({"env_step": step, "update": 0.01})
            time.sleep(0.002)  # the thread that looks has its turn
        folder.status("interrupted", step)
        folder.close()

    seen = [job for jobs in looked_at_during(write, tmp_path) for job in jobs]
    assert {job.status for job in seen} == {"running", "interrupted"}
    assert [job.env_step for job in seen] == sorted(job.env_step for job in seen)
    assert len({job.env_step for job in seen}) > 5
    assert all(job.return_mean == job.env_step for job in seen if job.env_step)


@pytest.mark.slow  # two members are trained, with their ranks and their pictures, while somebody looks all the time
def test_a_population_is_told_of_while_it_trains(tmp_path: Path) -> None:
    settings = "trainer=smoke", "network.hidden=[8]", "logger=disk", "trainer.total_steps=1000", "trainer.log_every=20"
    configs = [compose(*settings, f"seed={seed}") for seed in (0, 1)]
    seen = looked_at_during(lambda _: run(configs, [tmp_path / "0", tmp_path / "1"]), tmp_path)
    assert {job.status for jobs in seen for job in jobs} <= {"waiting", "running", "done"}
    for name in ("0", "1"):
        at = [job.env_step for jobs in seen for job in jobs if job.folder == name]
        assert at == sorted(at)
        assert len(set(at)) > 5
    assert {(job.status, job.env_step) for job in seen[-1]} == {("done", 1000)}


# ---------------------------------------------------------------- what others keep

FOREIGN = {
    "a model": ("config.json", '{"architectures": ["BertModel"], "hidden_size": 768, "names": ["a"]}'),
    "a server": ("status.json", '{"status": "ok", "uptime": 12}'),
    "a benchmark": ("result.json", '[{"return_mean": 1.0}]'),
    "no JSON": ("config.json", "// comments\n{}"),
    "deep": ("config.json", "[" * 100_000),
    "no text": ("status.json", "\x00\xff"),
}


@pytest.mark.parametrize(("name", "content"), FOREIGN.values(), ids=FOREIGN)
def test_a_folder_of_somebody_elses_is_no_run(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One with a model from Hugging Face was a damaged run, and the exit code 1."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text(content)
    assert ask(monkeypatch, tmp_path) == 2
    made_up(tmp_path / "ours")
    capsys.readouterr()
    assert ask(monkeypatch, tmp_path) == 0
    monkeypatch.setattr(sys, "argv", ["sparserl-report", str(tmp_path)])
    monkeypatch.setattr("sparserl.report.writer.write_figures", lambda *_: ([], []))
    report.main()
    assert capsys.readouterr().err == ""
    assert [run.folder.name for run in reader.find([tmp_path])] == ["ours"]


@pytest.mark.parametrize("name", ["config.json", "status.json", "result.json"])
def test_a_run_of_which_one_file_is_damaged_is_one_all_the_same(name: str, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "a", sweep=False)
    (folder / name).write_text("{")
    assert name in (one(tmp_path).note or "")


def test_rows_that_are_not_ours_say_nothing(tmp_path: Path) -> None:
    folder = job(tmp_path / "a", step=300)
    for log in ("metrics", "timing"):
        with (folder / f"{log}.jsonl").open("a") as file:
            file.write('["env_step"]\n{"env_step": "late", "update": "slow", "warnings": 3}\n')
    assert (one(tmp_path).env_step, one(tmp_path).warnings) == (300, 0)


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_any_text_is_told(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(tmp_path / "a", "failed", error=f"Traceback\n{text}")
    job(tmp_path / "b", "duplicate", step=0, of=text)
    if len(text) < 200 and not {"\0", "/"} & {*text}:
        job(tmp_path / text.replace("\n", " "))
    assert ask(monkeypatch, tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    assert all(line.isprintable() for line in printed.out.splitlines())
    assert ask(monkeypatch, tmp_path, "--json") == 1
    assert json.loads(capsys.readouterr().out)["jobs"][0]["note"] == f"the same as {text}"


# ---------------------------------------------------------------- many jobs


def test_totals_are_those_of_a_worked_example(tmp_path: Path) -> None:
    job(tmp_path / "a", step=500, seconds=0.5)
    job(tmp_path / "b", step=500, seconds=1.0)
    job(tmp_path / "c", "waiting", step=0)
    made_up(tmp_path / "d")
    job(tmp_path / "e", "failed", step=300, error="ValueError: made to fail")
    job(tmp_path / "f", "duplicate", step=0, of="d")
    found = status.totals(status.look(tmp_path))
    # the made-up one had 20 steps, and a duplicate takes none; 200 and 100 steps/s; what failed does not go on by itself
    assert found.progress == pytest.approx((500 + 500 + 0 + 20 + 300) / 4020)
    assert found.all_steps_per_second == pytest.approx(300)
    assert found.all_seconds_left == pytest.approx((500 + 500 + 1000) / 300)
    assert {name: count for name, count in found.counts.items() if count} == {
        "done": 1, "duplicate": 1, "waiting": 1, "running": 2, "failed": 1,
    }  # fmt: skip


def test_the_sweep_takes_no_less_than_its_slowest_job(tmp_path: Path) -> None:
    job(tmp_path / "fast", step=900, seconds=0.1)
    job(tmp_path / "slow", step=100, seconds=10.0)
    # 900 steps at 10 a second; 1,000 at 1,010 would be 1 s
    assert status.totals(status.look(tmp_path)).all_seconds_left == pytest.approx(90)


def test_where_nothing_runs_no_time_is_made_up(tmp_path: Path) -> None:
    job(tmp_path / "a", "waiting", step=0)
    assert status.totals(status.look(tmp_path)).all_seconds_left is None


# ---------------------------------------------------------------- the command


def test_a_table_has_a_row_for_each_job_and_one_line_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(tmp_path / "a", step=500)
    job(tmp_path / "b", "failed", step=300, error="OSError: [Errno 28] No space left on device")
    assert ask(monkeypatch, tmp_path) == 1
    *table, last = capsys.readouterr().out.splitlines()
    first, second = (next(line for line in table if f" {name} " in line) for name in "ab")
    assert all(word in first for word in ("running", "50%", "500 of 1000", "200", "0:00:02", "400.0", "50.0%"))
    assert all(word in second for word in ("failed", "300 of 1000", "[Errno 28] No space left on device"))
    assert last == "1 running, 1 failed; 40% of all steps, 200 steps/s, 0:00:02 left"


def test_many_jobs_of_one_status_are_one_row_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(status.MANY + 1):
        job(tmp_path / f"seed{seed}", "failed" if seed else "running", step=200, error=f"ValueError: {seed % 7 == 3}")
    for seed in range(status.MANY + 1):
        job(tmp_path / f"waits{seed}", "waiting", step=0)
        job(tmp_path / f"copy{seed}", "duplicate", step=0, of="one" if seed else "another")
    ask(monkeypatch, tmp_path)
    text = capsys.readouterr().out
    assert text.count(f"{status.MANY + 1} jobs") == 2
    assert f"{status.MANY} times: the same as one" in text
    assert "waits3" not in text
    assert "seed3" in text, "there are no more than twenty of them"
    ask(monkeypatch, tmp_path, "--all")
    assert "waits3" in capsys.readouterr().out


def test_json_has_the_keys_that_are_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(tmp_path / "a")
    assert ask(monkeypatch, tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [*found] == ["jobs", "counts", "progress", "all_steps_per_second", "all_seconds_left"]
    assert [*found["jobs"][0]] == [
        "folder", "status", "env_step", "total_steps", "steps_per_second", "seconds_left",
        "return_mean", "sparsity", "warnings", "note",
    ]  # fmt: skip
    assert set(found["counts"]) == set(status.STATUSES)
    assert not {*found} & {*found["jobs"][0]}, "a name has one meaning"


def test_where_there_is_no_run_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert ask(monkeypatch, folder) == 2
        assert capsys.readouterr().err == f"sparserl: there is no run in {folder}\n"


def test_a_single_run_may_be_asked_for(tmp_path: Path) -> None:
    assert one(job(tmp_path / "a")).folder == "a"


def test_it_waits_for_nothing_that_trains(tmp_path: Path) -> None:
    """torch alone takes seconds to import."""
    job(tmp_path / "a", "interrupted")
    code = (
        "import atexit, sys; atexit.register(lambda: print(*{'torch', 'numpy', 'pandas', 'hydra', 'wandb'} & {*sys.modules}))"
    )
    code += "; from sparserl.status import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["1 interrupted; 40% of all steps", ""]


def test_watching_needs_a_terminal_and_ends_with_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = job(tmp_path / "a", step=700)
    assert ask(monkeypatch, tmp_path, "--watch", "1") == 2
    assert "needs a terminal" in capsys.readouterr().err
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = [sys.executable, "-m", "sparserl.status", tmp_path, "--watch", "0.1"]
    process = subprocess.Popen(command, stdout=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while b"1 running" not in seen:
        seen += os.read(ours, 1 << 16)
    write_json(folder / "status.json", Status("failed", 700, 1000, 1, ELSEWHERE, "ValueError: made to fail"))
    while b"1 failed" not in seen:
        seen += os.read(ours, 1 << 16)
    assert process.wait(timeout=120) == 1
    os.close(ours)


def test_a_process_number_that_there_cannot_be_is_of_no_process() -> None:
    """As a damaged status.json may have it."""
    assert not status._lives(-5, None)
