from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import closing
from copy import copy
from typing import Any

import pytest
import torch
from faults import Faulty, faulty
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import (
    ActionTimesObservation,
    ConstantReward,
    Countdown,
    Probe,
    RewardByAction,
    RewardByObservation,
    RewardLater,
    Truncated,
    UselessInput,
)
from torch import Tensor

from sparserl.environments import gymnasium
from sparserl.environments.base import Environment, StepResult, VectorEnvironment
from sparserl.environments.cartpole import CartPole
from sparserl.environments.gymnasium import Gymnasium, VectorGymnasium
from sparserl.population.random import Generators
from sparserl.training.evaluation import CONFIRMATION, Evaluation, Evaluator, random_returns

CPU = torch.device("cpu")


def evaluate(environment: Environment, act: Callable[[Tensor], Tensor], members: int = 1, episodes: int = 8) -> Evaluation:
    evaluator, steps = Evaluator(environment, members, episodes, CPU), iter(range(1000))

    def bounded(observation: Tensor, _: slice) -> Tensor:
        assert next(steps, None) is not None, "the evaluation does not notice that all episodes are over"
        return act(observation)

    try:
        return evaluator(bounded)
    finally:
        evaluator.close()


def optimal(probe: Probe) -> Callable[[Tensor], Tensor]:
    return lambda observation: probe.q_values(observation, 0.9).argmax(dim=-1)


def starts(environment: Environment, members: int, episodes: int) -> Tensor:
    """What the policy sees first in each episode."""
    seen: list[Tensor] = []

    def act(observation: Tensor) -> Tensor:
        seen.append(observation.clone())
        return torch.zeros(observation.shape[:2], dtype=torch.long)

    evaluate(environment, act, members, episodes)
    return seen[0]


# ---------------------------------------------------------------- what an episode gives


@pytest.mark.parametrize(
    "probe", [ConstantReward(), RewardLater(), RewardByAction(), ActionTimesObservation(), UselessInput(), Truncated()]
)
def test_the_best_policy_of_a_probe_gets_one_in_every_episode(probe: Probe) -> None:
    evaluation = evaluate(probe, optimal(probe), members=2, episodes=5)
    assert evaluation.returns.tolist() == [[1.0] * 5] * 2


def test_a_reward_that_is_given_by_the_start_is_the_return() -> None:
    first = starts(RewardByObservation(), 2, 20)[..., 0]
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(evaluate(RewardByObservation(), optimal(RewardByObservation()), 2, 20).returns, first.double())


def test_episodes_of_different_lengths_are_counted_once_and_whole() -> None:
    """A sub-environment that is done goes on with another episode, which must not count while longer ones still run."""
    first = starts(Countdown(), 1, 50)[..., 0]
    assert set(first.unique().tolist()) == {1.0, 2.0, 3.0}
    assert torch.equal(evaluate(Countdown(), optimal(Countdown()), 1, 50).returns, first.double())


def test_each_member_is_evaluated_by_its_own_actions() -> None:
    def act(observation: Tensor) -> Tensor:
        action = torch.zeros(observation.shape[:2], dtype=torch.long)
        action[1] = 1
        return action

    evaluation = evaluate(RewardByAction(), act, members=3, episodes=4)
    assert evaluation.returns.tolist() == [[-1.0] * 4, [1.0] * 4, [-1.0] * 4]


def test_a_return_sums_a_whole_episode_of_cartpole() -> None:
    """Every step gives 1 and the limit is 30, which pushing to the one side never reaches and balancing does."""
    fall = evaluate(CartPole(30), lambda observation: torch.zeros(observation.shape[:2], dtype=torch.long))
    assert ((fall.returns >= 8) & (fall.returns <= 11)).all()  # CartPole-v1 falls within 8 to 11 steps of one-sided pushes
    upright = evaluate(CartPole(30), lambda observation: (observation[..., 2] + observation[..., 3] > 0).long())
    assert upright.returns.tolist() == [[30.0] * 8]


def test_metrics_are_those_of_the_episodes() -> None:
    returns = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]], dtype=torch.float64)
    metrics = Evaluation(returns, torch.tensor([False, True])).metrics()
    assert metrics["eval/return_mean"].tolist() == [3.0, 4.0]
    # the deviation of a sample: ((1 - 3)^2 + (2 - 3)^2 + (6 - 3)^2) / 2 = 7
    torch.testing.assert_close(metrics["eval/return_std"], torch.tensor([7.0**0.5, 0.0], dtype=torch.float64))
    assert metrics["eval/constant_action"].tolist() == [0.0, 1.0]


