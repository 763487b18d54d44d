"""The contract, for every algorithm that is found; then the arithmetic of DQN and double DQN, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parts import modules, parts
from torch import Tensor

from sparserl.algorithms.double_dqn import DoubleDQN
from sparserl.algorithms.dqn import DQN
from sparserl.config.schema import ConfigError
from sparserl.networks.mlp import MLP
from sparserl.policies import q_values
from sparserl.population.members import Population
from sparserl.schedules import Constant, Linear
from sparserl.training.trainer import Parts
from sparserl.types import Batch, Spec, Weights

NAMES = modules("algorithms")


def parts_of(name: str) -> Parts:
    """Three members in the first environment that fits, with a network whose sizes fill no vector register evenly."""
    for environment in ("cartpole", "pendulum"):
        try:
            return parts(f"algorithm={name}", f"environment={environment}", "network.hidden=[13,7]", members=3)
        except ConfigError:  # its actions are of the other kind
            continue
    raise AssertionError(f"no environment here has actions for {name}")


def recorded(given: Parts, weights: Weights, steps: int = 6, envs: int = 5) -> Batch:
    """One batch of what a trainer would record: several steps of all sub-environments, one after the other."""
    vector = given.environment.open(given.members.generators("environment"), envs)
    uniforms, observation, transitions = given.members.uniforms("exploration"), vector.reset(), []
    for step in range(steps):
        action = given.algorithm.act(weights, observation, step, uniforms)
        outcome = vector.step(action.action)
        transitions.append(
            {
                "observation": observation,
                "next_observation": outcome.next_observation,
                "reward": outcome.reward,
                "terminated": outcome.terminated,
                "truncated": outcome.truncated,
                "action": action.action,
                **action.extras,
            }
        )
        observation = outcome.observation
    vector.close()
    batch = {name: torch.cat([transition[name] for transition in transitions], dim=1) for name in transitions[0]}
    return given.algorithm.prepare(weights, batch)


def require_gradients(weights: Weights) -> Weights:
    return {c: {name: tensor.clone().requires_grad_() for name, tensor in layers.items()} for c, layers in weights.items()}


# ---------------------------------------------------------------- the contract


@pytest.fixture(params=NAMES)
def given(request: pytest.FixtureRequest) -> Parts:
    return parts_of(request.param)


def test_the_folder_is_read() -> None:
    assert {"dqn", "double_dqn"} <= set(NAMES)


def test_every_learned_component_has_a_loss_for_each_member(given: Parts) -> None:
    algorithm = given.algorithm
    weights = algorithm.init(given.environment.spec(), given.members)
    assert "policy" in weights
    assert algorithm.learning_rates.keys() <= weights.keys()
    gated = require_gradients(weights)
    losses = algorithm.losses(gated, gated, recorded(given, weights), step=1)
    assert losses
    assert losses.keys() <= algorithm.learning_rates.keys()
    for loss, metrics in losses.values():
        assert loss.shape == (3,)
        assert loss.isfinite().all()
        assert loss.requires_grad
        assert all(value.shape == (3,) and not value.requires_grad for value in metrics.values())


def test_a_members_loss_is_made_of_its_own_weights_and_data(given: Parts) -> None:
    weights = require_gradients(given.algorithm.init(given.environment.spec(), given.members))
    batch = recorded(given, given.algorithm.init(given.environment.spec(), given.members))
    floating = {name: value.clone().requires_grad_() for name, value in batch.items() if value.is_floating_point()}
    for component, (loss, _) in given.algorithm.losses(weights, weights, batch | floating, step=1).items():
        sources = [*weights[component].values(), *floating.values()]
        for gradient in torch.autograd.grad(loss[1], sources, retain_graph=True, allow_unused=True):
            if gradient is not None:
                assert (gradient[[0, 2]] == 0).all()
        own = torch.autograd.grad(loss[1], list(weights[component].values()), retain_graph=True)
        assert all((gradient[1] != 0).any() for gradient in own)


def test_other_members_change_nothing_about_a_member(given: Parts) -> None:
    """Also what no gradient shows: targets, advantages, choices of actions."""
    algorithm = given.algorithm
    weights = algorithm.init(given.environment.spec(), given.members)
    batch = recorded(given, weights)
    other_weights = {c: {n: t.clone() for n, t in layers.items()} for c, layers in weights.items()}
    other_batch = {name: value.clone() for name, value in batch.items()}
    for tensor in (t for layers in other_weights.values() for t in layers.values()):
        tensor[1] = 2 * tensor[1].flip(0) + 0.1
    for value in other_batch.values():
        value[1] = value[1].flip(0)
    before, after = (algorithm.losses(w, w, b, 1) for w, b in ((weights, batch), (other_weights, other_batch)))
    for component, (loss, _) in before.items():
        torch.testing.assert_close(loss[[0, 2]], after[component][0][[0, 2]])
        assert not torch.isclose(loss[1], after[component][0][1])
    observation = batch["observation"]
    greedy, other = (algorithm.greedy(w, observation) for w in (weights, other_weights))
    torch.testing.assert_close(greedy[[0, 2]], other[[0, 2]])


def test_targets_start_as_copies_and_only_state_is_changed_after_a_step(given: Parts) -> None:
    weights = given.algorithm.init(given.environment.spec(), given.members)
    state = weights.keys() - given.algorithm.learning_rates.keys()
    for component in state:
        followed = weights.get(component.removeprefix("target_"), {}) if component.startswith("target_") else {}
        for name, learned in followed.items():
            assert torch.equal(weights[component][name], learned)
            assert weights[component][name].data_ptr() != learned.data_ptr(), "shared memory follows at once"
    changed = [given.algorithm.after_step(weights, step).keys() for step in range(1, 1001)]
    assert set().union(*changed) <= state


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
    }
    return kind(**(values | changes))


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
        # from B to A: both networks are indifferent or prefer what is worth 0
        (DQN, {"observation": B, "next_observation": A}, 1.0, 5.0),
        (DoubleDQN, {"observation": B, "next_observation": A}, 1.0, 5.0),
    ],
)
def test_the_td_error_by_hand(kind: type[DQN], changes: dict[str, Any], target: float, value: float) -> None:
    weights, batch = example(**changes)
    loss, metrics = dqn(kind).losses(weights, weights, batch, step=1)["policy"]
    assert loss.tolist() == [(target - value) ** 2]
    assert metrics["td_error"].tolist() == [abs(target - value)]
    assert metrics["q_value"].tolist() == [value]
    # Huber (1964) with its corner at 1: square/2 within, |error| - 1/2 beyond
    error = abs(target - value)
    (huber, _) = dqn(kind, loss="huber").losses(weights, weights, batch, step=1)["policy"]
    assert huber.tolist() == [error**2 / 2 if error <= 1 else error - 0.5]


@pytest.mark.parametrize(("kind", "target"), [(DQN, 6.0), (DoubleDQN, 11.0)])
def test_the_next_action_is_chosen_without_noise_and_valued_with_it(kind: type[DQN], target: float) -> None:
    """Without noise the target network prefers action 0 at B and the online network action 1, the reverse of what they do
    with it; with noise the target network says 10 and 20 to them: 1 + 0.5 * 10 for DQN, 1 + 0.5 * 20 for double DQN."""
    weights, batch = example()
    quiet = {"policy": linear([[1.0, 2.0], [4.0, 5.0]]), "target_policy": linear([[0.0, 0.0], [20.0, 10.0]])}
    assert dqn(kind).losses(weights, quiet, batch, step=1)["policy"][1]["td_error"].tolist() == [target - 1]


def test_a_small_error_is_squared_by_huber_too() -> None:
    # the target network says 0 everywhere, so the target is the reward, 1; the online value is 0.5
    weights, batch = example()
    weights = {"policy": linear([[0.5, 2.0], [5.0, 4.0]]), "target_policy": linear([[0.0, 0.0], [0.0, 0.0]])}
    assert dqn(loss="huber").losses(weights, weights, batch, 1)["policy"][0].tolist() == [0.125]
    assert dqn(loss="mse").losses(weights, weights, batch, 1)["policy"][0].tolist() == [0.25]


def test_a_loss_is_the_mean_over_the_batch_of_each_member() -> None:
    # member 0: errors 10 (going on) and 0 (ended), so (100 + 0) / 2; member 1: 9 (action 1) and 10, so (81 + 100) / 2
    (weights, going), (_, ended), (_, other) = example(), example(terminated=1.0), example(action=1)
    two = {c: {name: torch.cat([t, t]) for name, t in layers.items()} for c, layers in weights.items()}
    batch = {
        name: torch.cat([torch.cat([going[name], ended[name]], dim=1), torch.cat([other[name], going[name]], dim=1)])
        for name in going
    }
    assert dqn().losses(two, two, batch, 1)["policy"][0].tolist() == [50.0, 90.5]


@pytest.mark.parametrize("kind", [DQN, DoubleDQN])
def test_targets_are_constants(kind: type[DQN]) -> None:
    """Only the value of the action that was taken is moved: d(11 - w)^2 / dw = -20 at w = 1, -10 for double DQN's 6."""
    weights, batch = example()
    weights = require_gradients(weights)
    loss = dqn(kind).losses(weights, weights, batch, 1)["policy"][0].sum()
    loss.backward()
    assert weights["policy"]["0.weight"].grad.tolist() == [[[-20.0 if kind is DQN else -10.0, 0.0], [0.0, 0.0]]]
    assert weights["target_policy"]["0.weight"].grad is None


