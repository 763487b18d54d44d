"""Nothing is lost: a run that is killed and started again ends as if nobody had touched it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from folders import stopping_at_checkpoints

from sparserl.config.schema import Config, ConfigError
from sparserl.config.validation import compose, read_back
from sparserl.lowrank.sweep import Stage
from sparserl.runs import checkpoint
from sparserl.runs.files import read_json
from sparserl.sweeps.loop import run

SETTINGS = (
    "trainer=smoke",
    "trainer.total_steps=5000",
    "trainer.num_envs=2",
    "trainer.log_every=250",
    "trainer.eval_every=2000",
    "trainer.checkpoint_every=500",
    "experience.buffer_size=1500",  # the ring goes round
    "experience.train_freq=4",
    "experience.batch_size=32",
    "network.hidden=[16]",
    "lowrank.ranks=[2]",
    "regularizer.ramp_steps=1000",
    "regularizer.delay_steps=1000",
)

# trains a population of the given seeds into folders named by seed, as a launcher would; figures take a second each
PROGRAM = """
import sys
from sparserl.config.validation import compose
from sparserl.sweeps import loop
from sparserl.sweeps.loop import run
loop.draw = lambda folder: folder
root, seeds, *overrides = sys.argv[1:]
seeds = seeds.split(",")
run([compose(*overrides, f"seed={seed}", f"regularizer.lambda_c={1 + int(seed)}") for seed in seeds],
    [f"{root}/{seed}" for seed in seeds])
