from __future__ import annotations

import pytest
import torch
from hypothesis import given
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

from sparserl.environments.acrobot import Acrobot
from sparserl.environments.base import Environment, EpisodeKeeper, FunctionalEnvironment, StepResult, VectorEnvironment
from sparserl.environments.cartpole import CartPole
from sparserl.environments.gymnasium import Gymnasium
from sparserl.population.members import Population
from sparserl.types import Action, Spec

PROBES = [
    ConstantReward(),
    RewardByObservation(),
    RewardLater(),
    RewardByAction(),
    ActionTimesObservation(),
    UselessInput(),
    Truncated(),
    Countdown(),
]
ENVIRONMENTS: dict[str, Environment] = {
    "CartPole": CartPole(max_episode_steps=12),
    "Acrobot": Acrobot(max_episode_steps=7),
    "CartPole-v1": Gymnasium("CartPole-v1", None, {}, max_episode_steps=12),
    "Acrobot-v1": Gymnasium("Acrobot-v1", None, {}, max_episode_steps=7),
    "Pendulum-v1": Gymnasium("Pendulum-v1", None, {}, max_episode_steps=7),
} | {type(probe).__name__: probe for probe in PROBES}


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> Environment:
    return ENVIRONMENTS[request.param]


Played = tuple[Tensor, list[tuple[Tensor, StepResult]]]
"""The first observation, then each action with what came of it."""


def play(environment: Environment, seeds: tuple[int, ...], envs: int, steps: int) -> Played:
    """Random actions, each member's from its own seed."""
    members = Population(seeds)
    vector = environment.open(members.generators("environment"), envs)
    spec, uniforms = environment.spec(), members.rng("actions")
    first = vector.reset().clone()
    outcomes = []
    for _ in range(steps):
        action = spec.random_action(uniforms.uniform(envs, spec.action_draws))
        outcomes.append((action, vector.step(action)))
    vector.close()
    return first, outcomes


def tensors(outcome: StepResult) -> list[Tensor]:
    return [outcome.observation, outcome.next_observation, outcome.reward, outcome.terminated, outcome.truncated]


# ---------------------------------------------------------------- every environment


def test_everything_is_float32_with_member_and_env_in_front(environment: Environment) -> None:
    first, outcomes = play(environment, (1, 2, 3), envs=2, steps=9)
    shape = environment.spec().observation_shape
    assert first.shape == (3, 2, *shape)
    for _, outcome in outcomes:
        assert outcome.observation.shape == outcome.next_observation.shape == (3, 2, *shape)
        assert outcome.reward.shape == outcome.terminated.shape == outcome.truncated.shape == (3, 2)
        assert all(tensor.dtype == torch.float32 for tensor in tensors(outcome))
        assert set(torch.cat([outcome.terminated, outcome.truncated]).unique().tolist()) <= {0.0, 1.0}


def test_what_a_member_meets_depends_on_its_seed_only(environment: Environment) -> None:
    # long enough that the members' episodes end at different times where they can
    first, outcomes = play(environment, (11, 12, 13), envs=2, steps=40)
    ended = torch.stack([(o.terminated + o.truncated).sum(dim=1) for _, o in outcomes])
    assert ended.sum() > 0
    for place, seed in enumerate((11, 12, 13)):
        alone, solo_outcomes = play(environment, (seed,), envs=2, steps=40)
        assert torch.equal(alone, first[place : place + 1])
        for (action, outcome), (solo_action, solo) in zip(outcomes, solo_outcomes, strict=True):
            assert torch.equal(solo_action, action[place : place + 1])
            for mine, its in zip(tensors(solo), tensors(outcome), strict=True):
                assert torch.equal(mine, its[place : place + 1])


def test_what_acts_next_is_what_followed_unless_the_episode_ended(environment: Environment) -> None:
    for _, outcome in play(environment, (5, 6), envs=3, steps=30)[1]:
        goes_on = (outcome.terminated + outcome.truncated) == 0
        assert torch.equal(outcome.observation[goes_on], outcome.next_observation[goes_on])


def test_the_same_generators_give_the_same_episodes_again(environment: Environment) -> None:
    vector = environment.open(Population((3, 4)).generators("environment"), 2)
    state = vector.generators.state_dict()
    first = vector.reset().clone()
    vector.reset()
    vector.generators.load_state_dict(state)
    assert torch.equal(vector.reset(), first)
    vector.close()