# ---------------------------------------------------------------- targets


def test_a_hard_target_is_copied_every_so_many_gradient_steps() -> None:
    algorithm, (weights, _) = dqn(target_update_interval=3, tau=1.0), example()
    for step in range(1, 10):
        changed = algorithm.after_step(weights, step)
        assert changed.keys() == ({"target_policy"} if step in (3, 6, 9) else set())
        if changed:
            assert changed["target_policy"].keys() == {"0.weight", "0.bias"}
            assert torch.equal(changed["target_policy"]["0.weight"], weights["policy"]["0.weight"])
    # a copy: what is learned afterwards must not show in it
    weights["policy"]["0.weight"] += 1
    assert changed["target_policy"]["0.weight"].tolist() == [ONLINE]


def test_a_soft_target_moves_by_its_rate() -> None:
    weights, _ = example()
    # a quarter of the way: from 0 to 1 and from 0 to 2 at A, from 10 to 5 and from 20 to 4 at B
    moved = dqn(tau=0.25).after_step(weights, 1)["target_policy"]["0.weight"]
    assert moved.tolist() == [[[0.25, 0.5], [8.75, 16.0]]]
    assert weights["target_policy"]["0.weight"].tolist() == [TARGET]


# ---------------------------------------------------------------- acting


def test_greedy_is_the_action_of_the_highest_value() -> None:
    weights, _ = example()
    assert dqn().greedy(weights, torch.tensor([[A, B]])).tolist() == [[1, 0]]


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
    actions = algorithm.act(weights, observation, 0, members.uniforms("exploration")).action
    for share in torch.bincount(actions.flatten(), minlength=4)[:3] / draws:
        # 0.1 / 4 each, with a standard error of 0.0011; five of them
        assert abs(share - 0.025) < 0.0055


