from __future__ import annotations

from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
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

from sparserl.environments.base import Environment, Outcome, VectorEnvironment
from sparserl.environments.cartpole import CartPole
from sparserl.environments.gymnasium import Gymnasium
from sparserl.population import Population
from sparserl.types import Spec

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
    "CartPole-v1": Gymnasium("CartPole-v1", None, {"max_episode_steps": 12}),
    "Acrobot-v1": Gymnasium("Acrobot-v1", None, {"max_episode_steps": 7}),
    "Pendulum-v1": Gymnasium("Pendulum-v1", None, {"max_episode_steps": 7}),
} | {type(probe).__name__: probe for probe in PROBES}


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> Environment:
    return ENVIRONMENTS[request.param]


Played = tuple[Tensor, list[tuple[Tensor, Outcome]]]
"""The first observation, then each action with what came of it."""


def play(environment: Environment, seeds: tuple[int, ...], envs: int, steps: int) -> Played:
    """Random actions, each member's from its own seed."""
    members = Population(seeds)
    vector = environment.open(members.generators("environment"), envs)
    spec, uniforms = environment.spec(), members.uniforms("actions")
    first = vector.reset().clone()
    outcomes = []
    for _ in range(steps):
        action = spec.random_action(uniforms.take(envs, spec.action_draws))
        outcomes.append((action, vector.step(action)))
    vector.close()
    return first, outcomes


def tensors(outcome: Outcome) -> list[Tensor]:
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


@pytest.mark.parametrize("environment", ["CartPole", "CartPole-v1", "Acrobot-v1", "Pendulum-v1"], indirect=True)
def test_seeds_members_and_episodes_start_differently(environment: Environment) -> None:
    vector = environment.open(Population((0, 1, 2)).generators("environment"), 4)
    starts = torch.cat([vector.reset().flatten(0, 1) for _ in range(3)])
    assert starts.unique(dim=0).shape[0] == 3 * 4 * 3
    vector.close()


# ---------------------------------------------------------------- against one environment of Gymnasium's own


def set_cartpole(env: gymnasium.Env, observation: np.ndarray) -> None:
    env.unwrapped.state = observation  # type: ignore[attr-defined]


def set_pendulum(env: gymnasium.Env, observation: np.ndarray) -> None:
    cos, sin, velocity = observation
    env.unwrapped.state = np.array([np.arctan2(sin, cos), velocity])  # type: ignore[attr-defined]


def set_acrobot(env: gymnasium.Env, observation: np.ndarray) -> None:
    cos_1, sin_1, cos_2, sin_2, *velocities = observation
    angles = [np.arctan2(sin_1, cos_1), np.arctan2(sin_2, cos_2)]
    env.unwrapped.state = np.array([*angles, *velocities])  # type: ignore[attr-defined]


class Singles:
    """One environment of Gymnasium's for each sub-environment, put into its state before each step.

    Its time limit counts its steps; the physics start from the observation, so rounding to float32 cannot add up.
    """

    def __init__(self, name: str, limit: int, count: int, place: Callable[[gymnasium.Env, np.ndarray], None]) -> None:
        self.envs = [gymnasium.make(name, max_episode_steps=limit) for _ in range(count)]
        self.place = place
        for env in self.envs:
            env.reset(seed=0)

    def check(self, observation: Tensor, action: Tensor, outcome: Outcome) -> None:
        ends = outcome.terminated + outcome.truncated > 0
        for index, env in enumerate(self.envs):
            member, number = divmod(index, observation.shape[1])
            self.place(env, observation[member, number].double().numpy())
            followed, reward, terminated, truncated, _ = env.step(action[member, number].numpy())
            # one step amplifies the rounding of its start, 6e-8 of it, by less than ten; Acrobot's velocities reach 28
            np.testing.assert_allclose(outcome.next_observation[member, number].numpy(), followed, rtol=1e-5, atol=1e-5)
            assert float(outcome.reward[member, number]) == pytest.approx(float(reward), rel=1e-5, abs=1e-5)
            assert bool(outcome.terminated[member, number]) == terminated
            assert bool(outcome.truncated[member, number]) == truncated
            assert bool(ends[member, number]) == (terminated or truncated)
            if ends[member, number]:
                env.reset()


def balance(observation: Tensor) -> Tensor:
    """Keeps the pole up for hundreds of steps, but not the cart on its rails."""
    return (observation[..., 2] + observation[..., 3] > 0).long()


@pytest.mark.parametrize("kind", ["CartPole", "CartPole-v1"])
@pytest.mark.parametrize(
    ("policy", "limit", "steps", "must_meet"),
    [
        ("random", 500, 150, {"a fall", "an end while others go on"}),
        ("random", 15, 60, {"a fall", "a time limit", "an end while others go on"}),
        ("balance", 500, 520, {"a time limit"}),
    ],
)
def test_cartpole_is_gymnasiums(kind: str, policy: str, limit: int, steps: int, must_meet: set[str]) -> None:
    cartpole: Environment = (
        CartPole(limit) if kind == "CartPole" else Gymnasium("CartPole-v1", None, {"max_episode_steps": limit})
    )
    members = Population((1, 2))
    vector, uniforms = cartpole.open(members.generators("environment"), 3), members.uniforms("actions")
    singles = Singles("CartPole-v1", limit, 6, set_cartpole)
    observation = vector.reset()
    met = set()
    for _ in range(steps):
        random = cartpole.spec().random_action(uniforms.take(3, 1))
        action = balance(observation) if policy == "balance" else random
        outcome = vector.step(action)
        singles.check(observation, action, outcome)
        ends = outcome.terminated + outcome.truncated > 0
        # a new episode begins within the same step, where CartPole-v1 begins
        assert (outcome.observation[ends].abs() <= 0.05).all()
        assert torch.equal(outcome.observation[~ends], outcome.next_observation[~ends])
        met |= {"a fall"} if outcome.terminated.any() else set()
        met |= {"a time limit"} if outcome.truncated.any() else set()
        met |= {"an end while others go on"} if ends.any() and not ends.all() else set()
        observation = outcome.observation
    vector.close()
    assert met >= must_meet


