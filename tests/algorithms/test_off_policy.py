"""DDPG, TD3 and SAC: equations worked by hand, and what each component learns from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparserl.algorithms.base import Objective
from sparserl.algorithms.ddpg import DDPG
from sparserl.algorithms.off_policy import OffPolicyActorCritic
from sparserl.algorithms.sac import SAC
from sparserl.algorithms.td3 import TD3
from sparserl.networks.mlp import MLP
from sparserl.optimizers import Adam
from sparserl.policies import deterministic, squashed_gaussian
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.schedules import Constant
from sparserl.types import Batch, Layers, Spec, Time, Weights

SPEC = Spec(observation_shape=(1,), action_low=(-2.0,), action_high=(4.0,))
"""In [-1, 1] an action of a has the bounds' 1 + 3 a."""

FIRST = Time(step=1, previous_step=0, update=0)
SECOND = Time(step=2, previous_step=1, update=1)


def make(kind: type[OffPolicyActorCritic], **changes: Any) -> OffPolicyActorCritic:
    values: dict[str, Any] = {
        "network": MLP(hidden=[], activation="relu"),
        "gamma": 0.5,
        "actor_learning_rate": Constant(0.1),
        "critic_learning_rate": Constant(0.1),
        "tau": 0.25,
        "random_steps": 0,
        "max_grad_norm": None,
        "optimizer": Adam(),
    }
    if kind is SAC:
        values |= {"temperature_learning_rate": Constant(0.1), "initial_temperature": 0.5, "target_entropy": None}
    else:
        values |= {"action_noise": 0.1}
    if kind is TD3:
        values |= {"policy_delay": 2, "target_noise": 0.2, "target_noise_clip": 0.5}
    bound = kind(**(values | changes)).bind(SPEC)
    assert isinstance(bound, OffPolicyActorCritic)
    return bound


def linear(*weights: float, bias: float = 0.0, outputs: int = 1) -> Layers:
    """A network without hidden units, of one member."""
    return {"0.weight": torch.tensor([weights]).view(1, -1, outputs), "0.bias": torch.full((1, 1, outputs), bias)}


def critic(bias: float) -> Layers:
    """The value is observation + 2 action + bias, with the action in [-1, 1]."""
    return linear(1.0, 2.0, bias=bias)


def batch(terminated: float = 0.0) -> Batch:
    """Observation 1, the action that is 0.5 in [-1, 1], reward 3, next observation 2."""
    return {
        "observation": torch.ones(1, 1, 1),
        "action": torch.full((1, 1, 1), 2.5),
        "reward": torch.full((1, 1), 3.0),
        "next_observation": torch.full((1, 1, 1), 2.0),
        "terminated": torch.full((1, 1), terminated),
    }


class Zeros(MemberRng):
    """Normal numbers that are all the same."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__(Population((0,)).generators("update"))
        self._value = value

    def normal(self, *shape: int) -> Tensor:
        return torch.full((1, *shape), self._value)


def losses(
    algorithm: OffPolicyActorCritic, weights: Weights, data: Batch, time: Time, value: float = 0.0
) -> dict[str, Objective]:
    return algorithm.losses(weights, weights, data, time, Zeros(value))


# ---------------------------------------------------------------- DDPG and TD3


@pytest.mark.parametrize("terminated", [0.0, 1.0])
def test_ddpg_by_hand(terminated: float) -> None:
    """The target policy's action in the next state, 2, is tanh(0.5 * 2). The target critic gives 2 + 2 a + 10."""
    weights: Weights = {
        "policy": linear(0.25),
        "target_policy": linear(0.5),
        "critic_1": critic(0.0),
        "target_critic_1": critic(10.0),
    }
    found = losses(make(DDPG), weights, batch(terminated), FIRST)
    target = 3 + 0.5 * (1 - terminated) * (12 + 2 * math.tanh(1.0))
    assert found["critic"].loss.item() == pytest.approx((1 + 2 * 0.5 - target) ** 2, rel=1e-6)
    assert found["critic"].updates == ("critic_1",)
    # the actor's action in the state, 1, is tanh(0.25), and the critic gives 1 + 2 a
    assert found["policy"].loss.item() == pytest.approx(-(1 + 2 * math.tanh(0.25)), rel=1e-6)
    assert found["policy"].updates == ("policy",)