def test_epsilon_follows_its_schedule_by_environment_steps() -> None:
    weights, draws = {"policy": linear([[0.0, 1.0], [0.0, 0.0]])}, 10_000
    algorithm, uniforms = dqn(epsilon=Linear(1.0, 0.0, steps=100)), Population((0,)).uniforms("exploration")
    observation = torch.tensor(A).expand(1, draws, 2)
    for step, epsilon in [(0, 1.0), (50, 0.5), (90, 0.1), (100, 0.0), (1000, 0.0)]:
        share = algorithm.act(weights, observation, step, uniforms).action.eq(0).float().mean()
        # half of the random actions are 0; five standard errors
        assert abs(share - epsilon / 2) <= 5 * (epsilon / 2 * (1 - epsilon / 2) / draws) ** 0.5


def test_members_and_sub_environments_explore_by_themselves() -> None:
    weights = {"policy": {name: tensor.expand(3, -1, -1) for name, tensor in linear([[0.0] * 4, [0.0] * 4]).items()}}
    algorithm, members = dqn(epsilon=Constant(1.0)), Population((5, 6, 7))
    actions = algorithm.act(weights, torch.zeros(3, 40, 2), 0, members.uniforms("exploration")).action
    assert actions.shape == (3, 40)
    # two members would take the same 40 of 4 actions with a chance of 4^-40
    assert len({tuple(row) for row in actions.tolist()}) == 3
    alone = {"policy": linear([[0.0] * 4, [0.0] * 4])}
    solo = algorithm.act(alone, torch.zeros(1, 40, 2), 0, Population((6,)).uniforms("exploration")).action
    assert torch.equal(actions[1:2], solo)


def test_action_values_need_discrete_actions() -> None:
    with pytest.raises(ValueError, match="discrete"):
        dqn().init(Spec((3,), None, (-1.0,), (1.0,)), Population((0,)))
