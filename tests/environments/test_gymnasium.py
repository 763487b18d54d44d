"""What members meet is what Gymnasium's own environments do, and what does not fit is said in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from faults import faulty
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from torch import Tensor

from sparserl.config.schema import CONF, ConfigError
from sparserl.config.validation import compose
from sparserl.environments.acrobot import Acrobot
from sparserl.environments.base import Environment, StepResult
from sparserl.environments.cartpole import CartPole
from sparserl.environments.gymnasium import Gymnasium
from sparserl.population.members import Population
from sparserl.types import Spec

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

    def check(self, observation: Tensor, action: Tensor, outcome: StepResult) -> None:
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
        CartPole(limit) if kind == "CartPole" else Gymnasium("CartPole-v1", None, {}, max_episode_steps=limit)
    )
    members = Population((1, 2))
    vector, uniforms = cartpole.open(members.generators("environment"), 3), members.rng("actions")
    singles = Singles("CartPole-v1", limit, 6, set_cartpole)
    observation = vector.reset()
    met = set()
    for _ in range(steps):
        random = cartpole.spec().random_action(uniforms.uniform(3, 1))
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


def test_cartpole_moves_to_the_bit_as_gymnasiums_vector_does() -> None:
    """From states far beyond what an episode meets, so that every term of the physics counts."""
    vector, theirs = CartPole(500).open(Population((0, 1)).generators("environment"), 500), CartPoleVectorEnv(1000)
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        vector.reset()
        theirs.reset()
        states = (torch.rand(4, 1000, generator=draw, dtype=torch.float64) * 6 - 3).numpy()
        vector._state[:], theirs.state = states, states.copy()
        action = torch.randint(2, (2, 500), generator=draw)
        outcome = vector.step(action)
        observation, reward, terminated, truncated, _ = theirs.step(action.flatten().numpy())
        assert outcome.next_observation.flatten(0, 1).numpy().tobytes() == observation.tobytes()
        for mine, its in ((outcome.reward, reward), (outcome.terminated, terminated), (outcome.truncated, truncated)):
            assert mine.flatten().tolist() == its.astype(float).tolist()
        assert 0 < outcome.terminated.mean() < 1


def test_cartpoles_first_states_fill_the_range_of_cartpole_v1() -> None:
    vector = CartPole(500).open(Population((0, 1)).generators("environment"), 2000)
    first = vector.reset()
    vector.close()
    assert first.abs().max() <= 0.05
    # uniform in [-0.05, 0.05]: mean 0 +- 0.0289 / sqrt(2000) = 0.00065, deviation 0.0289 +- 0.0003; five of them
    assert first.mean(dim=1).abs().max() < 0.0033
    assert (first.std(dim=1) - 0.1 / 12**0.5).abs().max() < 0.0015


def test_acrobot_moves_as_gymnasiums_does() -> None:
    """From states far beyond what an episode meets: angles turn over, velocities pass their limits, some ends are high up."""
    vector, theirs = Acrobot(500).open(Population((0, 1)).generators("environment"), 100), AcrobotEnv()
    vector.reset()
    draw = torch.Generator().manual_seed(0)
    turns = torch.tensor([[3.0], [3.0], [14.0], [30.0]], dtype=torch.float64)
    states = ((torch.rand(4, 200, generator=draw, dtype=torch.float64) * 2 - 1) * turns).numpy()
    vector._state[:] = states
    action = torch.randint(3, (2, 100), generator=draw)
    outcome = vector.step(action)
    ends, turned = outcome.terminated.flatten().bool(), 0
    for index, (state, chosen) in enumerate(zip(states.T, action.flatten().tolist(), strict=True)):
        theirs.state = state
        observation, reward, terminated, *_ = theirs.step(chosen)
        # the same operations in the same order; NumPy may compute the sine of many numbers in another way than that of one
        np.testing.assert_allclose(outcome.next_observation.flatten(0, 1)[index].numpy(), observation, rtol=1e-6, atol=1e-6)
        assert (float(outcome.reward.flatten()[index]), bool(ends[index])) == (reward, terminated)
        if not terminated:
            np.testing.assert_allclose(vector._state[:, index], theirs.state, rtol=1e-12, atol=1e-12)
        turned += abs(theirs.state[0] - state[0]) > np.pi
    assert 0 < ends.sum() < 200
    assert turned > 10


def test_acrobot_ends_where_gymnasiums_does() -> None:
    """Torque along the lower link's motion swings it up; the episode that follows begins where Acrobot-v1 begins."""
    members = Population((1, 2))
    vector, singles = Acrobot(120).open(members.generators("environment"), 2), Singles("Acrobot-v1", 120, 4, set_acrobot)
    observation, ends = vector.reset(), {"up": 0, "late": 0}
    for _ in range(250):
        action = (observation[..., 5] > 0).long() * 2
        action[1] = 1  # the other member hangs still, until time is up
        outcome = vector.step(action)
        singles.check(observation, action, outcome)
        ended = outcome.terminated + outcome.truncated > 0
        ends["up"] += int(outcome.terminated[0].sum())
        ends["late"] += int(outcome.truncated[1].sum())
        assert (outcome.observation[ended][:, 1::2].abs() <= 0.1).all()  # sines, and a velocity
        assert torch.equal(outcome.observation[~ended], outcome.next_observation[~ended])
        observation = outcome.observation
    assert ends["up"] >= 2
    assert ends["late"] == 2 * (250 // 120)


@pytest.mark.parametrize(
    ("name", "place"), [("Acrobot-v1", set_acrobot), ("Pendulum-v1", set_pendulum)], ids=["Acrobot", "Pendulum"]
)
def test_any_gymnasium_environment_is_gymnasiums(name: str, place: Callable[[gymnasium.Env, np.ndarray], None]) -> None:
    environment = Gymnasium(name, None, {}, max_episode_steps=20)
    members = Population((1, 2))
    vector, uniforms = environment.open(members.generators("environment"), 2), members.rng("actions")
    singles, spec = Singles(name, 20, 4, place), environment.spec()
    observation = vector.reset()
    for step in range(1, 51):
        action = spec.random_action(uniforms.uniform(2, spec.action_draws))
        outcome = vector.step(action)
        singles.check(observation, action, outcome)
        # neither ends by itself so soon: time is up for all at once, and all begin anew
        assert bool(outcome.truncated.all()) == (step % 20 == 0)
        assert (outcome.observation == outcome.next_observation).all() or step % 20 == 0
        observation = outcome.observation
    vector.close()


# ---------------------------------------------------------------- actions and errors


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
        Gymnasium("LunarLander-v3", extra, {}, at_once=7).spec()  # not asked for before


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
        (gymnasium.spaces.Tuple([BOX]), TWO, "observations"),
        (BOX, gymnasium.spaces.MultiDiscrete([2, 2]), "actions"),
        (BOX, gymnasium.spaces.Box(-1, 1, (2, 2)), "actions"),
        # the numbers of its actions are 1 and 2, ours are 0 and 1
        (BOX, gymnasium.spaces.Discrete(2, start=1), "actions"),
        # there is no uniform policy on it, so no return to compare with
        (BOX, gymnasium.spaces.Box(-np.inf, np.inf, (2,)), "actions"),
    ],
    ids=["tuples", "several actions", "matrices", "actions from 1", "unbounded"],
)
def test_spaces_that_do_not_fit_are_refused(
    strange: Callable[..., Gymnasium], observations: gymnasium.Space, actions: gymnasium.Space, said: str
) -> None:
    with pytest.raises(ValueError, match=f"the {said} of Strange-v0"):
        strange(observations, actions).spec()