@pytest.mark.parametrize("environment", ["CartPole", "Acrobot", "CartPole-v1", "Acrobot-v1", "Pendulum-v1"], indirect=True)
def test_seeds_members_and_episodes_start_differently(environment: Environment) -> None:
    vector = environment.open(Population((0, 1, 2)).generators("environment"), 4)
    starts = torch.cat([vector.reset().flatten(0, 1) for _ in range(3)])
    assert starts.unique(dim=0).shape[0] == 3 * 4 * 3
    vector.close()


@pytest.mark.parametrize("kind", ["CartPole", "CartPole-v1"])
def test_only_what_ended_begins_anew(kind: str) -> None:
    """A reset of one sub-environment must not touch, or take random numbers from, those that go on."""
    _, outcomes = play(ENVIRONMENTS[kind], (1, 2, 3), envs=2, steps=60)
    generators = Population((1, 2, 3)).generators("environment")
    fresh = ENVIRONMENTS[kind].open(generators, 2)
    fresh.reset()
    for action, expected in outcomes:
        before = generators.state_dict()["states"]
        outcome = fresh.step(action)
        drawn = (generators.state_dict()["states"] != before).any(dim=1)
        ended = (outcome.terminated + outcome.truncated > 0).any(dim=1)
        assert drawn.tolist() == ended.tolist()
        assert torch.equal(outcome.observation, expected.observation)
    fresh.close()


@pytest.mark.parametrize("limit", [500, 12])
def test_a_step_as_a_function_of_tensors_is_the_step(limit: int) -> None:
    """With the same first states, limits of steps, and members of whom an episode was cut.

    Sines and cosines of torch's may round otherwise than NumPy's, so an observation may differ in the last bit of a float32:
    2.4e-7 where it is between 2 and 4.
    """
    environment, members, steps = CartPole(limit), Population((1, 2, 3)), 8
    stepped, functional = (environment.open(members.generators("environment"), 2) for _ in range(2))
    assert isinstance(stepped, FunctionalEnvironment)
    assert isinstance(functional, FunctionalEnvironment)
    assert torch.equal(stepped.reset(), functional.reset())
    uniforms, ends = members.rng("actions"), 0
    for _ in range(20):
        functional.reserve(steps)
        state, found = functional.snapshot(), []
        shapes = {name: its.shape for name, its in state.items()}
        for _ in range(steps):
            action = environment.spec().random_action(uniforms.uniform(2, 1))
            before = {name: its.clone() for name, its in state.items()}
            given, (state, result) = state, functional.advance(state, action)
            assert all(torch.equal(given[name], its) for name, its in before.items())
            found.append(result.transition(result.observation, Action(action)))
            expected = stepped.step(action)
            for mine, its in zip(tensors(result), tensors(expected), strict=True):
                torch.testing.assert_close(mine, its, atol=1e-6, rtol=0)
            ends += int((result.terminated + result.truncated > 0).sum())
        assert {name: its.shape for name, its in state.items()} == shapes
        followed = functional.follow(state, {name: torch.stack([its[name] for its in found], dim=1) for name in found[0]})
        torch.testing.assert_close(followed, expected.observation, atol=1e-6, rtol=0)
        assert functional.limited == stepped.limited
    assert ends > 30  # 960 steps of random actions, under which the pole falls after 20 or so
    assert bool(stepped.limited) == (limit == 12)
    # step by step it goes on with what was drawn ahead, and then draws what the other one draws
    for _ in range(300):
        action = environment.spec().random_action(uniforms.uniform(2, 1))
        torch.testing.assert_close(functional.step(action).observation, stepped.step(action).observation, atol=1e-6, rtol=0)


@pytest.mark.parametrize("environment", ["CartPole", "Acrobot"], indirect=True)
def test_episodes_go_on_from_a_snapshot(environment: Environment) -> None:
    """In another vector, with the states of the generators: also limits of steps, and first states of what follows."""
    members = Population((1, 2))
    vector, uniforms, spec = environment.open(members.generators("environment"), 3), members.rng("actions"), environment.spec()
    assert isinstance(vector, EpisodeKeeper)
    observation = vector.reset()
    for _ in range(5):  # in the middle of an episode
        observation = vector.step(spec.random_action(uniforms.uniform(3, 1))).observation
    kept, generators = vector.snapshot(), vector.generators.state_dict()
    actions = [spec.random_action(uniforms.uniform(3, 1)) for _ in range(20)]
    followed = [vector.step(action) for action in actions]

    other = environment.open(members.generators("environment"), 3)
    other.reset()
    other.step(actions[0])  # its clock is another one
    assert isinstance(other, EpisodeKeeper)
    other.generators.load_state_dict(generators)
    assert torch.equal(other.restore(kept), observation)
    for action, expected in zip(actions, followed, strict=True):
        for mine, its in zip(tensors(other.step(action)), tensors(expected), strict=True):
            assert torch.equal(mine, its)
    assert any((outcome.terminated + outcome.truncated).any() for outcome in followed)