def test_cartpoles_first_states_fill_the_range_of_cartpole_v1() -> None:
    vector = CartPole(500).open(Population((0, 1)).generators("environment"), 2000)
    first = vector.reset()
    vector.close()
    assert first.abs().max() <= 0.05
    # uniform in [-0.05, 0.05]: mean 0 +- 0.0289 / sqrt(2000) = 0.00065, deviation 0.0289 +- 0.0003; five of them
    assert first.mean(dim=1).abs().max() < 0.0033
    assert (first.std(dim=1) - 0.1 / 12**0.5).abs().max() < 0.0015


@pytest.mark.parametrize(
    ("name", "place"), [("Acrobot-v1", set_acrobot), ("Pendulum-v1", set_pendulum)], ids=["Acrobot", "Pendulum"]
)
def test_any_gymnasium_environment_is_gymnasiums(name: str, place: Callable[[gymnasium.Env, np.ndarray], None]) -> None:
    environment = Gymnasium(name, None, {"max_episode_steps": 20})
    members = Population((1, 2))
    vector, uniforms = environment.open(members.generators("environment"), 2), members.uniforms("actions")
    singles, spec = Singles(name, 20, 4, place), environment.spec()
    observation = vector.reset()
    for step in range(1, 51):
        action = spec.random_action(uniforms.take(2, spec.action_draws))
        outcome = vector.step(action)
        singles.check(observation, action, outcome)
        # neither ends by itself so soon: time is up for all at once, and all begin anew
        assert bool(outcome.truncated.all()) == (step % 20 == 0)
        assert (outcome.observation == outcome.next_observation).all() or step % 20 == 0
        observation = outcome.observation
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


# ---------------------------------------------------------------- specs, actions and errors


@pytest.mark.parametrize(
    ("environment", "spec"),
    [
        ("CartPole", Spec((4,), discrete_actions=2)),
        ("CartPole-v1", Spec((4,), discrete_actions=2)),
        ("Acrobot-v1", Spec((6,), discrete_actions=3)),
        ("Pendulum-v1", Spec((3,), None, action_low=(-2.0,), action_high=(2.0,))),
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


def test_continuous_actions_reach_the_environment() -> None:
    """Pendulum's cost of torque is 0.001 u^2, so rewards from equal states differ by exactly that."""
    environment = Gymnasium("Pendulum-v1", None, {})

    def rewards(torque: float) -> Tensor:
        vector = environment.open(Population((1, 2)).generators("environment"), 2)
        vector.reset()
        reward = vector.step(torch.full((2, 2, 1), torque)).reward
        vector.close()
        return reward

    torch.testing.assert_close(rewards(0.0) - rewards(2.0), torch.full((2, 2), 0.004), rtol=0, atol=2e-6)


def test_an_unknown_name_is_said_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="Gymnasium cannot make 'NoSuchThing-v0'"):
        Gymnasium("NoSuchThing-v0", None, {}).spec()


def test_an_unknown_argument_is_said_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"cannot make 'CartPole-v1'.*wheels"):
        Gymnasium("CartPole-v1", None, {"wheels": 3}).spec()


@pytest.mark.parametrize(("extra", "remedy"), [("box2d", r"pip install 'sparserl\[box2d\]'"), (None, "no module")])
def test_a_missing_package_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, extra: str | None, remedy: str) -> None:
    def make(*_: object, **__: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("no module")

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(ModuleNotFoundError, match=f"LunarLander-v3 needs a package that is not installed: {remedy}"):
        Gymnasium("LunarLander-v3", extra, {}).spec()


class Strange(gymnasium.Env):
    """An environment with whatever spaces a test wants."""

    def __init__(self, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Gymnasium]]:
    gymnasium.register("Strange-v0", entry_point=Strange, disable_env_checker=True)
    yield lambda observations, actions: Gymnasium(
        "Strange-v0", None, {"observation_space": observations, "action_space": actions}
    )
    del gymnasium.registry["Strange-v0"]


BOX = gymnasium.spaces.Box(-1, 1, (2,))
TWO = gymnasium.spaces.Discrete(2)


@pytest.mark.parametrize(
    ("observations", "actions", "said"),
    [
        (gymnasium.spaces.Discrete(3), TWO, "observations"),
        (gymnasium.spaces.Dict({"a": BOX}), TWO, "observations"),
        (BOX, gymnasium.spaces.MultiDiscrete([2, 2]), "actions"),
        (BOX, gymnasium.spaces.Box(-1, 1, (2, 2)), "actions"),
        # the numbers of its actions are 1 and 2, ours are 0 and 1
        (BOX, gymnasium.spaces.Discrete(2, start=1), "actions"),
        # there is no uniform policy on it, so no return to compare with
        (BOX, gymnasium.spaces.Box(-np.inf, np.inf, (2,)), "actions"),
    ],
    ids=["discrete observations", "dictionaries", "several actions", "matrices", "actions from 1", "unbounded"],
)
def test_spaces_that_do_not_fit_are_refused(
    strange: Callable[..., Gymnasium], observations: gymnasium.Space, actions: gymnasium.Space, said: str
) -> None:
    with pytest.raises(ValueError, match=f"the {said} of Strange-v0"):
        strange(observations, actions).spec()


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