"""


def start(root: Path, seeds: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(root), seeds, *SETTINGS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(root: Path, seeds: str) -> None:
    process = start(root, seeds)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def wait_for(path: Path, lines: int) -> None:
    """Until the rows have come so far."""
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, f"{path} never had {lines} rows"
        time.sleep(0.005)


def outcome(folder: Path) -> tuple[bytes, bytes]:
    """The rows, byte for byte, and the policy."""
    return (folder / "metrics.jsonl").read_bytes(), (folder / "policy.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where the runs of these seeds are that nobody touched; they are trained once."""

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
def test_killed_at_random_moments_it_ends_as_if_untouched(seeds: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    first = broken / seeds.split(",")[0] / "metrics.jsonl"
    draw = random.Random(0)
    resumed_from = []
    for kill in range(2):
        process = start(broken, seeds)
        wait_for(first, 5 * (kill + 1) + draw.randrange(5))
        time.sleep(draw.uniform(0, 0.15))  # in the middle of whatever comes next: a row, an update, a checkpoint
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL
        resumed_from += [line for line in errors.splitlines() if "going on from step" in line]
    finish(broken, seeds)
    assert len(resumed_from) == 1, "the second process must have gone on, not started again"
    for seed in seeds.split(","):
        assert outcome(broken / seed) == outcome(whole(seeds) / seed)


def test_a_kill_between_two_members_files_leaves_a_step_that_all_have(whole: Callable[[str], Path], tmp_path: Path) -> None:
    """Members 1 and 5 have the new checkpoint, member 2 was still writing: all go on from the older one."""
    broken, seeds = tmp_path / "broken", "1,2,5"
    process = start(broken, seeds)
    wait_for(broken / "1" / "metrics.jsonl", 10)
    process.kill()
    process.communicate()
    older, newer = checkpoint.steps(broken / "2")
    (broken / "2" / "checkpoint.json").write_text(json.dumps({"steps": [older]}))
    damaged = broken / "2" / f"checkpoint-{newer:012d}.pt"
    damaged.write_bytes(damaged.read_bytes()[:100])
    finish(broken, seeds)
    for seed in seeds.split(","):
        assert outcome(broken / seed) == outcome(whole(seeds) / seed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_rows_and_resume_goes_on(
    number: signal.Signals, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    train = [sys.executable, "-m", "sparserl.train"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def command(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*train, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    process = command(*SETTINGS, "seed=3", "regularizer.lambda_c=4", f"hydra.run.dir={stopped}")
    wait_for(stopped / "metrics.jsonl", 6)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "resume=" in errors
    assert "Traceback" not in errors
    assert json.loads((stopped / "status.json").read_text())["status"] == "interrupted"
    assert all(json.loads(line)["env_step"] for line in (stopped / "metrics.jsonl").read_text().splitlines())
    process = command(f"resume={stopped}")
    assert process.wait(timeout=300) == 0
    assert outcome(stopped) == outcome(whole("3") / "3")
    assert json.loads((stopped / "status.json").read_text())["status"] == "done"


# learns at steps 160, 320 and 480 only: after a checkpoint five rows or more come before the next gradient step
RARELY = (
    "trainer=smoke", "trainer.total_steps=500", "trainer.num_envs=2", "trainer.log_every=10", "trainer.eval_every=200",
    "trainer.checkpoint_every=100", "network.hidden=[8]", "logger=disk",
)  # fmt: skip
REPLAY = ("experience.train_freq=160", "experience.learning_starts=0", "experience.buffer_size=300")
ROLLOUT = ("algorithm=ppo", "experience.n_steps=80", "experience.batch_size=80")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "overrides",
    [
        (*REPLAY, "regularizer=l1"),
        (*REPLAY, "regularizer=l0", "regularizer.delay_steps=200"),
        (*REPLAY, "regularizer=l0", "regularizer.delay_steps=0", "regularizer.freeze_at_step=300"),
        (*REPLAY, "regularizer=random"),
        (*REPLAY, "regularizer=magnitude"),
        (*ROLLOUT, "regularizer=none"),
        (*ROLLOUT, "regularizer=magnitude", "regularizer.scope=all"),
        (*ROLLOUT, "regularizer=l0", "regularizer.delay_steps=0", "regularizer.scope=all"),
    ],
)
def test_rows_between_a_checkpoint_and_the_next_gradient_step_are_the_same(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows told the norms of the last gradient, which no checkpoint has. Here a run is stopped at every checkpoint."""
    configs = [compose(*RARELY, *overrides, f"seed={seed}") for seed in (1, 2)]
    run(configs, [tmp_path / "whole" / name for name in "ab"], live=False)
    with stopping_at_checkpoints(monkeypatch) as saved:
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                run(configs, [tmp_path / "stopped" / name for name in "ab"], live=False)
    assert saved == [100, 200, 300, 400, 500]
    run(configs, [tmp_path / "stopped" / name for name in "ab"], live=False)
    rows = [json.loads(line) for line in (tmp_path / "whole/a/metrics.jsonl").read_text().splitlines()]
    learned = [row["env_step"] for row in rows if any(key.startswith("loss/") for key in row)]
    assert learned == [160, 320, 480]
    assert [row["env_step"] for row in rows] == list(range(10, 501, 10))
    for name in "ab":
        assert outcome(tmp_path / "stopped" / name) == outcome(tmp_path / "whole" / name)
        for table in ("lowrank.csv", "spectrum.csv"):
            assert (tmp_path / "stopped" / name / table).read_bytes() == (tmp_path / "whole" / name / table).read_bytes()


# ---------------------------------------------------------------- the config that it goes on with


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
    content: Callable[[Config], str], words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(content(compose("trainer=smoke")))
    with pytest.raises(ConfigError) as caught:
        read_back(path, trust=False)
    sentence = str(caught.value)
    assert [word for word in [str(path), *words] if word not in sentence] == [], sentence
    assert len(sentence.splitlines()) == 1


def test_a_config_of_before_there_was_trust_is_as_good(tmp_path: Path) -> None:
    config = compose("trainer=smoke")
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "trust"}))
    assert read_back(tmp_path / "config.json", trust=False) == config
    with pytest.raises(FileNotFoundError):
        read_back(tmp_path / "nowhere.json", trust=False)


# ---------------------------------------------------------------- a signal after the training


@pytest.mark.usefixtures("undrawn")
def test_a_signal_after_the_training_leaves_done_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives twice: while the ranks are evaluated, and while the second of three members has its figure drawn."""
    configs = [compose("trainer=smoke", "network.hidden=[8]", "lowrank.ranks=[1]", f"seed={seed}") for seed in range(3)]
    play, after = Stage.play, []

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
        patch.setattr(Stage, "play", lambda *arguments: (stop(), play(*arguments))[1])
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