# ---------------------------------------------------------------- specs and actions


@pytest.mark.parametrize(
    ("environment", "spec"),
    [
        ("CartPole", Spec((4,), discrete_actions=2, max_episode_steps=12)),
        ("CartPole-v1", Spec((4,), discrete_actions=2, max_episode_steps=12)),
        ("Acrobot", Spec((6,), discrete_actions=3, max_episode_steps=7)),
        ("Acrobot-v1", Spec((6,), discrete_actions=3, max_episode_steps=7)),
        ("Pendulum-v1", Spec((3,), None, action_low=(-2.0,), action_high=(2.0,), max_episode_steps=7)),
    ],
    indirect=["environment"],
)
def test_spec(environment: Environment, spec: Spec) -> None:
    assert environment.spec() == spec


@given(actions=st.integers(1, 2**20), numerator=st.integers(0, 2**24 - 1))
def test_a_random_discrete_action_is_never_out_of_range(actions: int, numerator: int) -> None:
    # a uniform float32 is a multiple of 2^-24: those next to 0 and 1 are the ones that rounding could push out
    for number in (numerator, 0, 2**24 - 1):
        action = Spec((1,), discrete_actions=actions).random_action(torch.full((1, 1, 1), number / 2**24))
        assert action.shape == (1, 1)
        assert 0 <= int(action) < actions
        assert int(action) == number * actions >> 24 or actions > 2**10  # beyond, the product itself is rounded


def test_random_discrete_actions_are_uniform() -> None:
    uniforms = Population((0,)).generators("actions").uniform(30_000, 1)
    actions = Spec((1,), discrete_actions=3).random_action(uniforms)
    assert not actions.is_floating_point()
    # each a third: 10000 of 30000, with a standard deviation of 82; five of them
    assert (torch.bincount(actions.flatten()) - 10_000).abs().max() < 410


def test_random_actions_in_a_box_fill_each_dimension() -> None:
    spec = Spec((1,), None, action_low=(-2.0, 0.0, 5.0), action_high=(2.0, 1.0, 5.5))
    assert spec.action_draws == 3
    ends = spec.random_action(torch.tensor([[[0.0, 0.0, 0.0], [1 - 2**-24] * 3]]))
    torch.testing.assert_close(ends, torch.tensor([[[-2.0, 0.0, 5.0], [2.0, 1.0, 5.5]]]))
    action = spec.random_action(Population((0, 1)).generators("actions").uniform(5, 3))
    assert action.shape == (2, 5, 3)
    assert action.dtype == torch.float32
    middle = spec.random_action(torch.tensor([[[0.25, 0.5, 0.75]]]))
    torch.testing.assert_close(middle, torch.tensor([[[-1.0, 0.5, 5.375]]]))


# ---------------------------------------------------------------- probes


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: type(probe).__name__)
def test_the_values_that_a_probe_claims_obey_bellmans_equation_along_its_episodes(probe: Probe) -> None:
    discount = 0.9
    vector: VectorEnvironment = probe.open(Population((0, 1)).generators("environment"), 5)
    observation, met = vector.reset(), set()
    for step in range(20):
        action = (torch.arange(10).view(2, 5) + step) // 3 % 2
        outcome = vector.step(action)
        value = probe.q_values(observation, discount).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        following = probe.q_values(outcome.next_observation, discount).max(dim=-1).values
        target = outcome.reward + discount * (1 - outcome.terminated) * following
        torch.testing.assert_close(value, target)
        met |= {tuple(row) for row in observation.flatten(0, 1).tolist()}
        observation = outcome.observation
    if not isinstance(probe, UselessInput):  # whose states are a grid of what can be met
        assert met == {tuple(row) for row in probe.states().tolist()}


def test_a_useless_input_carries_nothing() -> None:
    probe = UselessInput()
    vector = probe.open(Population((0,)).generators("environment"), 4000)
    observation = vector.reset()[0]
    signal, useless = observation[:, 0], observation[:, probe.useless]
    # independent, with variances 1 and 1/3: the mean product is 0 +- sqrt(1/3/4000) = 0.009; five of them
    assert float((signal * useless).mean().abs()) < 0.046
    assert useless.min() >= -1
    assert useless.max() < 1
    reward = vector.step(torch.ones(1, 4000, dtype=torch.long)).reward[0]
    assert torch.equal(reward, signal)