# ---------------------------------------------------------------- keys


def test_defaults_are_those_of_the_config() -> None:
    written = yaml.safe_load((CONF / "environment" / "gymnasium.yaml").read_text())
    defaults = {
        field.name: field.default for field in dataclasses.fields(Gymnasium) if field.default is not dataclasses.MISSING
    }
    assert defaults == {key: written[key] for key in defaults}


@pytest.mark.parametrize("environment", ["cartpole", "acrobot", "mountain_car"])
@pytest.mark.parametrize("limit", ["-3", "0", "1.5", "many"])
def test_a_limit_of_steps_is_a_count(environment: str, limit: str) -> None:
    """With -3 every episode was one step long, and the run ended well."""
    with pytest.raises(ConfigError, match=r"environment.max_episode_steps is "):
        compose(f"environment={environment}", f"environment.max_episode_steps={limit}")


def test_gymnasiums_argument_for_the_limit_is_the_key() -> None:
    with pytest.raises(ConfigError, match=r"set environment\.max_episode_steps instead"):
        compose("environment=mountain_car", "+environment.arguments.max_episode_steps=3")


def test_another_kind_of_vector_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"environment.vectorization is 'fibers'.*'sync', 'threads' or 'processes'"):
        compose("environment=mountain_car", "environment.vectorization=fibers")


def test_what_an_environment_shows_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest run made five environments to ask, and every job of a sweep one more."""
    made, make = [], gymnasium.make
    monkeypatch.setattr(gymnasium, "make", lambda *names, **keys: made.append(names) or make(*names, **keys))
    for _ in range(3):
        environment = faulty("asked once")
        assert dataclasses.replace(environment.spec(), max_episode_steps=None) == Spec((3,), discrete_actions=2)
    assert len(made) == 1
    assert faulty("asked again").spec() == environment.spec()
    assert len(made) == 2


def test_whatever_a_constructor_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("no ROM\nin here")

    monkeypatch.setattr(gymnasium, "make", fail)
    with pytest.raises(ValueError, match=r"^Gymnasium cannot make 'Faulty-v0': FileNotFoundError: no ROM in here$"):
        faulty("no ROM").spec()
