"""Nothing is lost: a run that is killed and started again ends as if nobody had touched it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from folders import stopping_at_checkpoints

from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import compose, read_back
from sparserl.environments import gymnasium
from sparserl.environments.replayed import ReplayedGymnasium
from sparserl.lowrank.sweep import RankEvaluator
from sparserl.runs import checkpoint
from sparserl.runs.files import read_json
from sparserl.sweeps.loop import run
from sparserl.train import main

pytestmark = pytest.mark.usefixtures("undrawn")

SETTINGS = (
    "trainer=smoke",
    "trainer.total_steps=1200",
    "trainer.num_envs=2",
    "trainer.log_every=120",
    "trainer.eval_every=480",
    "trainer.checkpoint_every=240",
    "experience.buffer_size=360",  # the ring goes round
    "experience.train_freq=4",
    "experience.batch_size=32",
    "network.hidden=[16]",
    "lowrank.ranks=[2]",
    "regularizer.ramp_steps=480",
    "regularizer.delay_steps=480",
)


def finish(root: Path, seeds: str) -> None:
    """Train a population of these seeds into folders named by seed, as a launcher would: from the start, or on."""
    numbers = [int(seed) for seed in seeds.split(",")]
    configs = [compose(*SETTINGS, f"seed={seed}", f"regularizer.lambda_c={1 + seed}") for seed in numbers]
    run(configs, [root / str(seed) for seed in numbers], live=False)


# The same in a process that sends itself a signal right before the n-th call of a function: however fast the machine is, it is
# always the same moment.
PROGRAM = """
import os, sys
import torch
from sparserl.config.validation import compose
from sparserl.sweeps import loop
from sparserl.training.learner import Learner

number, name, left, root, seeds, *overrides = sys.argv[1:]
owner = {"update": Learner, "save": torch}[name]
function, left = getattr(owner, name), int(left)

def signal_and_call(*arguments, **keys):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), int(number))
    return function(*arguments, **keys)

setattr(owner, name, signal_and_call)
loop.draw = lambda folder: folder  # figures take a second each
seeds = seeds.split(",")
loop.run([compose(*overrides, f"seed={seed}", f"regularizer.lambda_c={1 + int(seed)}") for seed in seeds],
         [f"{root}/{seed}" for seed in seeds])
"""


def in_a_process(root: Path, seeds: str, name: str, calls: int, *more: str) -> tuple[int, str]:
    """Train these seeds in a process that is killed right before this call, 0 for none: its exit status, and what it said."""
    command = [sys.executable, "-c", PROGRAM, str(int(signal.SIGKILL)), name, str(calls), str(root), seeds, *SETTINGS, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    return done.returncode, done.stderr


def killed(root: Path, seeds: str, name: str, calls: int, *more: str) -> str:
    """The same where it must have been killed."""
    status, said = in_a_process(root, seeds, name, calls, *more)
    assert status == -signal.SIGKILL, said
    return said


def outcome(folder: Path) -> tuple[bytes, bytes]:
    """The rows, byte for byte, and the policy."""
    return (folder / "metrics.jsonl").read_bytes(), (folder / "policy.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where the runs of these seeds are that nobody touched; they are trained once, in this process."""

    @cache
    def trained(seeds: str) -> Path:
        root = tmp_path_factory.mktemp("whole")
        finish(root, seeds)
        return root

    return trained


