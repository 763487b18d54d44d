"""Every environment of conf/environment trains, and so does one of somebody else's package."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch
from parts import modules

from sparserl.config.schema import CONF, ConfigError
from sparserl.config.validation import compose
from sparserl.environments.base import Environment
from sparserl.environments.gymnasium import Gymnasium
from sparserl.population.members import Population
from sparserl.sweeps.loop import run
from sparserl.types import Spec

SPECS = {
    "cartpole": Spec((4,), 2, max_episode_steps=500),
    "acrobot": Spec((6,), 3, max_episode_steps=500),
    "lunar_lander": Spec((8,), 4, max_episode_steps=1000),
    "lunar_lander_continuous": Spec((8,), None, (-1.0,) * 2, (1.0,) * 2, max_episode_steps=1000),
    "mountain_car": Spec((2,), 3, max_episode_steps=200),
    "mountain_car_continuous": Spec((2,), None, (-1.0,), (1.0,), max_episode_steps=999),
    "pendulum": Spec((3,), None, (-2.0,), (2.0,), max_episode_steps=200),
    "half_cheetah": Spec((17,), None, (-1.0,) * 6, (1.0,) * 6, max_episode_steps=1000),
    "hopper": Spec((11,), None, (-1.0,) * 3, (1.0,) * 3, max_episode_steps=1000),
    "walker2d": Spec((17,), None, (-1.0,) * 6, (1.0,) * 6, max_episode_steps=1000),
    "ant": Spec((105,), None, (-1.0,) * 8, (1.0,) * 8, max_episode_steps=1000),
    "super_mario_bros": Spec((4, 84, 84), 7, observation_dtype=torch.uint8, max_episode_steps=2000),
    "super_mario_bros_tiles": Spec((3 * 13 * 16 + 12,), 7, max_episode_steps=2000),
    "fetch_reach": Spec((13,), None, (-1.0,) * 4, (1.0,) * 4, max_episode_steps=50, goal_size=3),
    "surrol_ecm_reach": Spec((9,), None, (-1.0,) * 3, (1.0,) * 3, max_episode_steps=50, goal_size=3),
    "surrol_gauze_retrieve": Spec((22,), None, (-1.0,) * 5, (1.0,) * 5, max_episode_steps=50, goal_size=3),
    "surrol_mis_orient": Spec((10,), None, (-1.0,), (1.0,), max_episode_steps=50, goal_size=1),
    "surrol_needle_pick": Spec((22,), None, (-1.0,) * 5, (1.0,) * 5, max_episode_steps=50, goal_size=3),
    "surrol_needle_reach": Spec((10,), None, (-1.0,) * 5, (1.0,) * 5, max_episode_steps=50, goal_size=3),
    "surrol_peg_transfer": Spec((22,), None, (-1.0,) * 5, (1.0,) * 5, max_episode_steps=50, goal_size=3),
}
"""What the environments' own documentation says of them."""

SMALL = {
    "super_mario_bros": (
        "trainer.total_steps=100", "trainer.num_envs=1", "trainer.eval_episodes=1",
        "environment.max_episode_steps=20", "environment.size=20",
        "network.channels=[4]", "network.kernel_sizes=[4]", "network.strides=[4]", "network.hidden=[16]",
    ),
}  # fmt: skip
"""With what images do not take minutes under every regulariser: most of the time, consoles are started."""


def made(name: str) -> Environment:
    """The environment of an option, also of one that no algorithm here is for."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", [f"environment={name}"])
    environment: Environment = hydra.utils.instantiate(config["environment"], _convert_="all")
    return environment


def test_every_option_is_listed_here() -> None:
    assert SPECS.keys() | {"gymnasium", "surrol"} == {path.stem for path in (CONF / "environment").glob("*.yaml")}


def steps(environment: Environment, number: int = 3) -> None:
    """Random actions, of two members."""
    members, spec = Population((0, 1)), environment.spec()
    vector, rng = environment.open(members.generators("environment"), 1), members.rng("actions")
    shown = [vector.reset()]
    for _ in range(number):
        outcome = vector.step(spec.random_action(rng.uniform(1, spec.action_draws)))
        assert not outcome.failures
        shown.append(outcome.next_observation)
    vector.close()
    assert torch.stack(shown).float().isfinite().all()
    assert not torch.equal(shown[0], shown[-1])


def installed(name: str) -> Environment:
    """An option, or the test is skipped where it cannot be made: that it is said how to install it, test_configs.py tests."""
    environment = made(name)
    try:
        environment.spec()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    return environment


@pytest.mark.parametrize("name", SPECS)
def test_an_environment_is_what_its_documentation_says_and_takes_steps(name: str) -> None:
    environment = installed(name)
    assert environment.spec() == SPECS[name]
    steps(environment)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("algorithm", sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml")))
@pytest.mark.parametrize("name", sorted(SPECS))
def test_what_fits_trains_under_every_regularizer_and_what_does_not_is_one_sentence(
    algorithm: str, name: str, tmp_path: Path
) -> None:
    installed(name)
    size = SMALL.get(name, ("trainer.num_envs=2",))
    settings = f"algorithm={algorithm}", f"environment={name}", "trainer=smoke", "logger=disk", *size
    has, other = ("discrete", "continuous") if SPECS[name].discrete_actions else ("continuous", "discrete")
    refusal = f"algorithm={algorithm} is for {other} actions, but those of environment={name} are {has}"
    try:
        configs = [compose(*settings, f"regularizer={regularizer}") for regularizer in modules("regularizers")]
    except ConfigError as error:
        if str(error) != refusal:
            raise
        return
    results = run(configs, [tmp_path / str(number) for number in range(len(configs))])
    for result in results:
        assert (result.status, result.env_steps, result.environment) == ("done", 100 if name in SMALL else 400, name)
        assert (result.success_rate is None) == (SPECS[name].goal_size is None)


@pytest.mark.slow
def test_an_environment_of_another_package_is_chosen_by_its_module_and_id() -> None:
    pytest.importorskip("pybullet_envs_gymnasium")
    environment = Gymnasium("pybullet_envs_gymnasium:HopperBulletEnv-v0", None, {})
    assert environment.spec() == Spec((15,), None, (-1.0,) * 3, (1.0,) * 3, max_episode_steps=1000)
    steps(environment)
