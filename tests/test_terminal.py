"""Text from outside stays text, and no stream ends a process, whatever they are."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from folders import NASTY, made_up, result, unfinished

from sparserl import terminal
from sparserl.terminal import describe, number, one_sentence, optional, plain, print_line, print_table, say
from sparserl.tracking.console import Display, print_jobs, print_results

ROOT = Path(__file__).parents[1]
each_text = pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)


def times(text: str, printed: str) -> float:
    """How often a table has a text. Spaces may go where it is folded; two long texts are folded beside each other."""
    if len(text) > 1000:
        return printed.count(text[0]) / len(text)
    whole, sought = ("".join(c for c in some if not c.isspace()) for some in (printed, plain(text)))
    return whole.count(sought)


# ---------------------------------------------------------------- one text


@each_text
def test_plain_text_is_one_line_of_what_can_be_printed_and_encoded(text: str) -> None:
    line = plain(text)
    assert line.isprintable()
    line.encode()
    assert plain(line) == line


def test_plain_text_keeps_what_can_be_read() -> None:
    assert plain("naïve 日本  of\ntwo") == "naïve 日本  of two"
    assert plain("\x1b[2J \udcff") == "\\x1b[2J \\udcff"


def test_a_number_that_is_not_there_is_a_dash() -> None:
    assert [number(value, ".1f") for value in (None, float("nan"), float("inf"), 1.25)] == ["-", "-", "-", "1.2"]


def test_an_error_is_described_in_one_line_even_if_it_has_no_words() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(ValueError("one\ntwo")) == "ValueError: one two"
    assert describe(ValueError()) == "ValueError"
    assert describe(MuteError()) == "MuteError"


# ---------------------------------------------------------------- every output


@each_text
def test_sentences_are_a_line_each(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    print_line(text)
    printed = capsys.readouterr()
    assert printed.err == printed.out == plain(text) + "\n"


@each_text
def test_tables_have_the_text_in_titles_headers_and_cells(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table([text, "b"], [["1", text]], title=text)
    assert times(text, capsys.readouterr().out) == 3


@each_text
def test_closing_tables_have_the_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_results([result(regularizer=text)])
    print_jobs([(text, text, None, text)])
    assert times(text, capsys.readouterr().out) == 4


@each_text
def test_what_is_shown_while_training_has_the_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Display([text], total_steps=100, live=True) as display:
        display.progress(10)
        display.row(50, [{"eval/return_mean": 1.0, "sparsity/exact": None}])
        display.say(text)
    shown, said = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"{plain(text)}: 50 of 100 steps")
    assert said == plain(text)


BAR = """
import json, sys
from sparserl.terminal import say
from sparserl.tracking.console import Display
for text in json.loads(sys.argv[1]):
    with Display([text], total_steps=100, live=True) as display:
        display.progress(10)
        say(text)
        display.say(text)
print("whole")
"""


def test_a_bar_takes_any_text(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", BAR, json.dumps([*NASTY.values()])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while piece := _read(ours):
        seen += piece
    assert process.communicate()[0] == b"whole\n"
    assert b"Traceback" not in seen
    assert seen.count(b"[red]x[/red]") >= 3, "in the bar, and above it twice"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # the other end is closed
        return b""


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_stream_cannot_encode_is_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    for text in NASTY.values():
        say(text)
        print_line(text)
        print_jobs([(text, "done", result(), text)])
        with Display([text], total_steps=100, live=True) as display:
            display.say(text)
    printed = {name: stream.buffer.getvalue().decode(encoding) for name, stream in streams.items()}  # type: ignore[attr-defined]
    assert all("[red]x[/red]" in text for text in printed.values())
    assert "warning" not in printed["stderr"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_stream_that_is_closed_or_not_there_ends_nothing(
    is_there: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And what is said goes nowhere else."""
    closed = io.StringIO()
    closed.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed if is_there else None)
        patch.setattr(sys, "stderr", closed if is_there else None)
        say("something")
        print_line("something")
        print_table(["a"], [["b"]])
        with Display(["a"], total_steps=100, live=True) as display:
            display.say("something")
    assert capfd.readouterr() == ("", "")


PRINTS = """
import sys
from sparserl.terminal import print_line, say
for _ in range(10_000):
    print_line("something")
    say("something")
sys.exit(7)
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_broken_pipe_does_not_change_the_exit_code(stream: str) -> None:
    """Python would exit with 120 where stdout cannot be flushed at the end."""
    ours, theirs = os.pipe()
    os.close(ours)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | {stream: theirs}
    done = subprocess.run([sys.executable, "-c", PRINTS], **streams, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)  # type: ignore[call-overload]
    os.close(theirs)
    assert done.returncode == 7
    assert b"BrokenPipe" not in (done.stderr or b"")


def test_status_and_report_print_where_the_locale_is_c(tmp_path: Path) -> None:
    """Without Python's own remedies; the report's table has a character for the mean and its interval beside the frame."""
    made_up(tmp_path / "a", regularizer=NASTY["letters"])
    unfinished(tmp_path / "b", "failed", NASTY["letters"], seed=1)
    c = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    for module, code in (("status", 1), ("report", 0)):
        command = [sys.executable, "-m", f"sparserl.{module}", tmp_path]
        done = subprocess.run(command, env=os.environ | c, capture_output=True, check=False)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"na\\xefve" in done.stdout
    assert NASTY["letters"] in (tmp_path / "table.md").read_text("utf-8")


# ---------------------------------------------------------------- what is not worth a run


def test_a_closing_table_that_fails_is_a_warning(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("made to fail")

    monkeypatch.setattr("sparserl.tracking.console.print_table", fail)
    print_results([result()])
    print_jobs([("a", "done", result(), "")])
    assert capsys.readouterr().err.splitlines() == [
        "warning: there is no table of the results: ZeroDivisionError: made to fail",
        "warning: there is no table of the jobs: ZeroDivisionError: made to fail",
    ]


def test_a_signal_is_no_failure_of_an_output() -> None:
    with pytest.raises(KeyboardInterrupt), optional("table"):
        raise KeyboardInterrupt


def test_what_is_said_once_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say_once.cache_clear()
    for _ in range(2):
        terminal.say_once("this")
    assert capsys.readouterr().err == "this\n"


# ---------------------------------------------------------------- errors


def test_an_error_of_the_users_ends_a_command_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^sparserl: two lines$"), one_sentence(ValueError):
        raise ValueError("two\n  lines")
    with pytest.raises(SystemExit, match=r"^sparserl: .*absent cannot be used: No such file or directory$"), one_sentence():
        (tmp_path / "absent").open()


@pytest.mark.parametrize("error", [TypeError("of ours"), OSError("of no file")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), one_sentence(ValueError):
        raise error