def test_one_episode_has_no_deviation_and_needs_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warned of it at every evaluation
        metrics = Evaluation(torch.tensor([[3.0], [math.nan]]), torch.tensor([False, False])).metrics()
    assert metrics["eval/return_std"].isnan().tolist() == [True, True]
    assert metrics["eval/return_mean"].tolist() == pytest.approx([3.0, math.nan], nan_ok=True)


# ---------------------------------------------------------------- the same episodes

ENVIRONMENTS: list[Environment] = [
    CartPole(20),
    Gymnasium("Acrobot-v1", None, {}, max_episode_steps=5),
    Countdown(),
    UselessInput(),
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: type(environment).__name__)
def test_every_member_and_every_evaluation_meets_the_same_starts(environment: Environment) -> None:
    together, alone = starts(environment, 3, 6), starts(environment, 1, 6)
    for member in range(3):
        assert torch.equal(together[member], alone[0])
    assert alone[0].unique(dim=0).shape[0] > 1, "and its episodes differ"


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: type(environment).__name__)
def test_an_evaluator_repeats_itself(environment: Environment) -> None:
    """The whole of its episodes, whatever was evaluated between."""
    evaluator = Evaluator(environment, 2, 5, CPU)
    spec = environment.spec()
    assert spec.discrete_actions is not None

    def play(action: int) -> list[Tensor]:
        seen: list[Tensor] = []

        def act(observation: Tensor, _: slice) -> Tensor:
            seen.append(observation.clone())
            assert len(seen) < 1000, "the evaluation does not notice that all episodes are over"
            return torch.full(observation.shape[:2], action)

        evaluator(act)
        return seen

    first = play(0)
    play(1)
    again = play(0)
    evaluator.close()
    assert len(first) == len(again)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


# ---------------------------------------------------------------- in waves


def within(environment: Environment, at_once: int | None) -> Environment:
    """The same environment, of which so many may live at once."""
    environment = copy(environment)
    object.__setattr__(environment, "at_once", at_once)
    return environment


FICKLE = faulty(kind="Fickle-v0", max_episode_steps=20)


def mixed(environment: Environment, members: int, episodes: int, at_once: int | None, first: int = 0) -> Evaluation:
    """Members whose actions depend on who they are and on what they see."""

    def act(observation: Tensor, rows: slice) -> Tensor:
        who = torch.arange(rows.start, rows.stop).view(-1, *[1] * (observation.dim() - 2)) + first
        assert observation.shape[0] == rows.stop - rows.start
        return (observation[..., -1] * (1 + who) > 0).long() * (who != 2)

    with closing(Evaluator(within(environment, at_once), members, episodes, CPU)) as evaluator:
        evaluator(lambda observation, _: torch.zeros(observation.shape[:2], dtype=torch.long))  # leaves nothing behind
        return evaluator(act)


def same(one: Evaluation, other: Evaluation) -> bool:
    return (
        torch.equal(one.returns.nan_to_num(nan=123.0), other.returns.nan_to_num(nan=123.0))
        and torch.equal(one.constant_action, other.constant_action)
        and (one.failures, one.limited) == (other.failures, other.limited)
    )


