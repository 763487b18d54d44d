"""What environments show becomes one array, and goal environments say what was achieved and what that would have been worth."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any, get_args

import gymnasium
import numpy as np
import pytest
import torch
from goals import LENGTH, goals
from gymnasium import spaces
from torch import Tensor

from sparserl.environments.base import Environment, StepResult
from sparserl.environments.cartpole import CartPole
from sparserl.environments.gymnasium import Gymnasium
from sparserl.environments.observations import as_array
from sparserl.environments.vectors import Vectorization
from sparserl.population.members import Population
from sparserl.training.evaluation import EVALUATION, Evaluator, episode_generators
from sparserl.types import Spec

BOX = spaces.Box(-9, 9, (2,))


class Shows(gymnasium.Env[Any, Any]):
    """Shows the same thing in every step."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any], shown: Any) -> None:
        self.observation_space, self.shown = space, shown

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.shown, {}

    def step(self, action: Any) -> Any:
        return self.shown, 0.0, False, False, {"achieved_goal": "of no goal environment", "is_success": "?"}


gymnasium.register("Shows-v0", entry_point=Shows, disable_env_checker=True)


def shows(space: spaces.Space[Any], shown: Any) -> Gymnasium:
    return Gymnasium("Shows-v0", None, {"space": space, "shown": shown})


# ---------------------------------------------------------------- one array


@pytest.mark.parametrize(
    ("space", "shown", "expected"),
    [
        # Gymnasium sorts the keys of a plain dictionary when it makes the space
        (spaces.Dict({"b": BOX, "a": spaces.Box(0, 1, (1, 2))}), {"b": [3, 4], "a": [[1, 0.5]]}, [1, 0.5, 3, 4]),
        (spaces.Dict([("b", BOX), ("a", BOX)]), {"a": [1, 2], "b": [3, 4]}, [3, 4, 1, 2]),
        (spaces.Dict({"o": spaces.Dict({"y": BOX, "x": BOX}), "z": BOX}), {"o": {"x": [1, 2], "y": [3, 4]}, "z": [5, 6]},
         [1, 2, 3, 4, 5, 6]),
        (spaces.Dict({"a": spaces.Discrete(3), "b": spaces.MultiBinary(2)}), {"a": 2, "b": [1, 0]}, [0, 0, 1, 1, 0]),
        (spaces.Dict({"hand": spaces.MultiDiscrete([2, 3])}), {"hand": [1, 0]}, [0, 1, 1, 0, 0]),
        (spaces.Discrete(3, start=5), 6, [0, 1, 0]),
        (spaces.MultiBinary(2), [0, 1], [0, 1]),
        # a vector of numbers from 0 to 255 among others is no image
        (spaces.Dict({"a": spaces.Box(0, 255, (2,), np.uint8)}), {"a": [255, 0]}, [255, 0]),
    ],
    ids=["keys", "order of the keys", "nested", "one-hot", "several", "discrete", "binary", "bytes"],
)  # fmt: skip
def test_an_observation_becomes_one_vector(space: spaces.Space[Any], shown: Any, expected: list[float]) -> None:
    environment = shows(space, shown)
    assert environment.spec() == Spec((len(expected),), discrete_actions=2, max_episode_steps=10_000)
    with closing(environment.open(Population((0, 1)).generators("environment"), 2)) as vector:
        first = vector.reset()
        outcome = vector.step(torch.zeros(2, 2, dtype=torch.long))
    assert torch.equal(first, torch.tensor(expected, dtype=torch.float32).expand(2, 2, -1))
    assert torch.equal(outcome.observation, first)
    assert first.dtype == torch.float32
    assert not outcome.extras


