"""The trainer's loop: what it counts, what it stores, what it times, and how it ends."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import Faulty, faulty
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl.algorithms.dqn import DQN
from sparserl.config.build import build
from sparserl.config.schema import CONF
from sparserl.config.validation import compose
from sparserl.environments.base import StepResult
from sparserl.environments.cartpole import VectorCartPole
from sparserl.experience.replay import Replay
from sparserl.experience.selection import Selection
from sparserl.policies import q_values
from sparserl.population.members import Population
from sparserl.training import compiled, worth_compiling
from sparserl.training import rows as rows_module
from sparserl.training.evaluation import Evaluator
from sparserl.training.events import Finished, Progress, Row, Snapshot
from sparserl.training.learner import Learner
from sparserl.training.learner_group import LearnerGroup
from sparserl.training.statistics import Averages, Episodes
from sparserl.training.updates import Updates
from sparserl.training.worth_compiling import how_it_goes_on, is_worth_compiling
from sparserl.types import Action, Transition

MEMBERS, ENVS = 2, 3
NOTHING = torch.zeros(MEMBERS, ENVS)
events = st.lists(st.sampled_from(["step", "step", "step", "some steps", "take", "abandon"]), min_size=1, max_size=40)


def outcome(draw: torch.Generator) -> StepResult:
    """A step with whole rewards, whose sums are exact in any order, in which every fourth episode ends."""
    reward = torch.randint(-5, 6, (MEMBERS, ENVS), generator=draw).float()
    terminated, truncated = ((torch.rand(MEMBERS, ENVS, generator=draw) < 1 / 8).float() for _ in range(2))
    return StepResult(NOTHING, NOTHING, reward, terminated, truncated)


@given(events, st.integers(1, 7), st.integers(0, 1000))
@settings(max_examples=100)
def test_episodes_are_counted_as_by_hand(happens: list[str], block: int, seed: int) -> None:
    """Whatever number of steps is looked at together, and wherever a row or a checkpoint comes between them."""
    episodes, draw = Episodes(Population((0, 1)), ENVS), torch.Generator().manual_seed(seed)
    episodes.block = block
    running = [[0.0] * ENVS for _ in range(MEMBERS)]
    returns: list[list[float]] = [[] for _ in range(MEMBERS)]
    steps, cut = [[0] * ENVS for _ in range(MEMBERS)], [0] * MEMBERS
    for event in [*happens, "take"]:
        if "step" in event:
            taken = [outcome(draw) for _ in range(1 if event == "step" else 3)]
            if event == "step":
                episodes.add(*taken)
            else:
                fields = [its.transition(NOTHING, Action(NOTHING)) for its in taken]
                episodes.add_all({name: torch.stack([its[name] for its in fields], dim=1) for name in fields[0]})
            for step, member, env in product(taken, range(MEMBERS), range(ENVS)):
                running[member][env] += step.reward[member, env].item()
                steps[member][env] += 1
                if step.terminated[member, env] or step.truncated[member, env]:
                    returns[member].append(running[member][env])
                    running[member][env], steps[member][env] = 0.0, 0
        elif event == "abandon":
            episodes.abandon()
            running = [[0.0] * ENVS for _ in range(MEMBERS)]
            cut = [before + sum(map(bool, under_way)) for before, under_way in zip(cut, steps, strict=True)]
            steps = [[0] * ENVS for _ in range(MEMBERS)]
        else:
            means = episodes.take()
            assert means["train/episodes"].tolist() == [len(ended) for ended in returns]
            expected = [sum(ended) / len(ended) if ended else math.nan for ended in returns]
            assert means["train/return"].tolist() == pytest.approx(expected, nan_ok=True)
            assert means["train/episodes_cut"].tolist() == cut
            returns, cut = [[] for _ in range(MEMBERS)], [0] * MEMBERS


def test_episodes_that_checkpoints_end_are_counted_where_they_bend_the_mean() -> None:
    """Episodes of 10 or 90 steps with a reward of 1 each, half of either kind: the mean return is 50.

    Between checkpoints are 100 steps. The first two episodes are one of four pairs, each with a probability of 1/4: a
    long and a short one, in either order, end within the 100 steps; of two long ones only the first ends; after two
    short ones about one more short one ends before a long one is cut. So the expected number of ended episodes is (2 +
    2 + 1 + 3) / 4 = 2, the sum of their returns (100 + 100 + 90 + 30) / 4 = 80, and their mean 40 and not 50. An
    episode is cut in two of the four cases.
    """
    envs, draw = 2000, torch.Generator().manual_seed(0)

    def lengths() -> torch.Tensor:
        return torch.where(torch.rand(1, envs, generator=draw) < 0.5, 10, 90)

    episodes, left = Episodes(Population((0,)), envs), lengths()
    one, zero = torch.ones(1, envs), torch.zeros(1, envs)
    for _ in range(100):
        left = left - 1
        episodes.add(StepResult(zero, zero, one, (left == 0).float(), zero))
        left = torch.where(left == 0, lengths(), left)
    episodes.abandon()
    taken = episodes.take()
    # a deviation of one return is 40 and there are 3,500 of them: six standard errors are 4
    assert taken["train/return"].item() == pytest.approx(40, abs=4)
    # six standard errors of a share of 1/2 among 2,000
    assert taken["train/episodes_cut"].item() / envs == pytest.approx(1 / 2, abs=0.07)


def test_what_is_not_finite_stays_in_its_own_episode() -> None:
    """A reward of nan spoils the mean it belongs to, and no mean after it."""
    episodes = Episodes(Population((0,)), 1)
    for reward, ends in ((math.nan, 1.0), (2.0, 1.0)):
        for value, end in ((reward, 0.0), (1.0, ends)):
            one = torch.tensor([[value]])
            episodes.add(StepResult(one, one, one, torch.tensor([[end]]), torch.zeros(1, 1)))
        taken = episodes.take()["train/return"].item()
        assert math.isnan(taken) if math.isnan(reward) else taken == 3.0


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(1, 7))
def test_averages_are_means_over_the_steps_that_had_them(values: list[int], block: int) -> None:
    """``even`` is there at every other step only."""
    averages = Averages()
    averages.block = block
    for step, value in enumerate(values):
        metric = torch.tensor([float(value), 2.0 * value])
        averages.add({"all": metric} | ({"even": metric} if step % 2 == 0 else {}))
    means, evens = averages.take(), values[::2]
    assert means["all"].tolist() == pytest.approx([sum(values) / len(values), 2 * sum(values) / len(values)])
    assert means["even"].tolist() == pytest.approx([sum(evens) / len(evens), 2 * sum(evens) / len(evens)])
    assert averages.take() == {}


def test_steps_may_be_averaged_some_at_once() -> None:
    """A number each step and member of two metrics: the means over three steps, and one before that has one of them only."""
    averages = Averages()
    averages.add({"second": torch.tensor([100.0, 4.0])})
    rows = torch.arange(12.0).view(3, 2, 2)
    averages.add(Updates(["first", "second"], rows, [10, 20, 30]))
    means = averages.take()
    assert means["first"].tolist() == [(0 + 4 + 8) / 3, (2 + 6 + 10) / 3]
    assert means["second"].tolist() == [(100 + 1 + 5 + 9) / 4, (4 + 3 + 7 + 11) / 4]


def test_the_order_of_averages_does_not_depend_on_what_came_first() -> None:
    """Rows of a run and of one that was resumed are the same bytes, also where a metric begins late."""
    whole, resumed, one = Averages(), Averages(), torch.ones(1)
    whole.add({"weights/policy": one, "weights/critic": one})
    for averages in (whole, resumed):
        averages.take()
        averages.add({"weights/policy": one, "gates/policy": one, "weights/critic": one})
    assert [*whole.take()] == [*resumed.take()]


def test_what_check_interrupt_raises_ends_the_training_in_the_middle_of_an_evaluation() -> None:
    """The smoke trainer evaluates at 200 of its 400 steps: whoever waits for the row of step 200 waits for two episodes."""
    trainer, parts = build([compose("trainer=smoke", "logger=disk")])

    def interrupt() -> None:
        raise KeyboardInterrupt

    rows = (event.env_step for event in trainer.run(parts, check_interrupt=interrupt) if isinstance(event, Row))
    assert next(rows) == 100
    with pytest.raises(KeyboardInterrupt):
        next(rows)


# ---------------------------------------------------------------- one loop of 40 steps of 2 sub-environments

SMALL = (
    "logger=disk", "regularizer=none", "network.hidden=[4]", "trainer.total_steps=80", "trainer.num_envs=2",
    "trainer.log_every=20", "trainer.eval_every=40", "trainer.checkpoint_every=40", "trainer.eval_episodes=1",
    "experience.batch_size=4", "experience.train_freq=2", "experience.learning_starts=30", "experience.buffer_size=200",
)  # fmt: skip


def test_a_checkpoint_marks_the_episodes_that_it_ends_as_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint resets the environments, so the episodes under way end there, and their last states keep their values.

    CartPole falls after 8 steps at the earliest and here never reaches its limit: no other step is truncated. By Gymnasium's
    interface it is an environment whose state cannot be saved.
    """
    stored: list[tuple[torch.Tensor, torch.Tensor]] = []
    extend = Replay.extend

    def record(replay: Replay, transition: Transition) -> None:
        stored.append((transition["truncated"], transition["terminated"]))
        extend(replay, transition)

    monkeypatch.setattr(Replay, "extend", record)
    cartpole = "environment=gymnasium", "environment.id=CartPole-v1"
    trainer, parts = build([compose(*SMALL, *cartpole, f"seed={seed}") for seed in range(2)])
    assert [event.env_step for event in trainer.run(parts) if isinstance(event, Snapshot)] == [40, 80]
    marked = [index for index, (truncated, _) in enumerate(stored) if truncated.bool().all()]
    assert marked == [19, 39]
    assert not any(truncated.any() for index, (truncated, _) in enumerate(stored) if index not in marked)
    assert any(not stored[index][1].all() for index in marked), "some episode must be under way at a checkpoint"


