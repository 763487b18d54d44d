from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
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

from sparserl.environments.base import Environment
from sparserl.environments.cartpole import CartPole
from sparserl.environments.gymnasium import Gymnasium, VectorGymnasium
from sparserl.training.evaluation import Evaluation, Evaluator, random_returns

CPU = torch.device("cpu")


def evaluate(environment: Environment, act: Callable[[Tensor], Tensor], members: int = 1, episodes: int = 8) -> Evaluation:
    evaluator, steps = Evaluator(environment, members, episodes, CPU), iter(range(1000))

    def bounded(observation: Tensor) -> Tensor:
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


# ---------------------------------------------------------------- the same episodes

ENVIRONMENTS: list[Environment] = [
    CartPole(20),
    Gymnasium("Acrobot-v1", None, {"max_episode_steps": 5}),
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

        def act(observation: Tensor) -> Tensor:
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
    pendulum = Gymnasium("Pendulum-v1", None, {"max_episode_steps": 3})
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


def test_random_torques_are_played_too(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, step = iter(range(5)), VectorGymnasium.step  # five steps are all that there are
    monkeypatch.setattr(VectorGymnasium, "step", lambda self, action: (next(steps), step(self, action))[1])
    returns = random_returns(Gymnasium("Pendulum-v1", None, {"max_episode_steps": 5}), 4)
    # a step costs at most pi^2 + 0.1 * 8^2 + 0.001 * 2^2 = 16.3
    assert ((returns < 0) & (returns > -5 * 16.3)).all()
