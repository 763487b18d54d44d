"""A member that diverges is stopped at its last finite weights, and the others do not change by a bit."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import environment_for, immediately, learner_of, make_regularizer, modules, random_batches
from safetensors.torch import load_file
from torch import Tensor

from sparserl import load_policy
from sparserl.algorithms.base import Algorithm, Objective
from sparserl.config.schema import Config
from sparserl.config.validation import compose
from sparserl.environments.base import Environment, StepResult, VectorEnvironment
from sparserl.environments.cartpole import VectorCartPole
from sparserl.networks.base import Network
from sparserl.optimizers import Adam, Optimizer
from sparserl.population.members import Population
from sparserl.population.random import Generators, MemberRng
from sparserl.runs import checkpoint
from sparserl.runs.files import read_json
from sparserl.runs.schema import Result, StatusName
from sparserl.schedules import Constant, Schedule
from sparserl.sweeps.loop import run
from sparserl.tracking.base import Log, Logger
from sparserl.train import main
from sparserl.training.evaluation import Evaluator
from sparserl.training.learner import Learner
from sparserl.training.step import GradientStep
from sparserl.types import Action, Batch, Spec, Time, Weights

BROKEN = 1
"""The seed of the member whose environment gives rewards that are no numbers."""

SETTINGS = (
    "trainer=smoke",
    "trainer.num_envs=3",
    "environment.max_episode_steps=40",
    "experience.learning_starts=60",
    "experience.train_freq=5",
    "experience.batch_size=16",
    "algorithm.target_update_interval=1",
    "algorithm.tau=0.01",
    "network.hidden=[13,7]",  # no multiple of any vector width: where neighbours would show
    "lowrank.ranks=[1,2]",
    "lowrank.episodes=2",
)
MOVING = ("regularizer.delay_steps=0", "regularizer.ramp_steps=100", "regularizer.lambda_c=10")

OUTCOME = "metrics.jsonl", "policy.safetensors", "lowrank.csv", "spectrum.csv"


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a second each, and have tests of their own."""
    monkeypatch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)