# of a single run the quick tests have the signals below
@pytest.mark.parametrize(
    "seeds", [pytest.param("3", id="solo", marks=pytest.mark.slow), pytest.param("1,2,5", id="population")]
)
@pytest.mark.parametrize("draws", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 4))])
def test_killed_at_random_moments_it_ends_as_if_untouched(
    draws: int, seeds: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """First before some member's file of the second or third checkpoint is written, then between two gradient steps."""
    draw, members = random.Random(draws), len(seeds.split(","))
    first = killed(tmp_path, seeds, "save", draw.randint(members + 1, 3 * members))
    assert "going on from step" not in first
    # of 300 gradient steps 180 or more are left, since it goes on from the first or the second checkpoint
    second = killed(tmp_path, seeds, "update", draw.randint(1, 150))
    assert second.count("going on from step") == 1, "the second process must have gone on, not started again"
    finish(tmp_path, seeds)
    for seed in seeds.split(","):
        assert outcome(tmp_path / seed) == outcome(whole(seeds) / seed)


@pytest.mark.slow
def test_a_compiled_run_that_is_killed_ends_as_if_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two checkpoints, twice. Gates are random all the time, so there is one program, which takes a while."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled = "trainer.compile=true", "regularizer=l0", "regularizer.delay_steps=0", "regularizer.freeze_at_step=null"
    seeds, stopped, whole = "1,2", tmp_path / "stopped", tmp_path / "whole"
    said = [killed(stopped, seeds, "update", calls, *compiled) for calls in (130, 100)]
    for root in (stopped, whole):
        status, last = in_a_process(root, seeds, "update", 0, *compiled)
        assert status == 0, last
        said.append(last)
    assert ["compiled the gradient step" in each for each in said] == [True, False, False, False]
    assert ["going on from step" in each for each in said] == [False, True, True, False]
    for seed in seeds.split(","):
        assert outcome(stopped / seed) == outcome(whole / seed)
        assert read_json(stopped / seed / "result.json")["backend"] == "compiled"


def test_a_kill_between_two_members_files_leaves_a_step_that_all_have(
    whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members 1 and 5 have the new checkpoint, member 2 was still writing: all go on from the older one."""
    seeds = "1,2,5"
    with stopping_at_checkpoints(monkeypatch) as saved:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                finish(tmp_path, seeds)
    assert saved == [240, 480, 720]
    older, newer = checkpoint.steps(tmp_path / "2")
    assert (older, newer) == (480, 720)
    (tmp_path / "2" / "checkpoint.json").write_text(json.dumps({"steps": [older], "segments": [[]], "run_by": [None]}))
    damaged = tmp_path / "2" / f"checkpoint-{newer:012d}.pt"
    damaged.write_bytes(damaged.read_bytes()[:100])
    finish(tmp_path, seeds)
    for seed in seeds.split(","):
        assert outcome(tmp_path / seed) == outcome(whole(seeds) / seed)


SIGNALLED = """
import os, sys
from sparserl.runs.folder import RunFolder
from sparserl.train import main

number, left, write = int(sys.argv.pop(1)), 6, RunFolder.metrics

def write_and_signal(folder, row):
    global left
    write(folder, row)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), number)