@pytest.mark.parametrize(("noise", "smoothed"), [(1.0, 0.2), (-1.0, -0.2), (10.0, 0.5), (-10.0, -0.5)])
def test_td3_smooths_targets_and_takes_the_lower_critic(noise: float, smoothed: float) -> None:
    """Noise of deviation 0.2 is cut at 0.5. The second target critic gives less."""
    weights: Weights = {
        "policy": linear(0.25),
        "target_policy": linear(0.1),
        "critic_1": critic(0.0),
        "critic_2": critic(1.0),
        "target_critic_1": critic(10.0),
        "target_critic_2": critic(8.0),
    }
    found = losses(make(TD3), weights, batch(), FIRST, noise)
    target = 3 + 0.5 * (2 + 2 * (math.tanh(0.2) + smoothed) + 8)
    assert found["critic"].loss.item() == pytest.approx((2 - target) ** 2 + (3 - target) ** 2, rel=1e-6)
    assert found["critic"].updates == ("critic_1", "critic_2")
    assert "policy" not in found, "the actor is due at every second gradient step only"
    actor = losses(make(TD3), weights, batch(), SECOND, noise)["policy"]
    assert actor.loss.item() == pytest.approx(-(1 + 2 * math.tanh(0.25)), rel=1e-6)


def test_a_smoothed_action_stays_in_range() -> None:
    assert deterministic.perturbed(torch.tensor([0.9, -0.9, 0.0]), torch.tensor([0.5, -0.5, 0.5])).tolist() == [1.0, -1.0, 0.5]


def test_targets_move_by_tau_and_in_td3_when_the_actor_does() -> None:
    raw = {c: {"": torch.full((1, 16), value)} for c, value in (("policy", 1.0), ("critic_1", 2.0), ("critic_2", 3.0))}
    raw |= {f"target_{c}": {"": torch.zeros(1, 16)} for c in tuple(raw)}
    moved = make(TD3).update_targets(raw, SECOND)
    assert {c: tensors[""][0, 0].item() for c, tensors in moved.items()} == {
        "target_policy": 0.25, "target_critic_1": 0.5, "target_critic_2": 0.75,
    }  # fmt: skip
    assert make(TD3).update_targets(raw, FIRST) == {}
    assert make(SAC).update_targets(raw, FIRST).keys() == {"target_critic_1", "target_critic_2"}
    assert make(DDPG).update_targets(raw, FIRST).keys() == {"target_policy", "target_critic_1"}


# ---------------------------------------------------------------- SAC


def test_the_log_density_of_a_squashed_gaussian_is_torchs() -> None:
    draw = torch.Generator().manual_seed(0)
    outputs, normals = torch.randn(2, 50, 6, generator=draw), torch.randn(2, 50, 3, generator=draw)
    action, log_prob = squashed_gaussian.sample(outputs, normals)
    mean, log_std = outputs.double().chunk(2, dim=-1)
    base = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
    squashed = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform(cache_size=1)])
    unsquashed = mean + log_std.clamp(-20, 2).exp() * normals
    expected = squashed.log_prob(torch.tanh(unsquashed))
    inside = unsquashed.abs() < 8  # beyond it torch's own density is not exact
    torch.testing.assert_close(action, torch.tanh(unsquashed).float())
    rows = inside.all(dim=-1)
    assert rows.double().mean() > 0.9
    torch.testing.assert_close(log_prob[rows], expected.sum(dim=-1).float()[rows], rtol=1e-4, atol=1e-3)


def test_the_density_is_right_where_tanh_rounds_to_one() -> None:
    """At u = 20, log(1 - tanh(u)^2) is 2 log 2 - 2 u to 1e-17, and 1 - tanh(u)^2 itself is 0 in float32."""
    outputs = torch.tensor([[[20.0, 0.0]]])
    action, log_prob = squashed_gaussian.sample(outputs, torch.zeros(1, 1, 1))
    assert action.item() == 1.0
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - (2 * math.log(2) - 40), rel=1e-6)


def test_a_squashed_gaussian_has_the_probabilities_that_it_says() -> None:
    """The share of samples below each of four bounds is the integral of the density, within five standard errors."""
    draw, number = torch.Generator().manual_seed(0), 40_000
    outputs = torch.tensor([0.3, -0.5]).expand(1, number, 2)
    action, _ = squashed_gaussian.sample(outputs, torch.randn(1, number, 1, generator=draw))
    for bound in (-0.5, 0.0, 0.3, 0.8):
        expected = torch.distributions.Normal(0.3, math.exp(-0.5)).cdf(torch.tensor(math.atanh(bound))).item()
        share = (action < bound).double().mean().item()
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / number))


