"""What a run leaves, from one end to the other: the command, the folder, and what others read from it."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folders import stopping_at_checkpoints
from safetensors import safe_open

from sparserl import load_policy
from sparserl.config.build import build
from sparserl.config.schema import ConfigError
from sparserl.config.validation import compose, resolve
from sparserl.runs import reader
from sparserl.runs.files import read_json, read_policy, write_masks
from sparserl.runs.folder import RunFolder
from sparserl.runs.schema import Result
from sparserl.sweeps.jobs import Job, check_and_reserve, job_name, write_job_status
from sparserl.sweeps.loop import run
from sparserl.train import main
from sparserl.training.evaluation import Evaluator
from sparserl.training.learner import Learner
from sparserl.types import is_weight

SMOKE = ("trainer=smoke", "regularizer.delay_steps=0", "regularizer.ramp_steps=0", "regularizer.lambda_c=500")


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_run_leaves_what_the_readme_lists(tmp_path: Path) -> None:
    config = compose(*SMOKE, "seed=5")
    (result,) = run([config], [tmp_path])
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.json", "metrics.jsonl", "timing.jsonl", "result.json", "policy.safetensors", "checkpoint.json", "status.json",
        "lowrank.csv", "spectrum.csv", "figure.png",
    }  # fmt: skip
    assert json.loads((tmp_path / "config.json").read_text()) == config
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["seed"], written["regularizer"], written["status"]) == (5, "l0", "done")
    assert written["return_mean"] == result.return_mean
    assert json.loads((tmp_path / "status.json").read_text())["env_step"] == config["trainer"]["total_steps"]
    assert [row["env_step"] for row in rows(tmp_path)] == [100, 200, 300, 400]
    assert rows(tmp_path)[-1]["eval/return_mean"] == result.return_mean
    clock = {"seconds", "time", "steps_per_second"}
    assert not any(word in key for row in rows(tmp_path) for key in row for word in clock)
    *timing, swept = rows(tmp_path, "timing.jsonl")
    assert set(timing[-1]) >= {"env_step", "acting", "environment", "replay", "update", "evaluation"}
    assert swept["lowrank"] > 0


@pytest.mark.usefixtures("undrawn")
def test_the_result_counts_the_zeros_of_the_policy_that_was_saved(tmp_path: Path) -> None:
    moving = "regularizer.initial_open=0.2", "regularizer.delay_steps=0", "regularizer.gate_learning_rate=0.06"
    weaker = "regularizer.lambda_c=1", *moving  # closes most of them in the few steps that there are
    (result,) = run([compose(*SMOKE, *weaker)], [tmp_path])
    with safe_open(tmp_path / "policy.safetensors", framework="pt") as file:
        weights = [file.get_tensor(name) for name in file.keys() if name.startswith("policy/") and name.endswith(".weight")]  # noqa: SIM118
    zeros, numbers = sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)
    assert 0 < zeros < numbers, "a penalty this strong must close some gates, or this test counts nothing"
    assert result.sparsity == pytest.approx(zeros / numbers)
    assert (result.nonzero_weights, result.policy_weights) == (numbers - zeros, numbers)
    assert result.expected_sparsity is not None
    assert 0 < result.expected_sparsity < 1


@pytest.mark.usefixtures("undrawn")
def test_load_policy_acts_as_the_trained_policy_did(tmp_path: Path) -> None:
    """The module, played by hand through the same evaluation, returns what result.json says."""
    config = compose(*SMOKE)
    (result,) = run([config], [tmp_path])
    policy = load_policy(tmp_path)
    _, parts = build([config])
    evaluator = Evaluator(parts.environment, 1, config["trainer"]["eval_episodes"], torch.device("cpu"))
    played = evaluator(lambda seen, _: policy(seen.flatten(0, 1)).argmax(dim=-1).view(seen.shape[:2]))
    assert float(played.returns.mean()) == result.return_mean


def test_a_failure_is_written_where_it_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("made to fail")

    monkeypatch.setattr(Learner, "update", fail)
    with pytest.raises(RuntimeError, match="made to fail"):
        run([compose(*SMOKE)], [tmp_path])
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["status"] == "failed"
    assert "made to fail" in status["error"]


@pytest.mark.usefixtures("undrawn")
def test_a_folder_belongs_to_one_config(tmp_path: Path) -> None:
    run([compose(*SMOKE)], [tmp_path])
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(ConfigError, match="another config"):
        run([compose(*SMOKE, "seed=1")], [tmp_path])
    assert (tmp_path / "result.json").read_bytes() == before


def test_configs_that_differ_in_structure_do_not_train_in_one_loop(tmp_path: Path) -> None:
    configs = [compose(*SMOKE), compose(*SMOKE, "network.hidden=[5]")]
    with pytest.raises(ConfigError, match="cannot train in one loop"):
        run(configs, [tmp_path / "0", tmp_path / "1"])


# ---------------------------------------------------------------- resume

Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Train:
    """``python -m sparserl.train`` in this process; the folder ``run`` that all of it is about."""

    def start(*overrides: str) -> Path:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["sparserl-train", *overrides])
        main()
        return tmp_path / "run"

    return start


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with two ranks: trained once, and copied for each test."""
    folder = tmp_path_factory.mktemp("finished")
    small = "network.hidden=[8]", "regularizer=l1", "regularizer.lambda_c=0.5", "seed=7"
    given = "trainer=smoke", "logger=disk", "lowrank.ranks=[1,2]", *small, "hydra.run.dir=run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["sparserl-train", *given])
        main()
    return folder / "run"


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return shutil.copytree(finished, tmp_path / "run")