def test_exploration_follows_the_steps_taken_before_an_action_also_after_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epsilon falls from 1 to 0 within 80 steps: the first action is chosen at 1, the action after 40 steps at 1/2."""
    used: list[float] = []
    choose = q_values.epsilon_greedy

    def record(values: torch.Tensor, epsilon: float, uniforms: torch.Tensor) -> torch.Tensor:
        used.append(epsilon)
        return choose(values, epsilon, uniforms)

    monkeypatch.setattr(q_values, "epsilon_greedy", record)
    falling = "algorithm.epsilon={_target_:sparserl.schedules.Linear,start:1.0,end:0.0,steps:80,delay_steps:0}"
    trainer, parts = build([compose(*SMALL, falling)])
    expected = [1 - step / 80 for step in range(0, 80, 2)]
    (first, _) = [event.states for event in trainer.run(parts) if isinstance(event, Snapshot)]
    assert used == pytest.approx(expected)
    used.clear()
    trainer, parts = build([compose(*SMALL, falling)])
    assert isinstance([*trainer.run(parts, first)][-1], Finished)
    assert used == pytest.approx(expected[20:])


def fail(*_: Any) -> None:
    raise RuntimeError("made to fail")


@pytest.mark.parametrize("end", ["the end of training", "its consumer", "an error"])
def test_environments_are_closed_whatever_ends_the_training(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that train and those that evaluate; an evaluation comes before each end."""
    trainer, parts = build([compose(*SMALL)])
    events = trainer.run(dataclasses.replace(parts, environment=faulty(at_once=2)))
    assert not Faulty.living
    assert next(event for event in events if isinstance(event, Snapshot)).env_step == 40
    assert len(Faulty.living) >= 2, "training is under way"
    if end == "the end of training":
        assert isinstance([*events][-1], Finished)
    elif end == "its consumer":
        events.close()
    else:
        monkeypatch.setattr(Learner, "update", fail)
        with pytest.raises(RuntimeError, match="made to fail"):
            list(events)
    assert not Faulty.living


