"""What fails in sparse training is said: learners and short runs that fail in each way, and those that do not."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from parts import environment_for, immediately, make_learner, modules, overrides_of, random_batches

from sparserl.config.schema import Config
from sparserl.config.validation import compose
from sparserl.lowrank.sweep import RankSweep, Selected
from sparserl.regularizers.l0_units import L0Units
from sparserl.runs.schema import Rank, Result
from sparserl.sweeps.loop import run
from sparserl.training.learner import Learner
from sparserl.training.metrics import observe
from sparserl.training.warnings import WarningDetector
from sparserl.types import Gates, Layers, Penalty

KINDS = ["dqn", "ppo", "sac"]
"""Values of actions, rollouts, and an actor with critics."""
ONE_AND_SLOW = ["dqn", *(pytest.param(name, marks=pytest.mark.slow) for name in KINDS[1:])]
"""For runs of seconds: what is said comes from rows, which all algorithms leave alike."""

EMPTIES = [("initial_open", 0.01), ("target_sparsity", 0.999), ("zero_threshold", 100.0)]
"""With the first of these that it has, a regulariser leaves nothing: closed gates, closed masks, a threshold above all."""


def after_two_updates(regularizer: str, algorithm: str, *overrides: str) -> Learner:
    small = "network.hidden=[32,32]", f"algorithm={algorithm}", f"environment={environment_for(algorithm)}"
    learner = make_learner(*small, f"regularizer={regularizer}", *overrides)
    for step, batch in zip((10, 20), random_batches(2, 1, 32, algorithm), strict=True):
        learner.begin_rollout(step)
        learner.update(batch, step)
    return learner


def said(learner: Learner) -> list[str]:
    term = learner.regularizer.main_term
    return WarningDetector(term, learner.regularizer.summands()[term].strengths).read(
        {name: float(value) for name, value in observe(learner).items()}
    )


keys_of = cache(lambda regularizer: compose(f"regularizer={regularizer}")["regularizer"])


@pytest.mark.parametrize(
    ("regularizer", "algorithm"),
    [
        # quick: all with the first kind, and gates, penalties and masks with all kinds
        pytest.param(name, kind, marks=() if kind == KINDS[0] or name in ("l0", "l1", "magnitude") else pytest.mark.slow)
        for name in modules("regularizers")
        if name not in ("none", "fixed_mask")
        for kind in KINDS
    ],
)
def test_a_layer_of_which_nothing_is_left_is_said_of_every_regularizer(regularizer: str, algorithm: str) -> None:
    keys = keys_of(regularizer)
    empties = next(found for key, value in EMPTIES if (found := overrides_of(keys, {key: value})))
    # gates that do not move, and masks that do
    begins = [*empties, *(["regularizer.end_step=20", "regularizer.start_step=0"] * ("end_step" in keys))]
    first, *_ = said(after_two_updates(regularizer, algorithm, *begins))
    assert first.startswith("every weight of layer policy.")
    assert "is zero" in first
    named = re.findall(r"regularizer\.[\w.]+", first)
    assert named
    for key in named:
        changed = compose(f"regularizer={regularizer}", f"{key}=0.5")
        assert OmegaConf.select(OmegaConf.create(changed), key) == 0.5, "what an option does not use would be null"


@pytest.mark.parametrize("regularizer", modules("regularizers"))
def test_where_something_is_left_nothing_is_said(regularizer: str) -> None:
    """The negative control: the settings that are shipped, at the beginning; half of the weights under masks."""
    assert said(after_two_updates(regularizer, "dqn", *immediately(regularizer))) == []


# ---------------------------------------------------------------- at the end

AT_END = {
    "none": ([], None),
    "l0": ([], "every gate of the policy is open at the end"),
    "l1": (["regularizer.zero_threshold=0"], "no weight of the policy is zero at the end"),
    "l2": (["regularizer.zero_threshold=0.01"], None),
    "magnitude": (["regularizer.start_step=1000", "regularizer.end_step=1000"], "every gate of the policy is open at the end"),
    "random": ([], None),
}
"""What each regulariser does in 400 steps, and what is said of it."""


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("algorithm", ONE_AND_SLOW)
def test_a_policy_that_stayed_dense_is_said_at_the_end(algorithm: str, tmp_path: Path) -> None:
    common = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", "trainer=smoke", "logger=disk"
    options = (*common, "network.hidden=[16,16]", "lowrank.ranks=[]", "environment.max_episode_steps=40")
    configs = [compose(*options, f"regularizer={name}", *changes) for name, (changes, _) in AT_END.items()]
    results = run(configs, [tmp_path / name for name in AT_END], live=False)
    for result, (name, (_, expected)) in zip(results, AT_END.items(), strict=True):
        dense = [warning for warning in result.warnings if "at the end" in warning]
        assert len(dense) == (expected is not None), name
        assert all(warning.startswith(expected or "") for warning in dense)
        log = (tmp_path / name / "run.log").read_text()
        assert all(warning in log for warning in dense)
        assert json.loads((tmp_path / name / "result.json").read_text())["warnings"] == result.warnings


# ---------------------------------------------------------------- while training

FREQUENT = {
    "dqn": ["experience.train_freq=2", "trainer.num_envs=2"],
    "sac": [],
    "ppo": ["experience.n_steps=8", "experience.batch_size=8"],
}
"""So that gradient steps are many, and ten rows have some before the learning rate jumps: a rollout of PPO is 32 steps."""


def short_run(folder: Path, algorithm: str, *overrides: str) -> Result:
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", *FREQUENT[algorithm]
    short = "trainer=smoke", "trainer.total_steps=600", "trainer.log_every=20", "trainer.eval_every=200"
    config = compose(*short, "logger=disk", "network.hidden=[16,16]", "lowrank.ranks=[]", *chosen, *overrides)
    (result,) = run([config], [folder], live=False)
    log = (folder / "run.log").read_text()
    assert all(warning in log for warning in result.warnings)
    return result


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("algorithm", ONE_AND_SLOW)
@pytest.mark.parametrize("rate", [1e-9, 1e-2])
def test_gates_that_do_not_move_are_said(algorithm: str, rate: float, tmp_path: Path) -> None:
    """The negative control has a rate with which they do."""
    gates = "regularizer=l0_units", *immediately("l0_units"), f"regularizer.gate_learning_rate={rate}"
    moved = short_run(tmp_path, algorithm, *gates).warnings
    assert any(warning.startswith("the gates have not moved") for warning in moved) == (rate < 1e-3)


def jump(algorithm: str) -> str:
    """The override by which the learning rate goes from 1e-4 to 100 after 400 steps."""
    key = "actor_learning_rate" if algorithm == "sac" else "learning_rate"
    schedule = "{_target_: sparserl.schedules.Linear, start: 1e-4, end: 100.0, steps: 1, delay_steps: 400}"
    return f"++algorithm.{key}={schedule}"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("algorithm", ONE_AND_SLOW)
def test_a_gradient_that_explodes_is_said(algorithm: str, tmp_path: Path) -> None:
    rises = short_run(tmp_path / "jump", algorithm, "regularizer=none", jump(algorithm)).warnings
    assert any("exploded to over 100 times" in warning for warning in rises)
    assert not any("exploded" in warning for warning in short_run(tmp_path / "none", algorithm, "regularizer=none").warnings)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("algorithm", ONE_AND_SLOW)
def test_a_policy_without_weights_always_takes_the_same_action(algorithm: str, tmp_path: Path) -> None:
    """All gates close within a few updates: what is left are biases."""
    close = "regularizer.gate_learning_rate=3", "regularizer.initial_open=0.5", "regularizer.lambda_c=1e4"
    result = short_run(tmp_path, algorithm, "regularizer=l0_units", *immediately("l0_units"), *close)
    assert "the evaluated policy always takes the same action" in result.warnings
    assert any(warning.startswith("every weight of layer policy.0.weight is zero") for warning in result.warnings)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("algorithm", ONE_AND_SLOW)
def test_gates_that_swing_are_said(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The penalty turns when nearly all gates have closed, and again when nearly all are open."""
    penalty, signs = L0Units.penalty, dict[int, float]()

    def turning(self: L0Units, layers: Layers, gates: Gates) -> Penalty:
        found = penalty(self, layers, gates)
        share = float(found.detach().mean())  # expected of the weights of the component
        sign = signs.get(id(self), 1.0)
        signs[id(self)] = -1.0 if share < 0.2 else 1.0 if share > 0.7 else sign
        return signs[id(self)] * found

    monkeypatch.setattr(L0Units, "penalty", turning)
    rate = "regularizer.gate_learning_rate=0.5", "regularizer.initial_open=0.9", "regularizer.lambda_c=1e4"
    longer = ["trainer.total_steps=1500"] * (algorithm == "sac")  # a gradient step a step: Adam remembers the first pull longer
    result = short_run(tmp_path, algorithm, "regularizer=l0_units", *immediately("l0_units"), *rate, *longer)
    assert any("close and open again and again" in warning for warning in result.warnings)


def swept(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, selected: Selected) -> Result:
    """A short run whose rank sweep selects this."""
    sweep = RankSweep.__call__

    def select(*arguments: Any) -> list[Any]:
        return [dataclasses.replace(found, selected=selected) for found in sweep(*arguments)]

    with monkeypatch.context() as patched:
        patched.setattr(RankSweep, "__call__", select)
        (result,) = run([config], [folder], live=False)
    return result


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("rank", "retention", "words"),
    [("full", 1.0, "no rank below full keeps 95%"), (2, 0.4, "rank 2 was selected to keep 95%"), (2, 0.97, None)],
)
def test_a_return_that_is_lost_in_ranks_is_in_the_result_and_the_log(
    rank: Rank, retention: float, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once also where the run is swept again."""
    config = compose("trainer=smoke", "logger=disk", "regularizer=none", "lowrank.ranks=[1,2]", "network.hidden=[16,16]")
    for _ in range(2):
        result = swept(config, tmp_path, monkeypatch, Selected(rank, 0.5, 100.0, retention))
        found = [warning for warning in result.warnings if "learned" in warning]
        assert len(found) == (words is not None)
        assert all(warning.startswith(words or "") and warning in (tmp_path / "run.log").read_text() for warning in found)