def test_resuming_where_there_is_no_run_is_one_sentence_and_leaves_nothing(train: Train, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        train(f"resume={tmp_path / 'nothing'}")
    # a process that exits with a text prints it, and has the code 1
    assert len(str(ended.value.code).splitlines()) == 1
    assert "no run to go on with" in str(ended.value.code)
    assert not list(tmp_path.iterdir())


def ranks(folder: Path) -> list[str]:
    return [line.split(",")[0] for line in (folder / "lowrank.csv").read_text().splitlines()[1:]]


def kept(folder: Path) -> dict[str, bytes]:
    """Every file but the log of what happened."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=99", "seed cannot be changed"),
        ("regularizer=l0", "regularizer cannot be changed"),
        ("regularizer.lambda_c=1", "regularizer.lambda_c cannot be changed"),
        ("+trainer.typo=1", "trainer.typo cannot be changed"),
        ("~lowrank.ranks", "lowrank.ranks cannot be changed"),
        ("trainer.total_steps=800", r"trainer.total_steps cannot be changed, .* a new run, .* init_from=run"),
        ("hydra.run.dir=elsewhere", "hydra.run.dir cannot be changed"),
    ],
)
def test_what_resume_cannot_change_is_refused_by_name_and_the_folder_stays_as_it_was(
    override: str, sentence: str, trained: Path, train: Train
) -> None:
    """It used to be ignored without a word, and to be written into the run's .hydra."""
    before = kept(trained)
    with pytest.raises(SystemExit, match=f"sparserl: resume=run goes on .* {sentence}"):
        train("resume=run", override)
    assert kept(trained) == before


def test_resuming_a_finished_run_changes_nothing(trained: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept(trained)
    train("resume=../" + trained.parent.name + "/run", "retry_failed=true", "trust=true")
    assert kept(trained) == before
    assert "is done already" in capsys.readouterr().err


def test_a_finished_run_is_swept_again_at_other_ranks(
    trained: Path, train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept(trained)
    with monkeypatch.context() as patch:  # nothing may be left to train
        patch.setattr(Learner, "update", None)
        train("resume=run", "lowrank.ranks=[1]", "lowrank.episodes=${trainer.num_envs}")
    assert ranks(trained) == ["1", "full"]
    config = read_json(trained / "config.json")
    assert config["lowrank"]["ranks"] == [1]
    assert config["lowrank"]["episodes"] == 10, "an interpolation is of the run's own config"
    assert (config["seed"], config["regularizer"]["lambda_c"]) == (7, 0.5)
    assert read_json(trained / "status.json")["status"] == "done"
    same = kept(trained)
    for name in ("metrics.jsonl", ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml"):
        assert same[str(trained / name)] == before[str(trained / name)]
    capsys.readouterr()
    train("resume=run")
    assert "is done already" in capsys.readouterr().err
    assert kept(trained) == same


def test_a_job_whose_ranks_were_changed_in_place_is_still_that_of_its_sweep(trained: Path, train: Train) -> None:
    asked = read_json(trained / "config.json")
    train("resume=run", "lowrank.ranks=[1]")
    with pytest.raises(ConfigError, match=r"another config \(lowrank.ranks is '\[1\]' there and '\[1, 2\]' here\)"):
        check_and_reserve(Job(asked, trained), retry_failed=False)
    # a folder that a sweep has named says by its name that it is this job's
    given = Job(asked, trained.rename(trained.with_name(job_name(asked))))
    assert check_and_reserve(given, retry_failed=False) is not None
    assert ranks(given.folder) == ["1", "full"], "what was asked for last stays"
    # and one that has no ranks yet is given those that are asked for now
    write_job_status(given, "waiting")
    assert check_and_reserve(given, retry_failed=False) is None
    assert read_json(given.folder / "config.json") == asked


def test_a_second_sweep_that_is_interrupted_is_not_taken_for_done(
    trained: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sparserl.train.run", interrupted)  # before anything is written but the new config
        with pytest.raises(SystemExit) as ended:
            train("resume=run", "lowrank.ranks=[1]")
    assert ended.value.code == 128 + signal.SIGINT
    found = reader.read(trained)
    assert (found.status, found.is_swept, found.counts) == ("waiting", False, True)
    train("resume=run")
    assert ranks(trained) == ["1", "full"]


def test_wrong_ranks_are_refused_before_the_folder_is_touched(trained: Path, train: Train) -> None:
    before = kept(trained)
    with pytest.raises(SystemExit, match=r"lowrank.ranks is \[0\]"):
        train("resume=run", "lowrank.ranks=[0]")
    with pytest.raises(SystemExit, match=r"logger.mode is not a key of Disk"):
        train("resume=run", "logger.mode=offline")
    assert kept(trained) == before


@pytest.mark.usefixtures("logged_out")
def test_rows_go_to_an_account_that_the_folder_names_only_where_the_user_names_it_too(
    trained: Path, train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger's folder must not have this user's key used to send rows to the stranger."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    config = read_json(trained / "config.json")
    config["logger"] = compose("logger.entity=stranger", "logger.project=p")["logger"]
    (trained / "config.json").write_text(json.dumps(config))
    before = kept(trained)
    with pytest.raises(SystemExit, match=r"to 'stranger'.*logger.entity=stranger .*logger.mode=offline"):
        train("resume=run")
    assert kept(trained) == before
    for allowed in ("logger.entity=stranger", "logger.entity=null", "logger.mode=offline", "trust=true"):
        train("resume=run", allowed)  # nothing is left to do, so nothing is sent
        assert "is done already" in capsys.readouterr().err


@pytest.mark.usefixtures("logged_out")
def test_settings_of_wandb_in_the_folder_of_a_run_do_not_say_where_the_key_is_sent(
    trained: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B reads those of the working directory, the address of a server among them."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    config = read_json(trained / "config.json")
    config["logger"] = compose("logger.project=p")["logger"]
    (trained / "config.json").write_text(json.dumps(config))
    (trained / "wandb").mkdir()
    (trained / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\nentity = stranger\n")
    train("resume=run")  # from elsewhere it is not read
    monkeypatch.setenv("WANDB_DIR", str(trained))
    with pytest.raises(SystemExit, match=r"run/wandb/settings may say to whom rows and your key are sent: .* trust=true"):
        train("resume=run")
    train("resume=run", "trust=true")


def test_what_a_strangers_file_says_is_escaped(trained: Path, train: Train) -> None:
    """Control sequences would be carried out by the terminal."""
    config = read_json(trained / "config.json")
    (trained / "config.json").write_text(json.dumps(config | {"\x1b]0;owned\x07": 1}))
    with pytest.raises(SystemExit) as ended:
        train("resume=run")
    assert r"\x1b]0;owned\x07 is not a key" in str(ended.value.code)
    assert str(ended.value.code).isprintable()


@pytest.mark.parametrize("damage", ["no checkpoint", "another network", "nothing of a learner"])
def test_a_checkpoint_that_is_not_the_runs_is_one_sentence(damage: str, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping_at_checkpoints(monkeypatch), pytest.raises(SystemExit):
        train("trainer=smoke", "logger=disk", "network.hidden=[8]", "regularizer=l0", "seed=7", "hydra.run.dir=run")
    files = sorted(Path("run").glob("checkpoint*.pt"))
    assert files
    for path in files:
        state = torch.load(path, weights_only=True)
        match damage:
            case "no checkpoint":
                state = {"a": 1}
            case "another network":
                weights = state["trainer"]["learner"]["weights"]["policy"]
                weights["0.weight"] = weights["0.weight"][:, :5]
            case _:
                state["trainer"]["learner"]["gates"]["policy"] = {}
        torch.save(state, path)
    with pytest.raises(SystemExit) as ended:
        train("resume=run")
    assert "take its folder away" in str(ended.value.code)


def test_an_interrupted_run_goes_on_with_its_own_config_and_new_ranks(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping_at_checkpoints(monkeypatch), pytest.raises(SystemExit):
        train("trainer=smoke", "logger=disk", "network.hidden=[8]", "seed=7", "hydra.run.dir=run")
    folder = train("resume=run", "lowrank.ranks=[1]")
    assert ranks(folder) == ["1", "full"]
    assert read_json(folder / "result.json")["seed"] == 7
    assert read_json(folder / "status.json")["status"] == "done"


def test_whoever_interrupts_a_run_is_told_its_folder(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt(signal.SIGTERM)

    monkeypatch.setattr("sparserl.train.run", interrupted)
    with pytest.raises(SystemExit) as ended:
        train("trainer=smoke", "logger=disk", "hydra.run.dir=run")
    assert ended.value.code == 128 + signal.SIGTERM
    assert f"resume={tmp_path / 'run'}" in capsys.readouterr().err


def test_a_run_that_is_resumed_needs_its_start_no_more(trained: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping_at_checkpoints(monkeypatch), pytest.raises(SystemExit):
        train("trainer=smoke", "logger=disk", "network.hidden=[8]", "init_from=run", "hydra.run.dir=started")
    shutil.rmtree(trained)
    train("resume=started")
    assert read_json(trained.with_name("started") / "status.json")["status"] == "done"


def test_a_relative_start_is_found_from_a_working_directory_of_the_runs_own(trained: Path, train: Train) -> None:
    started = "init_from=run", "hydra.job.chdir=true", "hydra.run.dir=started", "network.hidden=[8]"
    train("trainer=smoke", "logger=disk", *started)
    assert read_json(trained.with_name("started") / "status.json")["status"] == "done"


@pytest.mark.parametrize("chdir", ["true", "false"])
def test_relative_paths_start_where_the_command_was_typed_also_when_the_run_goes_on_from_elsewhere(
    chdir: str, trained: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped before its first checkpoint, so that the policy to start from is needed again."""
    root = trained.parent
    masks = read_policy(trained)[2]
    write_masks(root / "masks", {name: mask != 0 for name, mask in masks.items() if is_weight(name)})

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    paths = "init_from=run", "regularizer=fixed_mask", "regularizer.path=masks", "hydra.run.dir=sparse"
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", stopped)
        with pytest.raises(SystemExit):
            train("trainer=smoke", "logger=disk", "network.hidden=[8]", *paths, f"hydra.job.chdir={chdir}")
    assert not (root / "sparse" / "checkpoint.json").exists()
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "argv", ["sparserl-train", "resume=../sparse", f"hydra.job.chdir={chdir}"])
    main()
    assert read_json(root / "sparse" / "status.json")["status"] == "done"


def test_what_a_run_is_called_does_not_depend_on_where_its_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "environment=surrol_ecm_reach", "environment.path=SurRoL", "regularizer=fixed_mask", "regularizer.path=masks"
    here = resolve("algorithm=ddpg", *typed)
    monkeypatch.chdir(tmp_path)
    there = resolve("algorithm=ddpg", *typed)
    assert here["working_directory"] != there["working_directory"]
    assert job_name(here) == job_name(there)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("seed=1,2", "add -m to train each of them, or write seed=[1,2] for a list"),
        ("network.hidden=64,64", "add -m to train each of them, or write network.hidden=[64,64] for a list"),
        ("algorithm=dqn,ppo", "add -m to train each of them"),
        ("seed=range(4)", "add -m to train each of them"),
        ("seed=choice(1,2)", "add -m to train each of them"),
    ],
)
def test_several_values_without_a_multirun_are_one_sentence(override: str, remedy: str, train: Train) -> None:
    """Hydra says it in four lines, of which the last one has the remedy."""
    with pytest.raises(SystemExit) as ended:
        train(override)
    assert ended.value.code == f"sparserl: {override} is several values: {remedy}"


def test_a_word_that_is_no_override_is_one_sentence(train: Train) -> None:
    with pytest.raises(SystemExit) as ended:
        train("ppo")
    assert ended.value.code == "sparserl: 'ppo' is not an override; write KEY=VALUE"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("algorithm=null",), "Got NoneType; name an option of each group"),
        (("-m", "--cfg", "job"), "can be specified; to look at a config leave out -m"),
    ],
)
def test_what_hydra_gives_a_traceback_for_is_one_sentence(words: tuple[str, ...], remedy: str, train: Train) -> None:
    with pytest.raises(SystemExit) as ended:
        train(*words)
    assert isinstance(ended.value.code, str)
    assert ended.value.code.startswith("sparserl: ")
    assert ended.value.code.endswith(remedy)


def test_a_sweep_may_be_called_by_a_year(train: Train, tmp_path: Path) -> None:
    train("-m", "trainer=smoke", "logger=disk", "network.hidden=[8]", "sweep_name=2026")
    (config,) = (tmp_path / "outputs/2026").glob("*/config.json")
    assert read_json(config)["sweep_name"] == "2026"


# ---------------------------------------------------------------- several members


def test_a_multirun_names_its_folders_by_what_is_in_them(train: Train, tmp_path: Path) -> None:
    """The same job has the same folder in every sweep, so a longer seed list adds to what is there."""
    sweep = "--multirun", "trainer=smoke", "network.hidden=[8]", "regularizer=none", "sweep_name=mine"
    train(*sweep, "seed=0,1")
    first = {path.name for path in (tmp_path / "outputs/mine").glob("dqn-*")}
    assert len(first) == 2
    assert all(name.startswith("dqn-cartpole-none-seed") for name in first)
    train(*sweep, "seed=1,2")
    both = {path.name for path in (tmp_path / "outputs/mine").glob("dqn-*")}
    assert len(both) == 3
    assert both > first


def test_a_picture_that_cannot_be_drawn_is_said_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: Path) -> Path:
        if folder.name == "b":
            raise ValueError("no paint")
        return folder / "figure.png"

    monkeypatch.setattr("sparserl.sweeps.loop.draw", refuse)
    run([compose(*SMOKE, f"seed={seed}") for seed in range(3)], [tmp_path / name for name in "abc"], live=False)
    assert [line for line in capsys.readouterr().err.splitlines() if "no paint" in line] == [
        f"warning: there is no figure of {tmp_path / 'b'}: ValueError: no paint"
    ]
    assert [read_json(tmp_path / name / "status.json")["status"] for name in "abc"] == ["done"] * 3


def test_what_stops_one_member_at_the_end_leaves_those_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second member's result cannot be completed: the first is done and stays so."""
    written: list[object] = []

    def write(folder: RunFolder, row: Result) -> None:
        written.append(row)
        if len(written) == 3 + 2:  # all three are written when training ends
            raise OSError("the disk is full")

    monkeypatch.setattr(RunFolder, "result", write)
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
    with pytest.raises(OSError, match="the disk is full"):
        run([compose(*SMOKE, f"seed={seed}") for seed in range(3)], [tmp_path / name for name in "abc"], live=False)
    assert [read_json(tmp_path / name / "status.json")["status"] for name in "abc"] == ["done", "failed", "failed"]
