"""DQN and double DQN, worked by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.double_dqn import DoubleDQN
from sparserl.algorithms.dqn import DQN
from sparserl.networks.mlp import MLP
from sparserl.optimizers import Adam
from sparserl.policies import q_values
from sparserl.population.members import Population
from sparserl.schedules import Constant, Linear
from sparserl.types import Batch, Spec, Time, Weights

# ---------------------------------------------------------------- an example worked by hand

# Two states, A and B, seen as (1, 0) and (0, 1): in a linear network without bias a state's values are a row of weights
#                online network Q        target network Q'
#                a = 0    a = 1          a = 0    a = 1
#   A              1        2              0        0
#   B              5        4             10       20
A, B = [1.0, 0.0], [0.0, 1.0]
ONLINE, TARGET = [[1.0, 2.0], [5.0, 4.0]], [[0.0, 0.0], [10.0, 20.0]]
DISCOUNT = 0.5


def dqn(kind: type[DQN] = DQN, **changes: Any) -> DQN:
    values: dict[str, Any] = {
        "network": MLP(hidden=[], activation="relu"),
        "gamma": DISCOUNT,
        "learning_rate": Constant(0.1),
        "loss": "mse",
        "epsilon": Constant(0.0),
        "target_update_interval": 1,
        "tau": 1.0,
        "max_grad_norm": None,
        "optimizer": Adam(),
    }
    return kind(**(values | changes))


def objective(algorithm: DQN, weights: Weights, batch: Batch) -> Objective:
    """Nothing in it is random."""
    members = Population(tuple(range(len(batch["reward"]))))
    return algorithm.losses(weights, weights, batch, Time(1, 0, 0), members.rng("update"))["policy"]


def linear(weight: list[list[float]]) -> dict[str, Tensor]:
    return {"0.weight": torch.tensor([weight]), "0.bias": torch.zeros(1, 1, len(weight[0]))}


def example(**changes: list[float]) -> tuple[Weights, Batch]:
    """One row: from A by action 0 with reward 1 to B, going on."""
    values = {"observation": A, "next_observation": B, "reward": 1.0, "terminated": 0.0, "truncated": 0.0}
    batch = {name: torch.tensor([[value]]) for name, value in (values | changes).items() if name != "action"}
    return {"policy": linear(ONLINE), "target_policy": linear(TARGET)}, batch | {
        "action": torch.tensor([[changes.get("action", 0)]])
    }


@pytest.mark.parametrize(
    ("kind", "changes", "target", "value"),
    [
        # DQN: the target network's best at B is 20: 1 + 0.5 * 20 = 11; the online value of A, 0 is 1
        (DQN, {}, 11.0, 1.0),
        # double DQN: the online network prefers action 0 at B (5 > 4), the target network says 10 to it: 1 + 0.5 * 10
        (DoubleDQN, {}, 6.0, 1.0),
        # the other action has the online value 2, and the same target
        (DQN, {"action": 1}, 11.0, 2.0),
        (DoubleDQN, {"action": 1}, 6.0, 2.0),
        # after a termination there is nothing: the reward is all
        (DQN, {"terminated": 1.0}, 1.0, 1.0),
        (DoubleDQN, {"terminated": 1.0}, 1.0, 1.0),
        # a truncated episode would have gone on, so its target is the one of going on
        (DQN, {"truncated": 1.0}, 11.0, 1.0),
        (DoubleDQN, {"truncated": 1.0}, 6.0, 1.0),
        # terminated in the very step in which time was up: it is over
        (DQN, {"terminated": 1.0, "truncated": 1.0}, 1.0, 1.0),
        # after two steps, by an experience that adds up their rewards
        (DQN, {"discount": 0.25}, 6.0, 1.0),
        (DoubleDQN, {"discount": 0.25}, 3.5, 1.0),
        # from B to A: both networks are indifferent or prefer what is worth 0
        (DQN, {"observation": B, "next_observation": A}, 1.0, 5.0),
        (DoubleDQN, {"observation": B, "next_observation": A}, 1.0, 5.0),
    ],
)
def test_the_td_error_by_hand(kind: type[DQN], changes: dict[str, Any], target: float, value: float) -> None:
    weights, batch = example(**changes)
    found = objective(dqn(kind), weights, batch)
    assert found.updates == ("policy",)
    assert found.loss.tolist() == [(target - value) ** 2]
    assert found.metrics["td_error"].tolist() == [abs(target - value)]
    assert found.metrics["q_value"].tolist() == [value]
    # Huber (1964) with its corner at 1: square/2 within, |error| - 1/2 beyond
    error = abs(target - value)
    huber = objective(dqn(kind, loss="huber"), weights, batch).loss
    assert huber.tolist() == [error**2 / 2 if error <= 1 else error - 0.5]


@pytest.mark.parametrize(("kind", "target"), [(DQN, 6.0), (DoubleDQN, 11.0)])
def test_the_next_action_is_chosen_without_noise_and_valued_with_it(kind: type[DQN], target: float) -> None:
    """Without noise the target network prefers action 0 at B and the online network action 1, the reverse of what they do
    with it; with noise the target network says 10 and 20 to them: 1 + 0.5 * 10 for DQN, 1 + 0.5 * 20 for double DQN."""
    weights, batch = example()
    noise_free = {"policy": linear([[1.0, 2.0], [4.0, 5.0]]), "target_policy": linear([[0.0, 0.0], [20.0, 10.0]])}
    found = dqn(kind).losses(weights, noise_free, batch, Time(1, 0, 0), Population((0,)).rng("update"))["policy"]
    assert found.metrics["td_error"].tolist() == [target - 1]


def test_a_small_error_is_squared_by_huber_too() -> None:
    # the target network says 0 everywhere, so the target is the reward, 1; the online value is 0.5
    weights, batch = example()
    weights = {"policy": linear([[0.5, 2.0], [5.0, 4.0]]), "target_policy": linear([[0.0, 0.0], [0.0, 0.0]])}
    assert objective(dqn(loss="huber"), weights, batch).loss.tolist() == [0.125]
    assert objective(dqn(loss="mse"), weights, batch).loss.tolist() == [0.25]


def test_a_loss_is_the_mean_over_the_batch_of_each_member() -> None:
    # member 0: errors 10 (going on) and 0 (ended), so (100 + 0) / 2; member 1: 9 (action 1) and 10, so (81 + 100) / 2
    (weights, going), (_, ended), (_, other) = example(), example(terminated=1.0), example(action=1)
    two = {c: {name: torch.cat([t, t]) for name, t in layers.items()} for c, layers in weights.items()}
    batch = {
        name: torch.cat([torch.cat([going[name], ended[name]], dim=1), torch.cat([other[name], going[name]], dim=1)])
        for name in going
    }
    assert objective(dqn(), two, batch).loss.tolist() == [50.0, 90.5]


@pytest.mark.parametrize("kind", [DQN, DoubleDQN])
def test_targets_are_constants(kind: type[DQN]) -> None:
    """Only the value of the action that was taken is moved: d(11 - w)^2 / dw = -20 at w = 1, -10 for double DQN's 6."""
    weights, batch = example()
    weights = {c: {name: tensor.requires_grad_() for name, tensor in layers.items()} for c, layers in weights.items()}
    loss = objective(dqn(kind), weights, batch).loss.sum()
    loss.backward()
    assert weights["policy"]["0.weight"].grad.tolist() == [[[-20.0 if kind is DQN else -10.0, 0.0], [0.0, 0.0]]]
    assert weights["target_policy"]["0.weight"].grad is None