@pytest.mark.parametrize("environment", [CartPole(25), Countdown(), FICKLE], ids=["CartPole", "Countdown", "Fickle"])
@given(members=st.integers(1, 4), episodes=st.integers(1, 9), at_once=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_neither_waves_nor_others_change_an_episode(
    environment: Environment, members: int, episodes: int, at_once: int
) -> None:
    """Not its return, not whether it failed and how, and not whether a limit cut it."""
    expected = mixed(environment, 4, 9, None)
    found = mixed(environment, members, episodes, at_once)
    assert torch.equal(found.returns.nan_to_num(nan=123.0), expected.returns[:members, :episodes].nan_to_num(nan=123.0))
    assert same(found, mixed(environment, members, episodes, None))
    last = mixed(environment, 1, episodes, at_once, first=members - 1)
    assert torch.equal(last.returns[0].nan_to_num(nan=123.0), found.returns[-1].nan_to_num(nan=123.0))
    assert last.failures.get(0) == found.failures.get(members - 1)


def test_the_episodes_that_waves_are_compared_on_have_all_that_can_happen() -> None:
    found = mixed(FICKLE, 4, 9, None)
    assert set(found.failures) == {0, 1, 2, 3}
    assert found.limited == {0, 1, 2, 3}
    assert found.returns.isnan().any()
    assert found.returns.isfinite().any()
    assert found.constant_action.tolist() == [False, False, True, False]


@pytest.mark.parametrize("at_once", [1, 3, 7, 12, 100])
def test_so_many_environments_live_at_once_and_none_before_or_after(at_once: int) -> None:
    """64 members with 100 episodes of Acrobot opened 6,401 environments, and kept them."""
    most = 0

    def act(observation: Tensor, _: slice) -> Tensor:
        nonlocal most
        most = max(most, len(Faulty.living))
        assert observation[..., 0].numel() <= most
        return torch.zeros(observation.shape[:2], dtype=torch.long)

    evaluator = Evaluator(faulty(at_once=at_once), 4, 5, CPU)
    assert not Faulty.living
    assert evaluator(act).returns.tolist() == [[6.0] * 5] * 4
    assert evaluator(act).returns.tolist() == [[6.0] * 5] * 4
    # 4 members with 5 episodes in waves of about the same size: 3 episodes and then 2; all 5, of one member or of two
    assert most == {1: 1, 3: 3, 7: 5, 12: 10, 100: 20}[at_once]
    evaluator.close()
    assert not Faulty.living
    evaluator.close()


@pytest.mark.parametrize(("episodes", "at_once", "shown"), [(4, 10, 4), (25, 10, 9), (10, 10, 10), (3, None, 3)])
def test_a_policy_is_shown_as_many_episodes_whoever_is_played_beside_it(episodes: int, at_once: int | None, shown: int) -> None:
    """The rounding of a product of matrices depends on their sizes: a member must return what it returns alone."""
    seen = set()

    def act(observation: Tensor, rows: slice) -> Tensor:
        seen.add(observation.shape[1])
        return torch.zeros(observation.shape[:2], dtype=torch.long)

    for members in (1, 2, 7, 20):
        with closing(Evaluator(within(Countdown(), at_once), members, episodes, CPU)) as evaluator:
            evaluator(act)
    assert seen == {shown}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_environments_are_closed_whatever_ends_an_evaluation(error: type[BaseException]) -> None:
    steps = iter(range(8))  # in the second wave

    def check_interrupt() -> None:
        if next(steps, None) is None:
            raise error

    evaluator = Evaluator(faulty(at_once=2), 1, 6, CPU, check_interrupt=check_interrupt)
    with pytest.raises(error):
        evaluator(lambda observation, _: torch.zeros(observation.shape[:2], dtype=torch.long))
    assert not Faulty.living


# ---------------------------------------------------------------- what goes wrong


def bad(fault: str | None, when: Callable[[int], Tensor], **keys: Any) -> Evaluation:
    """Two members with three episodes of six steps; ``when`` says at which step who takes the action that goes wrong."""
    steps = iter(range(100))
    with closing(Evaluator(faulty(fault, **keys), 2, 3, CPU)) as evaluator:
        return evaluator(lambda observation, _: when(next(steps)).expand(observation.shape[:2]).long())


def test_a_failure_is_a_nan_for_its_episode_and_a_sentence_for_its_member() -> None:
    only = torch.tensor([[False, False, False], [False, True, False]])
    found = bad("an exception", lambda step: only & (step == 3))
    assert found.returns.nan_to_num(nan=-1).tolist() == [[6, 6, 6], [6, -1, 6]]
    assert found.failures == {1: "Faulty-v0 failed in step 4 of an episode: RuntimeError: out of fuel"}


def test_an_environment_that_cannot_start_is_a_failure_too() -> None:
    found = bad("from the start", lambda _: torch.zeros(2, 3))
    assert found.returns.isnan().all()
    assert found.failures == dict.fromkeys((0, 1), "Faulty-v0 failed in reset: RuntimeError: cannot start")


def test_a_reward_of_nan_is_a_nan_for_its_episode_only() -> None:
    """A seed that met one failed all seeds of its population."""
    only = torch.tensor([[False, False, False], [False, True, False]])
    found = bad("nan", lambda step: only & (step == 3))
    assert found.returns.nan_to_num(nan=-1).tolist() == [[6, 6, 6], [6, -1, 6]]
    assert not found.failures


def test_what_an_environment_gives_after_its_episode_counts_for_nothing() -> None:
    """A nan was multiplied by 0, which is nan. Here one episode is longer than the others, which go wrong after their end."""
    for fault in ("nan", "an exception"):
        found = evaluate(Truth(fault), lambda observation: torch.zeros(observation.shape[:2], dtype=torch.long), 2, 4)
        assert found.returns.tolist() == [[1.0, 2.0, 3.0, 4.0]] * 2
        assert not found.failures


class Truth(Countdown):
    """Episodes of 1, 2, 3 ... steps; what follows an episode's end gives nan rewards or failures."""

    def __init__(self, fault: str) -> None:
        object.__setattr__(self, "fault", fault)

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        return VectorTruth(self, generators, envs)


class VectorTruth(VectorEnvironment):
    def __init__(self, truth: Truth, generators: Generators, envs: int) -> None:
        super().__init__(generators, envs)
        self.fault = truth.fault  # type: ignore[attr-defined]
        self.left = torch.arange(len(generators)).unsqueeze(1) % 4 + 1

    def reset(self) -> Tensor:
        return torch.zeros(*self.shape, 1)

    def step(self, action: Tensor) -> StepResult:
        self.left = self.left - 1
        after = self.left < 0
        reward = torch.where(after & (self.fault == "nan"), math.nan, 1.0)
        failures = {int(place): "oh" for place in after[:, 0].nonzero()} if self.fault != "nan" else {}
        return StepResult(self.reset(), self.reset(), reward, (self.left <= 0).float(), torch.zeros(self.shape), failures)

    def close(self) -> None:
        pass


def test_an_action_of_nan_is_a_nan_for_the_episodes_it_is_taken_in() -> None:
    """Before, the middle of the range was taken in its place, and the return was that of another policy."""
    pendulum = Gymnasium("Pendulum-v1", None, {}, max_episode_steps=4)
    steps = iter(range(4))

    def act(observation: Tensor) -> Tensor:
        torque = torch.zeros(*observation.shape[:2], 1)
        torque[1, 2] = math.nan if next(steps) == 2 else 0.0
        return torque

    found = evaluate(pendulum, act, members=2, episodes=3)
    assert found.returns.isnan().tolist() == [[False] * 3, [False, False, True]]
    assert torch.equal(found.returns[0, :2], found.returns[1, :2])


# ---------------------------------------------------------------- episodes without an end


def idle(observation: Tensor) -> Tensor:
    return torch.zeros(observation.shape[:2], dtype=torch.long)


def test_an_evaluation_ends_where_neither_policy_nor_environment_would_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank sweep of a policy that idles at low ranks went on for ever."""
    monkeypatch.setattr(gymnasium, "STEP_LIMIT", 40)
    found = evaluate(faulty(kind="Idle-v0"), idle, 2, 3)
    assert found.returns.tolist() == [[-40.0] * 3] * 2
    assert found.limited == {0, 1}


@pytest.mark.parametrize(
    ("kind", "limit", "steps", "limited"),
    [
        ("Limited-v0", None, 30, set()),  # its own
        ("Limited-v0", 30, 30, set()),  # the same
        ("Limited-v0", 12, 12, {0}),
        ("Limited-v0", 45, 45, {0}),
        ("Idle-v0", 12, 12, {0}),
    ],
)
def test_whose_limit_cuts_an_episode_is_known(kind: str, limit: int | None, steps: int, limited: set[int]) -> None:
    found = evaluate(faulty(kind=kind, max_episode_steps=limit), idle, 1, 2)
    assert found.returns.tolist() == [[-float(steps)] * 2]
    assert found.limited == limited


@pytest.mark.parametrize(("limit", "limited"), [(500, set()), (30, {0, 1}), (600, {0, 1})])
def test_cartpole_has_a_limit_of_its_own(limit: int, limited: set[int]) -> None:
    def balance(observation: Tensor) -> Tensor:  # also keeps the cart on its rails
        lean = observation[..., 2] + 0.3 * observation[..., 3] + 0.1 * observation[..., 0] + 0.2 * observation[..., 1]
        return (lean > 0).long()

    found = evaluate(CartPole(limit), balance, 2, 3)
    assert found.returns.tolist() == [[float(limit)] * 3] * 2
    assert found.limited == limited


def test_an_episode_that_ends_at_its_limit_by_itself_was_not_cut() -> None:
    assert not evaluate(faulty(max_episode_steps=6), idle, 1, 2).limited
    assert evaluate(faulty(max_episode_steps=5), idle, 1, 2).limited


# ---------------------------------------------------------------- a policy that does not look


def test_a_policy_is_constant_if_it_never_takes_another_action() -> None:
    def act(observation: Tensor) -> Tensor:
        action = torch.zeros(observation.shape[:2], dtype=torch.long)
        action[1] = 1  # another one than member 0's, but always that one
        action[2, 3] = 1  # not the same in all episodes
        return action

    assert evaluate(ConstantReward(), act, members=3).constant_action.tolist() == [True, True, False]


def test_one_other_action_in_the_last_step_of_one_episode_counts() -> None:
    first = starts(Countdown(), 1, 50)[0, :, 0]
    longest = int(first.argmax())
    steps = iter(range(3))

    def act(observation: Tensor) -> Tensor:
        action = torch.zeros(1, 50, dtype=torch.long)
        action[0, longest] = int(next(steps) == 2)
        return action

    assert evaluate(Countdown(), act, episodes=50).constant_action.tolist() == [False]


def test_a_policy_may_hand_out_one_tensor_again_and_again() -> None:
    action, steps = torch.zeros(1, 50, dtype=torch.long), iter(range(3))
    assert evaluate(Countdown(), lambda _: action.fill_(next(steps) % 2), episodes=50).constant_action.tolist() == [False]


def test_what_is_done_after_an_episodes_end_does_not_count() -> None:
    first = starts(Countdown(), 1, 50)[..., 0]
    steps = iter(range(3))
    assert evaluate(Countdown(), lambda _: (next(steps) >= first).long(), episodes=50).constant_action.tolist() == [True]


def test_actions_that_are_vectors_are_compared_whole() -> None:
    pendulum = Gymnasium("Pendulum-v1", None, {}, max_episode_steps=3)
    steps = iter(range(100))

    def act(observation: Tensor) -> Tensor:
        torque = torch.full((*observation.shape[:2], 1), 0.5)
        torque[1] += 0.1 * next(steps)
        return torque

    assert evaluate(pendulum, act, members=2).constant_action.tolist() == [True, False]


# ---------------------------------------------------------------- the random policy


def test_random_returns_are_those_of_coin_tosses_and_always_the_same() -> None:
    returns = random_returns(RewardByAction(), 2000)
    assert returns.shape == (2000,)
    assert set(returns.unique().tolist()) == {-1.0, 1.0}
    # mean 0 with a standard error of 1 / sqrt(2000) = 0.022; five of them
    assert returns.mean().abs() < 0.112
    assert torch.equal(random_returns(RewardByAction(), 2000), returns)


def test_random_returns_are_measured_on_the_evaluations_own_episodes() -> None:
    assert torch.equal(random_returns(RewardByObservation(), 30), starts(RewardByObservation(), 1, 30)[0, :, 0].double())


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_random_returns_do_not_depend_on_waves(at_once: int) -> None:
    for environment in (RewardByAction(), FICKLE, CartPole(500)):
        expected = random_returns(environment, 8).nan_to_num(nan=123.0)
        assert torch.equal(random_returns(within(environment, at_once), 8).nan_to_num(nan=123.0), expected)
        assert expected.unique().numel() > 1, "and episodes differ"


def test_random_returns_of_other_episodes_are_others() -> None:
    assert not torch.equal(random_returns(CartPole(500), 8), random_returns(CartPole(500), 8, CONFIRMATION))


def test_random_torques_are_played_too(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, step = iter(range(5)), VectorGymnasium.step  # five steps are all that there are
    monkeypatch.setattr(VectorGymnasium, "step", lambda self, action: (next(steps), step(self, action))[1])
    returns = random_returns(Gymnasium("Pendulum-v1", None, {}, max_episode_steps=5), 4)
    # a step costs at most pi^2 + 0.1 * 8^2 + 0.001 * 2^2 = 16.3
    assert ((returns < 0) & (returns > -5 * 16.3)).all()