def test_sac_by_hand() -> None:
    """Noise is 0, so that actions are tanh of means, and deviations are 1. The temperature is 1/2."""
    weights: Weights = {
        "policy": linear(0.25, 0.0, outputs=2),
        "critic_1": critic(0.0),
        "critic_2": critic(1.0),
        "target_critic_1": critic(10.0),
        "target_critic_2": critic(8.0),
        "temperature": {"log": torch.tensor([[math.log(0.5)]], requires_grad=True)},
    }
    found = losses(make(SAC), weights, batch(), FIRST)

    def log_density(unsquashed: float) -> float:
        return -0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(unsquashed) ** 2)

    target = 3 + 0.5 * (2 + 2 * math.tanh(0.5) + 8 - 0.5 * log_density(0.5))
    assert found["critic"].loss.item() == pytest.approx((2 - target) ** 2 + (3 - target) ** 2, rel=1e-5)
    assert found["policy"].loss.item() == pytest.approx(0.5 * log_density(0.25) - (1 + 2 * math.tanh(0.25)), rel=1e-5)
    # the entropy, minus the log density, should be -1, minus the number of dimensions: too much of it lowers the temperature
    temperature = found["temperature"]
    assert temperature.updates == ("temperature",)
    (slope,) = torch.autograd.grad(temperature.loss.sum(), weights["temperature"]["log"])
    assert slope.item() == pytest.approx(-log_density(0.25) + 1, rel=1e-5)
    assert temperature.metrics["temperature"].item() == pytest.approx(0.5)


# ---------------------------------------------------------------- what all share


@pytest.mark.parametrize("kind", [DDPG, TD3, SAC])
def test_each_objective_moves_its_own_components_only(kind: type[OffPolicyActorCritic]) -> None:
    """An actor learns from critics, and must not change them: no gradient reaches them."""
    algorithm = make(kind, network=MLP(hidden=[8], activation="relu"))
    weights = algorithm.init(Population((0,)))
    leaves = {c: {name: t.clone().requires_grad_() for name, t in layers.items()} for c, layers in weights.items()}
    found = algorithm.losses(leaves, leaves, batch(), SECOND, Population((0,)).rng("update"))
    assert set().union(*(its.updates for its in found.values())) == algorithm.learning_rates.keys()
    for objective in found.values():
        for component, layers in leaves.items():
            gradients = torch.autograd.grad(objective.loss.sum(), list(layers.values()), retain_graph=True, allow_unused=True)
            reached = any(gradient is not None for gradient in gradients)
            assert reached == (component in objective.updates)


@pytest.mark.parametrize("kind", [DDPG, TD3, SAC])
def test_actions_are_within_the_bounds_and_reach_them(kind: type[OffPolicyActorCritic]) -> None:
    """Random ones first, then the policy's own, which here wants more than there is."""
    algorithm, members = make(kind, random_steps=100), Population((0, 1))
    fresh, rng = algorithm.init(members), members.rng("exploration")
    observation = torch.ones(2, 500, 1)
    first = algorithm.act(fresh, observation, 99, rng).action
    assert first.shape == (2, 500, 1)
    assert first.min() < -1.9
    assert first.max() > 3.9
    for sign, bound in ((1.0, 4.0), (-1.0, -2.0)):
        fresh["policy"]["0.bias"][:] = 0.0
        fresh["policy"]["0.bias"][..., 0] = 100 * sign
        for action in (algorithm.act(fresh, observation, 100, rng).action, algorithm.deterministic_action(fresh, observation)):
            assert action.min() >= -2.0 - 1e-6
            assert action.max() <= 4.0 + 1e-6
        torch.testing.assert_close(action, torch.full_like(action, bound))


def test_exploration_noise_has_its_deviation() -> None:
    """A standard error of 0.1 / sqrt(2 * 20000) is 0.0005."""
    algorithm, members = make(DDPG), Population((0,))
    fresh = algorithm.init(members)
    fresh["policy"] = linear(0.0)
    action = SPEC.unscale_action(algorithm.act(fresh, torch.zeros(1, 20_000, 1), 0, members.rng("exploration")).action)
    assert action.std().item() == pytest.approx(0.1, abs=0.0025)
    assert action.mean().item() == pytest.approx(0.0, abs=0.0035)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="discrete"):
        make(DDPG).bind(Spec((1,), discrete_actions=2))