# ---------------------------------------------------------------- targets


def flat(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the learner gives it."""
    return {"": torch.cat([tensor.flatten(1) for tensor in layers.values()], dim=1)}


def test_a_hard_target_is_copied_every_so_many_environment_steps() -> None:
    algorithm, (weights, _) = dqn(target_update_interval=3, tau=1.0), example()
    raw = {component: flat(layers) for component, layers in weights.items()}
    for step in range(1, 10):
        changed = algorithm.update_targets(raw, Time(step, step - 1, step))
        assert changed.keys() == ({"target_policy"} if step in (3, 6, 9) else set())
        if changed:
            assert changed["target_policy"].keys() == {""}
            assert torch.equal(changed["target_policy"][""], raw["policy"][""])
    # a copy: what is learned afterwards must not show in it
    before = raw["policy"][""].tolist()
    raw["policy"][""] += 1
    assert changed["target_policy"][""].tolist() == before


@pytest.mark.parametrize(
    ("train_freq", "interval", "expected"),
    [
        # a gradient step every 10 environment steps: an interval of 10 is every one of them, of 20 every second
        (10, 10, [10, 20, 30, 40, 50, 60]),
        (10, 20, [20, 40, 60]),
        # 25, 50: an update is due at the first gradient step at or after each multiple
        (10, 25, [30, 50]),
        # several multiples between two gradient steps are one update
        (10, 3, [10, 20, 30, 40, 50, 60]),
        # several gradient steps at one environment step (below): the first of them
        (0, 10, [10]),
    ],
)
def test_target_updates_are_counted_in_environment_steps(train_freq: int, interval: int, expected: list[int]) -> None:
    algorithm, (weights, _) = dqn(target_update_interval=interval), example()
    raw = {component: flat(layers) for component, layers in weights.items()}
    steps = [0, *range(train_freq, 61, train_freq)] if train_freq else [0, 10, 10, 10]
    due = [now for before, now in pairwise(steps) if algorithm.update_targets(raw, Time(now, before, 0))]
    assert due == expected


def test_a_soft_target_moves_by_its_rate() -> None:
    weights, _ = example()
    raw = {component: flat(layers) for component, layers in weights.items()}
    # a quarter of the way: from 0 to 1 and from 0 to 2 at A, from 10 to 5 and from 20 to 4 at B
    moved = dqn(tau=0.25).update_targets(raw, Time(1, 0, 0))["target_policy"][""]
    assert moved[:, :4].tolist() == [[0.25, 0.5, 8.75, 16.0]]
    assert raw["target_policy"][""][:, :4].tolist() == [[0.0, 0.0, 10.0, 20.0]]


# ---------------------------------------------------------------- acting


def test_the_deterministic_action_is_the_action_of_the_highest_value() -> None:
    weights, _ = example()
    assert dqn().deterministic_action(weights, torch.tensor([[A, B]])).tolist() == [[1, 0]]


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_frequencies(epsilon: float) -> None:
    """Of four actions, each has a probability of epsilon / 4, and the greedy one 1 - epsilon more."""
    draws = 40_000
    uniforms = Population((0,)).generators("exploration").uniform(draws, 2)
    actions = q_values.epsilon_greedy(torch.tensor([0.1, -2.0, 0.9, 0.3]).expand(1, draws, 4), epsilon, uniforms)
    for action, share in enumerate(torch.bincount(actions.flatten(), minlength=4) / draws):
        expected = epsilon / 4 + (1 - epsilon if action == 2 else 0)
        # five standard errors: missed by chance in one of two million
        assert abs(share - expected) <= 5 * (expected * (1 - expected) / draws) ** 0.5


def test_whether_and_where_to_explore_are_independent() -> None:
    """One number for both would explore with the first actions only."""
    weights, draws = {"policy": linear([[0.0, 0.0, 0.0, 1.0], [0.0] * 4])}, 20_000
    algorithm = dqn(epsilon=Constant(0.1))
    members = Population((0,))
    observation = torch.tensor(A).expand(1, draws, 2)
    actions = algorithm.act(weights, observation, 0, members.rng("exploration")).action
    for share in torch.bincount(actions.flatten(), minlength=4)[:3] / draws:
        # 0.1 / 4 each, with a standard error of 0.0011; five of them
        assert abs(share - 0.025) < 0.0055


def test_epsilon_follows_its_schedule_by_environment_steps() -> None:
    weights, draws = {"policy": linear([[0.0, 1.0], [0.0, 0.0]])}, 10_000
    algorithm, rng = dqn(epsilon=Linear(1.0, 0.0, steps=100)), Population((0,)).rng("exploration")
    observation = torch.tensor(A).expand(1, draws, 2)
    for step, epsilon in [(0, 1.0), (50, 0.5), (90, 0.1), (100, 0.0), (1000, 0.0)]:
        share = algorithm.act(weights, observation, step, rng).action.eq(0).float().mean()
        # half of the random actions are 0; five standard errors
        assert abs(share - epsilon / 2) <= 5 * (epsilon / 2 * (1 - epsilon / 2) / draws) ** 0.5


def test_members_and_sub_environments_explore_by_themselves() -> None:
    weights = {"policy": {name: tensor.expand(3, -1, -1) for name, tensor in linear([[0.0] * 4, [0.0] * 4]).items()}}
    algorithm, members = dqn(epsilon=Constant(1.0)), Population((5, 6, 7))
    actions = algorithm.act(weights, torch.zeros(3, 40, 2), 0, members.rng("exploration")).action
    assert actions.shape == (3, 40)
    # two members would take the same 40 of 4 actions with a chance of 4^-40
    assert len({tuple(row) for row in actions.tolist()}) == 3
    alone = {"policy": linear([[0.0] * 4, [0.0] * 4])}
    solo = algorithm.act(alone, torch.zeros(1, 40, 2), 0, Population((6,)).rng("exploration")).action
    assert torch.equal(actions[1:2], solo)


def test_action_values_need_discrete_actions() -> None:
    with pytest.raises(ValueError, match="discrete"):
        dqn().bind(Spec((3,), None, (-1.0,), (1.0,)))