RunFolder.metrics = write_and_signal
main()
"""
"""``python -m sparserl.train`` that gets a signal when it has written six rows, however fast the machine is."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_rows_and_resume_goes_on(
    number: signal.Signals, whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = tmp_path / "stopped"
    given = *SETTINGS, "seed=3", "regularizer.lambda_c=4", f"hydra.run.dir={stopped}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number)), *given],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 128 + number
    assert "resume=" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((stopped / "status.json").read_text())["status"] == "interrupted"
    rows = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert [row["env_step"] for row in rows] == [120 * row for row in range(1, 7)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparserl-train", f"resume={stopped}"])
    main()
    assert outcome(stopped) == outcome(whole("3") / "3")
    assert json.loads((stopped / "status.json").read_text())["status"] == "done"


# learns at steps 160, 320 and 480 only: after a checkpoint five rows or more come before the next gradient step
RARELY = (
    "trainer=smoke", "trainer.total_steps=500", "trainer.num_envs=2", "trainer.log_every=10", "trainer.eval_every=200",
    "trainer.checkpoint_every=100", "network.hidden=[8]", "logger=disk",
)  # fmt: skip
REPLAY = ("experience.train_freq=160", "experience.learning_starts=0", "experience.buffer_size=300")
ROLLOUT = ("algorithm=ppo", "experience.n_steps=80", "experience.batch_size=80")


@pytest.mark.parametrize(
    ("overrides", "regularizers"),
    [
        (
            REPLAY,
            [
                ("regularizer=l1",),
                ("regularizer=l0", "regularizer.delay_steps=200"),
                ("regularizer=l0", "regularizer.delay_steps=0", "regularizer.freeze_at_step=300"),
                ("regularizer=random",),
                ("regularizer=magnitude",),
            ],
        ),
        (
            ROLLOUT,
            [
                ("regularizer=none",),
                ("regularizer=magnitude", "regularizer.scope=all"),
                ("regularizer=l0", "regularizer.delay_steps=0", "regularizer.scope=all"),
            ],
        ),
    ],
    ids=["replay", "rollouts"],
)
def test_rows_between_a_checkpoint_and_the_next_gradient_step_are_the_same(
    overrides: tuple[str, ...], regularizers: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows told the norms of the last gradient, which no checkpoint has. Here a loop is stopped at every checkpoint.

    Two members of each regulariser, all in one loop.
    """
    composed = [compose(*RARELY, *overrides, *regularizer) for regularizer in regularizers]
    configs = [config | {"seed": seed} for config in composed for seed in (1, 2)]
    names = [str(number) for number in range(len(configs))]
    run(configs, [tmp_path / "whole" / name for name in names], live=False)
    with stopping_at_checkpoints(monkeypatch) as saved:
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                run(configs, [tmp_path / "stopped" / name for name in names], live=False)
    assert saved == [100, 200, 300, 400, 500]
    run(configs, [tmp_path / "stopped" / name for name in names], live=False)
    for name in names:
        rows = [json.loads(line) for line in (tmp_path / "whole" / name / "metrics.jsonl").read_text().splitlines()]
        learned = [row["env_step"] for row in rows if any(key.startswith("loss/") for key in row)]
        assert learned == [160, 320, 480]
        assert [row["env_step"] for row in rows] == list(range(10, 501, 10))
        assert outcome(tmp_path / "stopped" / name) == outcome(tmp_path / "whole" / name)
        for table in ("lowrank.csv", "spectrum.csv"):
            assert (tmp_path / "stopped" / name / table).read_bytes() == (tmp_path / "whole" / name / table).read_bytes()


# ---------------------------------------------------------------- the config that it goes on with


@pytest.fixture(scope="module")
def smoke() -> Config:
    return compose("trainer=smoke")


def edited(config: Config, **changes: Any) -> str:
    return json.dumps(config | changes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda config: "", ["is not whole"]),
        (lambda config: json.dumps(config)[:100], ["is not whole"]),
        (lambda config: "[]", ["a config is needed"]),
        (lambda config: "{}", ["trainer is missing"]),
        (lambda config: edited(config, seeds=[1]), ["seeds is not a key of the config"]),
        (lambda config: edited(config, trainer=5), ["trainer is 5"]),
        (
            lambda config: edited(config, trainer=config["trainer"] | {"num_envs": 0}),
            ["trainer.num_envs is 0", "greater than or equal"],
        ),
        (lambda config: edited(config, network=config["network"] | {"width": 3}), ["network.width is not a key of MLP"]),
        (lambda config: edited(config, seed=1.5), ["seed is 1.5", "integer"]),
        (lambda config: edited(config, environment={"_target_": "sparserl.environments.nothing.X"}), ["cannot be imported"]),
        (lambda config: edited(config, environment=config["network"]), ["environment._target_", "which is not an Environment"]),
    ],
)
def test_a_config_that_was_damaged_or_edited_is_one_sentence(
    content: Callable[[Config], str], words: list[str], smoke: Config, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(content(smoke))
    with pytest.raises(ConfigError) as caught:
        read_back(path, trust=False)
    sentence = str(caught.value)
    assert [word for word in [str(path), *words] if word not in sentence] == [], sentence
    assert len(sentence.splitlines()) == 1


def test_a_config_of_before_there_was_trust_is_as_good(smoke: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in smoke.items() if key != "trust"}))
    assert read_back(tmp_path / "config.json", trust=False) == smoke
    with pytest.raises(FileNotFoundError):
        read_back(tmp_path / "nowhere.json", trust=False)


# ---------------------------------------------------------------- a signal after the training


def test_a_signal_after_the_training_leaves_done_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives twice: while the ranks are evaluated, and while the second of three members has its figure drawn."""
    configs = [compose("trainer=smoke", "network.hidden=[8]", "lowrank.ranks=[1]", f"seed={seed}") for seed in range(3)]
    play, after = RankEvaluator.play, []

    def start(name: str) -> list[str]:
        """How each member ends."""
        folders = [tmp_path / name / str(member) for member in range(3)]
        try:
            run(configs, folders, live=False)
        except KeyboardInterrupt as interrupt:
            after.append(interrupt.args)
        return [read_json(folder / "status.json")["status"] for folder in folders]

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def draw(folder: Path) -> None:
        if folder.name == "1":
            stop()

    def reasons() -> list[str | None]:
        return [read_json(tmp_path / "stopped" / str(member) / "result.json")["rank_reason"] for member in range(3)]

    assert start("whole") == ["done"] * 3
    with monkeypatch.context() as patch:
        patch.setattr(RankEvaluator, "play", lambda *arguments: (stop(), play(*arguments))[1])
        assert start("stopped") == ["interrupted"] * 3
    assert reasons() == ["not_swept"] * 3
    with monkeypatch.context() as patch:
        patch.setattr("sparserl.sweeps.loop.draw", draw)
        assert start("stopped") == ["done", "done", "interrupted"]
    assert reasons()[2:] == ["not_swept"]
    assert "not_swept" not in reasons()[:2]
    assert after == [(signal.SIGTERM,)] * 2
    assert start("stopped") == ["done"] * 3
    for member in "012":
        whole, stopped = tmp_path / "whole" / member, tmp_path / "stopped" / member
        assert outcome(stopped) == outcome(whole)
        assert (stopped / "lowrank.csv").read_bytes() == (whole / "lowrank.csv").read_bytes()


# ---------------------------------------------------------------- episodes that a checkpoint does not end

KEEPING = (
    "environment=mountain_car", "algorithm=ppo", "trainer=smoke", "trainer.num_envs=2", "trainer.checkpoint_every=100",
    "environment.max_episode_steps=70", "experience.n_steps=16", "network.hidden=[8]", "lowrank.ranks=[]",
)  # fmt: skip
"""Episodes of 70 steps, of which 35 are between two checkpoints, in the middle of rollouts."""


@pytest.fixture
def _keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """MountainCar follows from its seed and its actions, as Super Mario Bros does."""
    monkeypatch.setattr(gymnasium, "VectorGymnasium", ReplayedGymnasium)


@pytest.mark.usefixtures("_keeping")
def test_episodes_that_go_on_over_checkpoints_do_so_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(*KEEPING)
    run([config], [tmp_path / "whole"], live=False)
    with stopping_at_checkpoints(monkeypatch) as steps:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                run([config], [tmp_path / "resumed"], live=False)
    run([config], [tmp_path / "resumed"], live=False)
    assert steps == [100, 200, 300]
    for name in ("metrics.jsonl", "policy.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    # 200 steps in each of two sub-environments are two episodes of 70 and one that is not over
    assert sum(row["train/episodes"] for row in rows) == 4
    assert sum(row["train/episodes_cut"] for row in rows) == 0
    assert {row["train/return"] for row in rows if row["train/episodes"]} == {-70.0}, "returns of whole episodes"
