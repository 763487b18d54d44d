"""Environments of a multirun that cannot be imported, made or stepped."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
from launching import Sweep, statuses

from sparserl.runs.files import read_json
from sparserl.train import main

BROKEN = """
import sys
import gymnasium
from gymnasium.envs.classic_control import AcrobotEnv

class Broken(AcrobotEnv):
    def __init__(self, how="", **arguments):
        super().__init__(**arguments)
        if how == "assertion":
            assert not how, "gravity must be positive"
        elif how == "key":
            {}["robot"]
        elif how == "value":
            raise ValueError("gravity must be positive")
        elif how == "exit":
            sys.exit(0)
        self.how = how

    def step(self, action):
        if self.how == "step":
            sys.exit(0)
        return super().step(action)

gymnasium.register("Broken-v0", entry_point=Broken, max_episode_steps=20)
"""
TOLD = {
    "assertion": "AssertionError: gravity must be positive",
    "key": "KeyError: 'robot'",
    "value": "gravity must be positive",
    "exit": "SystemExit: 0",
    "step": "SystemExit: 0",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that registers an environment which can fail."""
    (tmp_path / "failing.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "failing"
    sys.modules.pop("failing")
    gymnasium.registry.pop("Broken-v0")


@pytest.mark.parametrize(
    ("launcher", "how"),
    [
        # an AssertionError and a KeyError are like any Exception but ValueError, and under Hydra's launcher the worst is enough
        pytest.param(launcher, how, marks=pytest.mark.slow if how == "key" or (launcher == "basic" and how != "exit") else ())
        for launcher in ("population", "basic")
        for how in TOLD
    ],
)
def test_an_environment_that_raises_fails_its_own_job_only(
    launcher: str, how: str, module: str, sweep: Sweep, tmp_path: Path
) -> None:
    """Whatever is not a ValueError used to end the sweep before anything was trained; SystemExit even with exit code 0."""
    environment = "environment=mountain_car", f"environment.id={module}:Broken-v0", f"+environment.arguments.how={how},none"
    with pytest.raises(SystemExit) as ended:
        sweep(*environment, "regularizer=none", "trainer.total_steps=100", "trainer.num_envs=10", f"hydra/launcher={launcher}")
    assert TOLD[how] in str(ended.value)
    assert len(str(ended.value).splitlines()) == 1
    root = tmp_path / "here/outputs/mine"
    (trained,) = (path.parent for path in root.glob("*/result.json") if read_json(path)["status"] == "done")
    assert read_json(trained / "config.json")["environment"]["arguments"] == {"how": "none"}
    (failed,) = (folder for folder in root.glob("dqn-*") if folder != trained)
    log = (failed / "run.log").read_text()
    if how == "step":  # that fails one member, as a loss that is not finite does
        assert "failed in step 1 of an episode: SystemExit: 0: stopped at step 10" in log
        assert "the loss" not in log
    else:
        assert "Traceback" in log
        assert "failing.py" in log
    if how != "value":  # with that it is a config that is refused, as any other
        assert read_json(failed / "status.json")["status"] == "failed"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("assert False, 'no robot'", "AssertionError: no robot"),
        ("import os; os.environ['ROBOT_HOME']", "KeyError: 'ROBOT_HOME'"),
        ("def (", "SyntaxError: invalid syntax"),
        ("from os import robot", "ImportError: cannot import name 'robot'"),
        ("raise SystemExit('no robot')", "SystemExit: no robot"),
    ],
)
def test_an_environments_module_that_cannot_be_imported_is_one_sentence(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unimportable.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = "environment=mountain_car", "environment.id=unimportable:Any-v0", "logger=disk", "hydra.run.dir=single"
    monkeypatch.setattr(sys, "argv", ["sparserl-train", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert re.match(
        rf"sparserl: environment=mountain_car: (Gymnasium cannot make 'unimportable:Any-v0': )?{told}", str(ended.value)
    )
    assert len(str(ended.value).splitlines()) == 1
    assert "Traceback" in (tmp_path / "single/run.log").read_text()


def test_an_environments_module_that_ends_the_program_does_not_end_the_sweep(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unimportable.py").write_text("raise SystemExit('no robot')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match="environment=mountain_car"):
        sweep("environment=mountain_car", "environment.id=unimportable:Any-v0,Acrobot-v1", "regularizer=none")
    (trained,) = (tmp_path / "here/outputs/mine").glob("*/result.json")
    assert read_json(trained.parent / "config.json")["environment"]["id"] == "Acrobot-v1"


def test_a_job_whose_environment_is_mended_is_tried_again_when_that_is_asked_for(
    module: str, sweep: Sweep, tmp_path: Path
) -> None:
    jobs = "environment=mountain_car", f"environment.id={module}:Broken-v0", "+environment.arguments.how=assertion", "seed=0"
    with pytest.raises(SystemExit, match="gravity must be positive"):
        sweep(*jobs)
    (tmp_path / "failing.py").write_text(BROKEN.replace("assert not how", "assert how"))
    sys.modules.pop(module)
    gymnasium.registry.pop("Broken-v0")
    with pytest.raises(SystemExit, match="retry_failed=true"):
        sweep(*jobs)
    sweep(*jobs, "retry_failed=true")
    assert statuses(tmp_path / "here/outputs/mine") == ["done"]