def test_arrays_stay_as_they_are() -> None:
    for space in (BOX, spaces.Box(0, 255, (4, 4, 3), np.uint8)):
        env = Shows(space, space.sample())
        assert as_array(env) is env


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([BOX, BOX]),
        spaces.Text(5),
        spaces.Sequence(BOX),
        spaces.Graph(BOX, None),
        spaces.Dict({"a": BOX, "b": spaces.Tuple([BOX])}),
        spaces.Dict({"a": BOX, "b": spaces.Dict({"c": spaces.Text(5)})}),
        spaces.Dict({}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_whatever_else_is_shown_is_refused_in_one_sentence(space: spaces.Space[Any]) -> None:
    with pytest.raises(
        ValueError, match=r"the observations of Shows-v0 are .*; arrays \(Box\), discrete ones or a Dict"
    ) as caught:
        shows(space, None).spec()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("shown", [{}, {"a": 1, "b": 7}, {"a": 3, "b": [1.0, 2.0]}, {"a": 1, "b": "x"}, None])
def test_an_observation_that_is_not_of_its_space_is_a_failure_of_its_environment(shown: Any) -> None:
    environment = shows(spaces.Dict({"a": spaces.Discrete(3), "b": BOX}), shown)
    with closing(environment.open(Population((0,)).generators("environment"), 1)) as vector:
        vector.reset()
        (sentence,) = vector.step(torch.zeros(1, 1, dtype=torch.long)).failures.values()
    assert sentence.startswith("Shows-v0 failed in reset: ")


# ---------------------------------------------------------------- goals

LINE_SPEC = Spec((5,), discrete_actions=3, max_episode_steps=10_000, goal_size=2)


def play(environment: Environment, steps: int = 2 * LENGTH + 3, fault_at: int | None = None) -> tuple[Tensor, list[StepResult]]:
    """Two members with two sub-environments: the first member's go right, the second's left. The last one may fail."""
    action = torch.tensor([[1, 1], [0, 0]])
    with closing(environment.open(Population((1, 2)).generators("environment"), 2)) as vector:
        first, outcomes = vector.reset(), []
        for step in range(steps):
            fault = torch.tensor([[0, 0], [0, 2 * (step == fault_at)]])
            outcomes.append(vector.step(action + fault))
    return first, outcomes


def test_a_goal_environment_shows_the_observation_and_the_desired_goal() -> None:
    assert goals().spec() == LINE_SPEC
    first, outcomes = play(goals())
    # position 0, not moved (one-hot), then the goal: (-2 or 1 or 3, 10)
    assert (first[..., :3] == torch.tensor([0, 1, 0])).all()
    assert set(first[..., 3].unique().tolist()) <= {-2, 1, 3}
    assert (first[..., 4] == 10).all()
    assert (outcomes[0].next_observation[..., :3] == torch.tensor([[[1.0, 0, 1]], [[-1.0, 0, 1]]])).all()
    assert torch.equal(outcomes[0].next_observation[..., 3:], first[..., 3:])


def test_extras_are_what_was_achieved_also_at_the_end_of_an_episode() -> None:
    for step, outcome in enumerate(play(goals())[1]):
        assert (outcome.extras.keys(), outcome.measures.keys()) == ({"achieved_goal"}, {"success_rate"})
        moved = step % LENGTH + 1.0
        expected = torch.tensor([[moved, 10], [-moved, 10]]).unsqueeze(1).expand(2, 2, 2)
        assert torch.equal(outcome.extras["achieved_goal"], expected)
        assert bool(outcome.truncated.all()) == (step % LENGTH == LENGTH - 1)
        reached = outcome.extras["achieved_goal"][..., 0] == outcome.next_observation[..., 3]
        assert torch.equal(outcome.measures["success_rate"], reached.float())
        assert torch.equal(outcome.reward, reached.float() - 1)


@pytest.mark.parametrize(("key", "known"), [("is_success", True), ("success", True), (None, False)])
def test_success_is_what_info_says_or_unknown(key: str | None, known: bool) -> None:
    success = torch.stack([outcome.measures["success_rate"] for outcome in play(goals(arguments={"success": key}))[1]])
    assert bool(success.isnan().all()) is not known
    assert known == (0 < success.nanmean() < 1)


@pytest.mark.parametrize("how", get_args(Vectorization))
def test_however_steps_are_taken_extras_are_the_same_and_a_failure_leaves_those_of_others(how: Vectorization) -> None:
    expected, outcomes = play(goals())[1], play(goals(vectorization=how), fault_at=2)[1]
    assert {step: [*outcome.failures] for step, outcome in enumerate(outcomes) if outcome.failures} == {2: [1]}
    for step, (outcome, other) in enumerate(zip(outcomes, expected, strict=True)):
        for name, values in (other.extras | other.measures).items():
            assert torch.equal((outcome.extras | outcome.measures)[name][0], values[0])
        if step >= 2:
            assert (outcome.extras["achieved_goal"][1, 1] == 0).all()
            assert outcome.measures["success_rate"][1, 1].isnan()


def test_a_single_environment_shows_what_members_see() -> None:
    class Alone(Gymnasium):
        def make(self, render_mode: str | None = None) -> Any:
            return super().make()  # there is nothing to draw

    first, _ = Alone("Line-v0", None, {}).single(episode_generators(EVALUATION), "rgb_array").reset()
    with closing(Evaluator(goals(), 1, 1, torch.device("cpu"))) as evaluator:
        shown: list[Tensor] = []
        evaluator(lambda seen, _: shown.append(seen) or torch.ones(1, 1, dtype=torch.long))  # type: ignore[func-returns-value]
    assert torch.equal(torch.as_tensor(first, dtype=torch.float32), shown[0][0, 0])


@pytest.mark.parametrize("keys", [("observation", "achieved_goal"), ("observation", "achieved_goal", "desired_goal", "more")])
def test_other_keys_are_an_ordinary_dictionary(keys: tuple[str, ...]) -> None:
    spec = shows(spaces.Dict(dict.fromkeys(keys, BOX)), {key: [0, 0] for key in keys}).spec()
    assert (spec.observation_shape, spec.goal_size) == ((2 * len(keys),), None)


def test_without_compute_reward_there_are_no_goals() -> None:
    keys = ("observation", "achieved_goal", "desired_goal")
    assert shows(spaces.Dict(dict.fromkeys(keys, BOX)), None).spec().goal_size is None


# ---------------------------------------------------------------- relabelling


@pytest.mark.parametrize("kind", ["Line-v0", "EndingLine-v0", "ScalarLine-v0"])
def test_relabelling_gives_what_the_environment_gave(kind: str) -> None:
    environment = goals(kind)
    outcomes = play(environment)[1]
    achieved = torch.stack([outcome.extras["achieved_goal"] for outcome in outcomes])
    desired = torch.stack([outcome.next_observation[..., -2:] for outcome in outcomes])
    reward, terminated = environment.relabel(achieved, desired)
    assert torch.equal(reward, torch.stack([outcome.reward for outcome in outcomes]))
    assert torch.equal(terminated, torch.stack([outcome.terminated for outcome in outcomes]))
    assert reward.dtype == terminated.dtype == torch.float32
    assert len(reward.unique()) == 2
    assert bool(terminated.any()) == (kind != "Line-v0")
    # each goal by itself, and one that was achieved
    for row in ((0, 0, 0), (1, 0, 1), (3, 1, 1)):
        assert environment.relabel(achieved[row], desired[row]) == (reward[row], terminated[row])
        assert environment.relabel(achieved[row], achieved[row]) == (0, float(kind != "Line-v0"))


@pytest.mark.parametrize("environment", [CartPole(500), Gymnasium("Acrobot-v1", None, {})], ids=["CartPole", "Acrobot"])
def test_without_goals_there_is_nothing_to_relabel(environment: Environment) -> None:
    with pytest.raises(ValueError, match="has no goals"):
        environment.relabel(torch.zeros(1, 2), torch.zeros(1, 2))


def test_the_size_of_goals_is_kept_with_a_policy() -> None:
    assert Spec.from_json(LINE_SPEC.as_json()) == LINE_SPEC
    assert Spec.from_json(CartPole(500).spec().as_json()).goal_size is None


# ---------------------------------------------------------------- FetchReach


def test_fetch_reach() -> None:
    pytest.importorskip("gymnasium_robotics")
    environment = Gymnasium("gymnasium_robotics:FetchReach-v4", "robotics", {})
    spec = environment.spec()
    assert (spec.observation_shape, spec.goal_size, spec.max_episode_steps) == ((13,), 3, 50)
    assert (spec.action_low, spec.action_high) == ((-1.0,) * 4, (1.0,) * 4)
    with closing(environment.open(Population((0, 1)).generators("environment"), 2)) as vector:
        observation, outcomes = vector.reset(), []
        for _ in range(50):
            # the hand moves by 3 cm a step where the action is 1, and stops where it is 0: straight to the goal
            action = torch.zeros(2, 2, 4)
            action[..., :3] = ((observation[..., -3:] - observation[..., :3]) * 10).clamp(-1, 1)
            outcomes.append(vector.step(action))
            observation = outcomes[-1].next_observation
    success = torch.stack([outcome.measures["success_rate"] for outcome in outcomes])
    assert (success[0] == 0).all()
    assert (success[-1] == 1).all()
    assert bool(outcomes[-1].truncated.all())
    achieved = torch.stack([outcome.extras["achieved_goal"] for outcome in outcomes])
    desired = torch.stack([outcome.next_observation[..., -3:] for outcome in outcomes])
    # to be within 5 cm is a success and worth 0
    assert torch.equal(success, ((achieved - desired).norm(dim=-1) < 0.05).float())
    reward, terminated = environment.relabel(achieved, desired)
    assert torch.equal(reward, success - 1)
    assert torch.equal(reward, torch.stack([outcome.reward for outcome in outcomes]))
    assert not terminated.any()
    assert not math.isnan(float(success.sum()))