class Time:
    """A clock that stands still but for what is added to it, in whole seconds: exact sums."""

    def __init__(self) -> None:
        self.now = 0.0

    def after(self, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which now takes these seconds in all, whatever is called within it."""

        def timed(*arguments: Any) -> Any:
            began = self.now
            result = function(*arguments)
            self.now = began + seconds
            return result

        return timed


def test_each_phase_is_charged_with_its_own_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each phase takes another power of ten, so that a sum of seconds says what was counted, and how often."""
    time = Time()
    monkeypatch.setattr("sparserl.training.statistics.time.perf_counter", lambda: time.now)
    selections = Replay.selections

    def timed_selections(replay: Replay, prepare: Any) -> Iterator[Selection]:
        for selection in selections(replay, prepare):
            time.now += 1_000  # each minibatch is sampled
            yield selection
        time.now += 500  # and one is looked for in vain

    monkeypatch.setattr(DQN, "act", time.after(1, DQN.act))
    monkeypatch.setattr(VectorCartPole, "step", time.after(30, VectorCartPole.step))
    monkeypatch.setattr(Replay, "selections", timed_selections)
    monkeypatch.setattr(LearnerGroup, "update", time.after(100_000, LearnerGroup.update))
    monkeypatch.setattr(Evaluator, "__call__", time.after(10_000_000, Evaluator.__call__))
    monkeypatch.setattr(rows_module, "observe", time.after(100_000_000, rows_module.observe))
    rows: list[dict[str, float]] = []
    trainer, parts = build([compose(*SMALL)])
    for event in trainer.run(parts):
        if isinstance(event, Row):
            rows.append(event.seconds)
            time.now += 1_000_000_000  # to write it
        elif not isinstance(event, Finished):
            assert isinstance(event, Progress | Snapshot)
    # ten steps for each row; the first gradient step is at the sixteenth step, which gives the transition after the thirtieth
    common = {"acting": 10.0, "environment": 300.0, "other": 1e8}
    learning = common | {"replay": 15_000.0, "update": 1e6, "records": 1e9}
    assert rows == [
        common | {"replay": 5_000.0, "records": 0.0},
        common | {"replay": 10_000.0, "update": 5e5, "records": 1e9, "evaluation": 1e7},
        learning,
        learning | {"evaluation": 1e7},
    ]


def test_steps_that_are_to_be_one_program_are_acting_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    trainer, parts = build([compose("algorithm=ppo", "environment=cartpole", "trainer=smoke", "trainer.compile=true")])
    rows = [event for event in trainer.run(parts) if isinstance(event, Row)]
    assert rows
    assert all(row.seconds.get("acting", 0) > 0 for row in rows)


# ---------------------------------------------------------------- compiled or not


@pytest.mark.parametrize(
    ("asked", "steps", "members", "compiler", "expected"),
    [
        ("auto", 450_000, 1, True, True),
        ("auto", 450_000, 64, True, True),  # whatever it trains beside, or its numbers would depend on that
        ("auto", 449_990, 1, True, False),  # a gradient step for ten environment steps: one less than is worth it
        ("auto", 449_990, 64, True, False),
        ("auto", 800_000, 32, False, False),
        ("true", 1000, 64, False, True),  # what then cannot be compiled says so
        ("false", 800_000, 1, True, False),
    ],
)
def test_auto_compiles_what_is_worth_it(
    asked: str, steps: int, members: int, compiler: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worth_compiling, "has_compiler", lambda: compiler)
    one = compose(f"trainer.compile={asked}", f"trainer.total_steps={steps}", "experience.learning_starts=0")
    trainer, parts = build([one | {"seed": seed} for seed in range(members)])
    assert trainer.compiles(parts) is expected


def test_auto_compiles_what_was_measured_to_earn_back_the_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run that is shorter than that, solo or with eight members, and none twice as long is left eager.

    Where only solo runs gain, the others lose next to nothing: the rule must not depend on how many members there are.
    """
    monkeypatch.setattr(worth_compiling, "has_compiler", lambda: True)
    needed: dict[tuple[str, str], float] = {}
    with (Path(__file__).parents[2] / "results/compiled-speed/rows.csv").open() as file:
        for row in csv.DictReader(file):
            if row["regularizer"] == "none":
                eager, compiled = (float(row[f"{how}_steps_per_second"]) / int(row["members"]) for how in ("eager", "compiled"))
                what = row["algorithm"], row["environment"]
                saved = 1 / eager - 1 / compiled  # seconds for each environment step of one member
                assert float(row["times"]) > (1 if row["members"] == "1" else 0.95)
                if saved > 0:
                    needed[what] = max(needed.get(what, 0), float(row["compile_seconds"]) / saved)
    text = (CONF / "trainer" / "default.yaml").read_text().replace("\n# ", " ")
    named = {
        name: int(number.replace(",", ""))
        for number, names in re.findall(r"([\d,]+) under ((?:[A-Z][A-Z0-9]+(?:, | and )?)+)", text)
        for name in re.findall(r"[A-Z0-9]{3,}", names)
    }
    assert {*named} == {"DQN", "PPO", "A2C", "DDPG", "TD3", "SAC"}
    for (algorithm, environment), env_steps in needed.items():
        trainer, parts = build([compose(f"algorithm={algorithm}", f"environment={environment}")])
        earned = parts.experience.gradient_steps(1_000_000, trainer.num_envs) * env_steps / 1_000_000
        least = parts.algorithm.fewest_compiled_steps
        assert earned < least < 2 * earned
        assert named[algorithm.upper()] == least
        assert [is_worth_compiling(parts.algorithm, parts.members.device, steps) for steps in (least - 1, least)] == [
            False,
            True,
        ]


def test_auto_leaves_what_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worth_compiling, "has_compiler", lambda: True)
    trainer, parts = build([compose("trainer.compile=auto", "trainer.total_steps=1_000_000")])
    assert trainer.compiles(parts)
    on_a_gpu = dataclasses.replace(parts, members=Population((0,), torch.device("cuda")))
    assert not trainer.compiles(on_a_gpu)


@pytest.mark.parametrize(
    ("asked", "began", "how"), [("true", False, "eagerly"), ("false", True, "compiled"), ("auto", True, "")]
)
def test_a_run_goes_on_as_it_began_whatever_is_asked(asked: str, began: bool, how: str) -> None:
    trainer, _ = build([compose(f"trainer.compile={asked}")])
    said = f"trainer.compile is {asked}, but a run goes on as it began: {how}" if how else None
    assert how_it_goes_on(trainer.compile, [{"compile": began}]) == said