def break_the_environment(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """CartPole gives the member with the seed BROKEN this reward whenever its pole leans to the right by 0.15 rad."""
    step, seed = VectorCartPole.step, Population((BROKEN,)).generators("environment")[0].initial_seed()

    def broken(self: VectorCartPole, action: Tensor) -> StepResult:
        outcome = step(self, action)
        # CartPole gives the same tensor of ones at every step
        outcome = dataclasses.replace(outcome, reward=outcome.reward.clone())
        for member in range(len(self.generators)):
            if self.generators[member].initial_seed() == seed:
                outcome.reward[member][outcome.next_observation[member, :, 2] > 0.15] = value
        return outcome

    monkeypatch.setattr(VectorCartPole, "step", broken)


def break_what_is_shown(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """As above, but what CartPole shows of its cart is this number then."""
    step, seed = VectorCartPole.step, Population((BROKEN,)).generators("environment")[0].initial_seed()

    def broken(self: VectorCartPole, action: Tensor) -> StepResult:
        outcome = step(self, action)
        shown = outcome.observation.clone(), outcome.next_observation.clone()
        for member in range(len(self.generators)):
            if self.generators[member].initial_seed() == seed:
                for its in shown:
                    its[member][its[member, :, 2] > 0.15, 0] = value
        return dataclasses.replace(outcome, observation=shown[0], next_observation=shown[1])

    monkeypatch.setattr(VectorCartPole, "step", broken)


def trained(root: Path, seeds: Sequence[int], *overrides: str) -> tuple[list[Path], list[Result]]:
    folders = [root / str(seed) for seed in seeds]
    return folders, run([config(*overrides) | {"seed": seed} for seed in seeds], folders, live=False)


@cache
def config(*overrides: str) -> Config:
    return compose(*SETTINGS, *overrides)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- a population, from end to end


def test_the_others_do_not_change_by_a_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_the_environment(monkeypatch, math.nan)
    together, results = trained(tmp_path / "together", [0, BROKEN, 2, 3], *MOVING)
    apart, _ = trained(tmp_path / "apart", [0, 2, 3], *MOVING)
    assert [result.status for result in results] == ["done", "failed", "done", "done"]
    for one, other in zip([*together[:1], *together[2:]], apart, strict=True):
        for name in OUTCOME:
            assert (one / name).read_bytes() == (other / name).read_bytes()

    broken, result = together[1], results[1]
    status = read_json(broken / "status.json")
    assert status["status"] == read_json(broken / "result.json")["status"] == "failed"
    assert "the loss of policy is not finite: stopped at its last finite weights at step" in status["error"]
    step = int(status["error"].split()[-1])
    # said in the first row after it, and never again
    said = {row["env_step"]: row["warnings"] for row in rows(broken) if row.get("warnings")}
    first = min(row["env_step"] for row in rows(broken) if row["env_step"] >= step)
    assert 60 < step <= first < 402
    assert said[first] == [status["error"]]
    assert max(said) == first
    assert status["error"] in result.warnings
    # what is not a number is null, and the member goes on acting with the others
    assert any(row["loss/policy"] is None for row in rows(broken))
    assert result.env_steps == rows(broken)[-1]["env_step"] == 402
    assert all(tensor.isfinite().all() for tensor in load_file(broken / "policy.safetensors").values())
    assert load_policy(broken)(torch.zeros(1, 4)).isfinite().all()
    assert (broken / "lowrank.csv").read_text().count("\n") == 4


@pytest.mark.parametrize(("value", "ends"), [(math.nan, "failed"), (math.inf, "done")])
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_statistics_take_in_nothing_that_is_not_finite(
    algorithm: str, value: float, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are deployed with the policy, and one nan among all observations would stay in their mean.

    What is infinite is cut to the limit of normalised observations, so a member learns from it.
    """
    break_what_is_shown(monkeypatch, value)
    normalizes = "algorithm.normalize_observation=true", "algorithm.normalize_reward=true"
    settings = (f"algorithm={algorithm}", "regularizer=none", *normalizes)
    small = ("experience.n_steps=32", "experience.batch_size=64") if algorithm == "ppo" else SETTINGS[1:]
    configs = [
        compose("environment=cartpole", "trainer=smoke", "logger=disk", *settings, *small, f"seed={seed}")
        for seed in (0, BROKEN)
    ]
    folders = [tmp_path / "0", tmp_path / "broken"]
    whole, broken = run(configs, folders, live=False)
    assert (whole.status, broken.status) == ("done", ends)
    assert all(tensor.isfinite().all() for tensor in load_file(folders[1] / "policy.safetensors").values())
    assert load_policy(folders[1])(torch.zeros(1, 4)).isfinite().all()


def test_a_population_that_is_stopped_whole_leaves_those_beside_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets its rows for as long as they train; by itself it would have ended."""
    break_the_environment(monkeypatch, math.nan)
    dense, stopped = config("regularizer=none") | {"seed": 0}, config("regularizer=l1") | {"seed": BROKEN}
    results = run([stopped, dense], [tmp_path / "stopped", tmp_path / "dense"], live=False)
    (alone,) = run([dense], [tmp_path / "alone"], live=False)
    assert [result.status for result in results] == ["failed", "done"]
    assert [result.env_steps for result in results] == [alone.env_steps] * 2
    assert all((tmp_path / "dense" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes() for name in OUTCOME)


def test_a_run_that_is_interrupted_after_a_member_was_stopped_ends_as_if_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_the_environment(monkeypatch, math.inf)
    whole, _ = trained(tmp_path / "whole", [0, BROKEN], *MOVING)
    step = int(read_json(whole[1] / "status.json")["error"].split()[-1])
    save = checkpoint.save

    def save_and_stop(folders: Sequence[Path], at: int, states: Sequence[Any], run_by: Sequence[Any]) -> None:
        save(folders, at, states, run_by)
        if at >= step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "broken", [0, BROKEN], *MOVING)
    (kept, _) = trained(tmp_path / "broken", [0, BROKEN], *MOVING)
    for one, other in zip(kept, whole, strict=True):
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in OUTCOME)
        assert read_json(one / "status.json")["error"] == read_json(other / "status.json")["error"]


def test_training_ends_when_every_member_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_the_environment(monkeypatch, math.nan)
    (folder,), (result,) = trained(tmp_path, [BROKEN], "trainer.total_steps=999999")
    step = int(read_json(folder / "status.json")["error"].split()[-1])
    assert result.status == "failed"
    assert result.env_steps == rows(folder)[-1]["env_step"] == step < 2000
    assert "eval/return_mean" in rows(folder)[-1]
    # started again, it is where it was
    before = [(folder / name).read_bytes() for name in OUTCOME]
    _, (again,) = trained(tmp_path, [BROKEN], "trainer.total_steps=999999")
    assert (again.status, again.env_steps, again.return_mean) == ("failed", step, result.return_mean)
    assert [(folder / name).read_bytes() for name in OUTCOME] == before


def test_what_listens_hears_that_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Heard(Log):
        def end(self, status: StatusName) -> None:
            ends.append(status)

    ends: list[StatusName] = []
    monkeypatch.setattr(Logger, "open", lambda self, folders, configs, names: [Heard() for _ in folders])
    break_the_environment(monkeypatch, math.nan)
    trained(tmp_path, [0, BROKEN], "logger=disk")
    assert ends == ["done", "failed"]


def test_a_single_run_ends_with_its_table_one_sentence_and_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate as large as this breaks every member."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as main sets it, but not for the tests that follow
    monkeypatch.setattr(sys, "argv", ["sparserl-train", *SETTINGS, "algorithm.learning_rate=1e30", "hydra.run.dir=mine"])
    with pytest.raises(SystemExit) as ended:
        main()
    # a process that exits with a text prints it, and has the code 1
    sentence = "sparserl: mine failed: the loss of policy is not finite: stopped at its last finite weights at step "
    assert str(ended.value.code).replace(f"{tmp_path}/", "").startswith(sentence)
    assert "weights left" in capsys.readouterr().out


# ---------------------------------------------------------------- one step of the learner


composed = cache(compose)


def learner(algorithm: str, regularizer: str, *overrides: str) -> Learner:
    """The algorithm and the regulariser are composed apart, each once, since to compose all pairs takes half of the time."""
    moving = [*immediately(regularizer, ramp_steps=100, start_step=100, end_step=104), "regularizer.lambda_c=10"]
    own = [each for each in overrides if each.startswith("regularizer.")]
    others = [each for each in overrides if each not in own]
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", "regularizer=none"
    config = composed(*chosen, "network.hidden=[13,7]", *others)
    config = config | {"regularizer": composed(f"regularizer={regularizer}", *moving, *own)["regularizer"]}
    given = learner_of([config | {"seed": seed} for seed in range(3)])
    given.begin_rollout(100)
    return given


def values(given: Learner, member: int) -> list[Tensor]:
    """Everything that is learned of one member, or follows what is learned: weights, targets, gates."""
    return [t[member].clone() for group in (given.weights, given.gates) for layers in group.values() for t in layers.values()]


def moments(given: Learner, member: int) -> list[Tensor]:
    learned = [*given.state.weights.values(), *given.state.gates.values()]
    return [moment[member].clone() for its in learned for name, moment in its.moments.items() if name != "step"]


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def spoil(batch: Batch, bad: float) -> None:
    """One number of member 1, in what each algorithm learns from."""
    for name in ("reward", "return", "advantage"):
        batch[name][1, 3] = bad


BAD = (math.nan, math.inf, -math.inf, 1e30)
"""What is no number, and what is one, but whose square is none in float32."""

BREAKS = dict.fromkeys(("ddpg", "td3", "sac"), "critic")
"""Whose loss such a number is in; that of the policy under other algorithms."""

WHEN = ((0, None), (5, None), (5, 0.5))
"""The gradient step at which a member breaks, and the norm at which gradients are clipped."""


def cases() -> list[Any]:
    """Every algorithm with every regulariser, every time and every bad number; every two of these meet in a quick test."""
    return [
        pytest.param(algorithm, name, *when, bad, marks=() if b == (a + r) % 4 and w == (a + r // 4) % 3 else pytest.mark.slow)
        for a, algorithm in enumerate(modules("algorithms"))
        for r, name in enumerate(modules("regularizers"))
        for b, bad in enumerate(BAD)
        for w, when in enumerate(WHEN)
    ]


def test_every_two_circumstances_meet_in_a_quick_test() -> None:
    quick, every = ([case.values for case in cases() if keep or not case.marks] for keep in (False, True))
    for one, other in combinations(range(5), 2):
        assert {(repr(case[one]), repr(case[other])) for case in quick} == {
            (repr(case[one]), repr(case[other])) for case in every
        }, (one, other)
    assert len(quick) < len(every) / 10


@pytest.mark.parametrize(("algorithm", "regularizer", "first", "limit", "bad"), cases())
def test_a_stopped_member_keeps_every_number_and_the_others_theirs(
    algorithm: str, regularizer: str, first: int, limit: float | None, bad: float
) -> None:
    """Bit for bit, also where gradients are clipped. With nan and a limit it failed before: its own weights became nan."""
    clipped = [] if limit is None else [f"algorithm.max_grad_norm={limit}"]
    clipped += [f"regularizer.max_gate_grad_norm={limit}"] if limit is not None and regularizer == "l0" else []
    ours, untouched = (learner(algorithm, regularizer, *clipped) for _ in range(2))
    before: list[Tensor] = []
    for index, batch in enumerate(random_batches(8, members=3, size=16, algorithm=algorithm)):
        untouched.update(batch, env_step=100 + index)
        if index == first:
            before = values(ours, 1)
            spoil(batch, bad)
        ours.update(batch, env_step=100 + index)
    assert all(number.isfinite().all() for number in before)
    assert same(values(ours, 1), before)
    assert not same(values(untouched, 1), before), "or this test sees nothing move"
    assert all((moment == 0).all() for moment in moments(ours, 1))
    for member in (0, 2):
        assert same(values(ours, member), values(untouched, member))
        assert same(moments(ours, member), moments(untouched, member))
    sentence = (
        f"the loss of {BREAKS.get(algorithm, 'policy')} is not finite: stopped at its last finite weights at step {100 + first}"
    )
    assert ours.stopped.sentences() == [None, sentence, None]
    assert not ours.stopped.are_all


@pytest.mark.parametrize("seen", ["observation", "next_observation"])
def test_an_observation_that_is_no_number_stops_too_and_the_action_is_one_that_there_is(seen: str) -> None:
    given = learner("dqn", "l0")
    (batch,) = random_batches(1, members=3, size=16)
    batch[seen][1, 3, 0] = math.nan
    before = values(given, 1)
    given.update(batch, env_step=1)
    assert [sentence is not None for sentence in given.stopped.sentences()] == [False, True, False]
    assert same(values(given, 1), before)
    action = given.algorithm.deterministic_action(given.deterministic(), batch[seen])
    assert ((action == 0) | (action == 1)).all()


def test_a_member_that_was_not_stopped_would_move_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what the tests above would see."""
    monkeypatch.setattr(GradientStep, "_stop_diverged", staticmethod(lambda *_: None))
    given = learner("dqn", "l0")
    good, bad = random_batches(2, members=3, size=16)
    given.update(good, env_step=100)
    before = values(given, 1)
    spoil(bad, math.nan)
    given.update(bad, env_step=101)
    assert not same(values(given, 1), before)
    assert given.stopped.sentences() == [None] * 3


@pytest.mark.parametrize("rate", [1e10, 1e30, 1e38, 1e300])
def test_no_learning_rate_makes_weights_that_are_not_finite(rate: float) -> None:
    """The first step goes as far as the rate; the loss of what comes of it is out of range, and that is the last step."""
    given = learner("dqn", "l0", f"algorithm.learning_rate={rate}", f"regularizer.gate_learning_rate={rate}")
    for index, batch in enumerate(random_batches(10, members=3, size=16)):
        given.update(batch, env_step=index)
    assert given.stopped.are_all
    for member in range(3):
        assert all(number.isfinite().all() for number in values(given, member))
    observation = random_batches(1, members=3, size=16)[0]["observation"]
    action = given.algorithm.deterministic_action(given.deterministic(), observation)
    assert ((action == 0) | (action == 1)).all()


ADAM = Adam()


@dataclass(frozen=True)
class Roots(Algorithm):
    """The loss of ``policy`` is the sum of its weights, that of ``critic`` of their roots: at 0 a number without a slope.

    The target of the critic counts gradient steps.
    """

    gamma: float = 0.99
    max_grad_norm: float | None = None
    optimizer: Optimizer = ADAM

    actions = ("discrete",)

    @property
    def networks(self) -> Mapping[str, Network]:
        return {}

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return dict.fromkeys(("policy", "critic"), Constant(0.1))

    @property
    def targets(self) -> dict[str, str]:
        return {"target_critic": "critic"}

    def init(self, members: Population) -> Weights:
        critic = torch.tensor([[[4.0]], [[0.0]]])
        return {
            "policy": {"0.weight": torch.ones(2, 1, 1)},
            "critic": {"0.weight": critic},
            "target_critic": {"0.weight": torch.zeros(2, 1, 1)},
        }

    def act(self, *_: Any) -> Action:
        raise AssertionError("these tests take no action")

    def deterministic_action(self, *_: Any) -> Tensor:
        raise AssertionError("these tests take no action")

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        policy, critic = (weights[component]["0.weight"].sum(dim=(1, 2)) for component in ("policy", "critic"))
        return {"policy": Objective(policy, ("policy",)), "critic": Objective(critic.sqrt(), ("critic",))}

    def update_targets(self, weights: Weights, time: Time) -> Weights:
        return {"target_critic": {"": weights["target_critic"][""] + 1}}


@pytest.mark.parametrize("limit", [None, 0.5])
def test_what_breaks_in_one_component_stops_all_of_them(limit: float | None) -> None:
    regularizer = make_regularizer("regularizer=none", members=2)
    algorithm = Roots(max_grad_norm=limit).bind(Spec((1,), discrete_actions=2))
    given = Learner(algorithm, regularizer, Population((0, 1)))
    for step in (7, 8):
        given.update({}, env_step=step)
    assert given.stopped.sentences() == [
        None,
        "the gradient of weights of critic is not finite: stopped at its last finite weights at step 7",
    ]
    # 1 - 2 * 0.1 and 2 ** 2 - 2 * 0.1 after two steps of Adam against a gradient of one sign
    policy, critic, target = (
        given.weights[component]["0.weight"].flatten().tolist() for component in ("policy", "critic", "target_critic")
    )
    assert policy == pytest.approx([0.8, 1.0])
    assert critic == pytest.approx([3.8, 0.0], abs=1e-3)
    assert target == [2.0, 0.0]


# ---------------------------------------------------------------- what reaches an environment


def test_actions_are_clipped_and_whose_are_nan_is_told() -> None:
    spec = Spec((1,), None, action_low=(-1.0, 2.0), action_high=(1.0, 4.0))
    given = torch.tensor([[[0.5, 3.5], [9.0, math.inf]], [[math.nan, 3.0], [-7.0, -math.inf]]])
    taken, broken = spec.clip_action(given)
    assert taken.tolist() == [[[0.5, 3.5], [1.0, 4.0]], [[0.0, 3.0], [-1.0, 2.0]]]
    assert broken.tolist() == [False, True]
    discrete = torch.tensor([[0, 1]])
    taken, broken = Spec((1,), discrete_actions=2).clip_action(discrete)
    assert taken is discrete
    assert broken.tolist() == [False]


def test_evaluations_hand_on_finite_actions_only() -> None:
    taken: list[Tensor] = []

    class One(VectorEnvironment):
        def reset(self) -> Tensor:
            return torch.zeros(*self.shape, 1)

        def step(self, action: Tensor) -> StepResult:
            taken.append(action)
            ones = torch.ones(self.shape)
            return StepResult(self.reset(), self.reset(), ones, ones, torch.zeros(self.shape))

        def close(self) -> None:
            pass

    class Ones(Environment):
        def spec(self) -> Spec:
            return Spec((1,), None, (-1.0,), (1.0,))

        def open(self, generators: Generators, envs: int) -> VectorEnvironment:
            return One(generators, envs)

    act: Callable[[Tensor, slice], Tensor] = lambda seen, _: torch.tensor([[[0.25]], [[math.nan]]])  # noqa: E731
    returns = Evaluator(Ones(), 2, 1, torch.device("cpu"))(act).returns
    assert torch.cat(taken).flatten().tolist() == [0.25, 0.0]
    assert returns.flatten().tolist() == pytest.approx([1.0, math.nan], nan_ok=True)
