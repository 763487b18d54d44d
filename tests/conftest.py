"""What every test runs under: the types and shapes in sparserl's signatures are checked, and W&B is left alone."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import config_cache
import pytest
import shape_checks
import yaml

if TYPE_CHECKING:
    from wandb_server import Server

assert not any(name.split(".")[0] == "sparserl" for name in sys.modules), "imported too early for its calls to be checked"
shape_checks.install()
config_cache.install()

from sparserl.training.interrupts import prepare  # noqa: E402 (only what is imported after the hook is checked)

os.environ["WANDB_MODE"] = "disabled"  # for the default logger, also in the processes that tests start

# no test cuts the power: files need not reach the disk, for which a short run waits longer than for some of its training
os.fsync = lambda fd: None

# libyaml's parser takes a tenth of the time
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

prepare()  # before the first product of matrices, as in a training process

# a script's background jobs ignore it, and so would the processes that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our own options."""
    parser.addoption("--check-every-call", action="store_true", help="check types and shapes at every call, not at some")


def pytest_runtest_setup() -> None:
    """Every test begins with calls that are checked."""
    shape_checks.calls.clear()


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU from all tests but its own: what others say of bits holds on a CPU, and ``device=auto`` would take it."""
    shape_checks.every_call = config.option.check_every_call
    if "cuda" not in config.option.markexpr.replace("not cuda", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """What is imported by now stays: garbage collections need not look at it again, which takes 5 % of a test."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_is_said_yet() -> None:
    """What an earlier test was told once is told again."""
    from sparserl import terminal

    terminal.say_once.cache_clear()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures: each takes a second, and they have tests of their own."""
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)


@pytest.fixture
def logged_out(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B has no key of whoever runs the tests, and no answer of an earlier test."""
    import wandb

    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    own = ("MODE", "API_KEY", "BASE_URL", "CONFIG_DIR", "PROJECT", "ENTITY", "NAME", "TAGS", "DIR")
    for variable in (*(f"WANDB_{name}" for name in own), "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    yield
    wandb.teardown()
    assert not list((home / ".local").rglob("*")), "what W&B keeps belongs into the run's folder"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of W&B's that W&B has a key of and that it does not wait for long."""
    from wandb_runs import KEY
    from wandb_server import Server

    from sparserl.tracking import wandb as ours

    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(ours, "INIT_SECONDS", 1.0)
        monkeypatch.setattr(ours, "FINISH_SECONDS", 1.0)
        yield server
