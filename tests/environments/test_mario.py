"""Super Mario Bros: the game is the package's own, a policy sees what the screen shows, and randomness is the member's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import hydra
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import nn

from sparserl import play as play_command
from sparserl.config.schema import CONF
from sparserl.config.validation import compose
from sparserl.environments import mario, mario_console
from sparserl.environments.base import EpisodeKeeper, StepResult
from sparserl.environments.mario import Stage, SuperMarioBros
from sparserl.environments.mario_console import Console, check_installed
from sparserl.environments.mario_views import COLUMNS, MARIO_COLUMN, ROWS, TILE, TOP
from sparserl.films import GAP
from sparserl.population.members import Population
from sparserl.population.state import StateError, split, stack
from sparserl.sweeps.loop import run
from sparserl.training.evaluation import CPU, Evaluator, episode_generators

pytest.importorskip("gym_super_mario_bros", reason="Super Mario Bros is not installed: make install-mario")
pytest.importorskip("cv2", reason="OpenCV is not installed: make install-mario")

RIGHT, RIGHT_A, RIGHT_B, RIGHT_A_B, JUMP, BACK = range(1, 7)
"""Actions of the package's SIMPLE_MOVEMENT."""
CELLS = ROWS * COLUMNS

JUMPING = [RIGHT_A_B] * 8 + [RIGHT_B] * 2
"""Nobody stands in the way of long jumps for 21 steps of 7-1."""


def recipe(*overrides: str, name: str = "super_mario_bros_tiles") -> SuperMarioBros:
    """As ``conf/environment`` says, with the package's own rewards: a2c has no tuned settings of others."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        keys = [f"environment.{override}" for override in overrides]
        config = hydra.compose("train", ["algorithm=a2c", f"environment={name}", *keys])
    made: SuperMarioBros = hydra.utils.instantiate(config["environment"], _convert_="all")
    return made


def pixels(*overrides: str) -> SuperMarioBros:
    return recipe(*overrides, name="super_mario_bros")


CONSOLES: dict[tuple[Any, ...], list[Console]] = {}
"""Those that no test uses just now. To make one takes a second, in which it gets past the title."""


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes stages, on consoles of earlier tests where there are any: a reset leaves nothing of what was before."""
    made: list[tuple[Stage, list[Console]]] = []

    def console(*settings: Any) -> Console:
        return idle.pop() if (idle := CONSOLES.setdefault(settings, [])) else Console(*settings)

    def make(environment: SuperMarioBros) -> Stage:
        with monkeypatch.context() as patch:  # only here: the type that a method says is looked up when it is called first
            patch.setattr(mario, "Console", console)
            env = Stage(environment)
        settings = environment.world, environment.stage, environment.rom, environment.draw
        made.append((env, CONSOLES[settings]))
        return env

    yield make
    for env, idle in made:
        if env._console is not None:
            idle.append(env._console)


def actions(number: int, seed: int = 0) -> list[int]:
    """Mostly to the right, with jumps."""
    return np.random.default_rng(seed).choice([RIGHT, RIGHT_A, RIGHT_A_B, RIGHT_A_B, JUMP, BACK], number).tolist()


# ---------------------------------------------------------------- the game is the package's


@pytest.mark.parametrize("seed", range(3))
def test_the_reward_is_the_packages_own(seed: int) -> None:
    """Frame by frame until a death, which 400 steps of haste do not survive."""
    from gym_super_mario_bros import SuperMarioBrosEnv
    from gym_super_mario_bros.actions import SIMPLE_MOVEMENT
    from nes_py.wrappers import JoypadSpace

    package = JoypadSpace(SuperMarioBrosEnv(target=(7, 1)), SIMPLE_MOVEMENT)
    package.reset()
    ours = Console(7, 1, "vanilla", draw=True)
    buttons = mario_console.buttons_of("simple")
    ended = False
    for action in np.repeat(actions(400, seed), 4).tolist():
        _, reward, ended, _, info = package.step(action)
        assert ours.frame(buttons[action]) == reward
        assert (ours.x, ours.dead or ours.flag, ours.flag) == (info["x_pos"], ended, info["flag_get"])
        if ended:
            break
    package.close()
    ours.close()
    assert ended
    assert reward == -15  # 25 for the death, clipped


def test_a_step_is_four_frames_and_its_reward_is_scaled(stage: Any) -> None:
    env = stage(recipe("max_noops=0", "draw=true", "reward_scale=0.5", "death_penalty=3.0"))
    env.reset(seed=0)
    console = Console(7, 1, "vanilla", draw=True)
    for action in actions(400):
        _, reward, terminated, _, info = env.step(action)
        expected = 0.0
        for _ in range(4):
            expected += console.frame(mario_console.buttons_of("simple")[action])
            if console.dead:
                break
        assert reward == 0.5 * expected - 3.0 * terminated
        if terminated:
            break
    console.close()
    assert terminated
    assert info["flag"] == 0


def test_the_flag_ends_an_episode_with_its_reward(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mario is put at the pole by writing what the game itself writes there: no short run of buttons gets so far."""
    env = stage(recipe("max_noops=0", "flag_reward=5.0", "death_penalty=7.0"))
    env.reset(seed=0)
    advance = env._console._advance

    def at_the_pole(buttons: int) -> None:
        advance(buttons)
        env._console.memory[mario_console.AIR] = mario_console.AT_POLE
        env._console.memory[mario_console.ENEMY_TYPE] = mario_console.FLAG

    monkeypatch.setattr(env._console, "_advance", at_the_pole)
    _, reward, terminated, truncated, info = env.step(0)
    assert (terminated, truncated, info["flag"]) == (True, False, 1.0)
    assert reward == 5.0  # a frame on the spot is worth nothing


@pytest.mark.parametrize(("movements", "number"), [("right_only", 5), ("simple", 7), ("complex", 12)])
def test_actions_are_the_packages_lists(movements: str, number: int) -> None:
    assert recipe(f"actions={movements}").spec().discrete_actions == number


def test_without_drawing_the_game_is_the_same_where_the_console_keeps_up(stage: Any) -> None:
    """Where it does not, as at the hammer brothers of 7-1 (x of about 1,340), it is not: that is what the key says."""
    drawn, undrawn = stage(recipe("draw=true")), stage(recipe("draw=false"))
    for seed in range(2):
        seen, same = drawn.reset(seed=seed), undrawn.reset(seed=seed)
        assert np.array_equal(seen[0], same[0])
        for action in actions(150, seed):
            left, right = drawn.step(action), undrawn.step(action)
            assert np.array_equal(left[0], right[0])
            assert left[1:] == right[1:]
            if left[2] or left[4]["x_pos"] > 1200:
                break


def test_looking_does_not_change_an_undrawn_game(stage: Any) -> None:
    watched, unwatched = stage(recipe()), stage(recipe())
    watched.reset(seed=0)
    unwatched.reset(seed=0)
    pictures = []
    for action in JUMPING * 2:
        pictures.append(watched.render())
        seen, same = watched.step(action), unwatched.step(action)
        assert np.array_equal(seen[0], same[0])
        assert seen[1:] == same[1:]
    assert all(picture.shape == (240, 256, 3) and picture.std() > 10 for picture in pictures), "the screen is not blank"
    assert (pictures[0] != pictures[-1]).any()


# ---------------------------------------------------------------- what is seen


def test_solid_tiles_are_where_the_screen_shows_something(stage: Any) -> None:
    """The sky of 7-1 is one colour: no solid tile is all sky. One row higher some would be."""
    env = stage(recipe("max_noops=0", "draw=true"))
    env.reset(seed=0)
    shown, moved = [], []
    for action in JUMPING * 2:
        solid = env.step(action)[0][:CELLS].reshape(ROWS, COLUMNS)
        screen, border = env.render(), env._console.left_border
        left = (env._console.x + TILE // 2) // TILE - MARIO_COLUMN
        sky = (screen == screen[TOP + 2, 2]).all(axis=2)
        for row, column in zip(*np.nonzero(solid), strict=True):
            top, x = TOP + int(row) * TILE, (left + int(column)) * TILE - border
            if 0 <= x <= 256 - TILE:  # as a whole on the screen
                shown.append(not sky[top : top + TILE, x : x + TILE].all())
                moved.append(not sky[top - TILE : top, x : x + TILE].all())
    assert len(shown) > 300  # two rows of ground alone are 28 a step
    assert all(shown)
    assert not all(moved)


def test_the_ground_is_solid_and_the_sky_is_not(stage: Any) -> None:
    first = stage(recipe("max_noops=0")).reset(seed=0)[0]
    solid = first[:CELLS].reshape(ROWS, COLUMNS)
    assert (solid[-2:, MARIO_COLUMN:] == 1).all(), "7-1 begins on ground"
    assert (solid[:4] == 0).all()
    assert (solid[:, : MARIO_COLUMN - 3] == 0).all(), "there is nothing to the left of the screen"


def test_what_kills_was_seen_as_hostile_beside_mario(stage: Any) -> None:
    """Mario walks into the first enemy, a bullet or a koopa: before he dies one is in his column or beside it."""
    env = stage(recipe("max_noops=0"))
    env.reset(seed=0)
    terminated = truncated = False
    seen = []
    while not (terminated or truncated):
        shown, _, terminated, truncated, _ = env.step(JUMP if len(seen) % 6 < 3 else RIGHT)
        seen.append(shown[CELLS : 2 * CELLS].reshape(ROWS, COLUMNS))
    assert terminated
    assert any(hostile[:, MARIO_COLUMN - 1 : MARIO_COLUMN + 2].any() for hostile in seen[-3:])


def test_the_third_grid_is_the_second_of_the_step_before(stage: Any) -> None:
    env = stage(recipe())
    before = env.reset(seed=0)[0]
    for action in JUMPING * 2:
        seen = env.step(action)[0]
        assert np.array_equal(seen[2 * CELLS : 3 * CELLS], before[CELLS : 2 * CELLS])
        before = seen


@pytest.mark.parametrize("make", [recipe, pixels])
def test_an_observation_does_not_change_afterwards(stage: Any, make: Any) -> None:
    """The memory and the screen of the package are live views."""
    env = stage(make())
    seen = env.reset(seed=0)[0]
    kept = seen.copy()
    for action in JUMPING:
        env.step(action)
    assert np.array_equal(seen, kept)


def test_images_are_stacked_and_the_newest_is_the_last(stage: Any) -> None:
    import cv2

    env = stage(pixels("size=42", "stack=3"))
    before = env.reset(seed=0)[0]
    assert before.shape == (3, 42, 42)
    assert (before == before[0]).all()
    for action in JUMPING:
        seen = env.step(action)[0]
        assert np.array_equal(seen[:-1], before[1:])
        before = seen
    gray = cv2.resize(cv2.cvtColor(env.render(), cv2.COLOR_RGB2GRAY), (42, 42), interpolation=cv2.INTER_AREA)
    assert abs(gray.astype(int) - seen[-1]).max() <= 2  # its weights of the colours are rounded otherwise


def test_pixels_need_drawing() -> None:
    with pytest.raises(Exception, match=r"environment\.draw is false, but pixels are what the console draws"):
        pixels("draw=false")


# ---------------------------------------------------------------- episodes


def test_idling_ends_by_patience_and_without_it_by_the_step_limit(stage: Any) -> None:
    def length(*overrides: str) -> tuple[int, bool]:
        env = stage(recipe("max_noops=0", *overrides))
        env.reset(seed=0)
        for step in range(1, 100):
            _, _, terminated, truncated, info = env.step(0)
            if terminated or truncated:
                assert info["x_pos"] == 40  # where a stage begins
                return step, truncated
        raise AssertionError("it goes on")

    assert length("patience=12") == (12, True)
    assert length("patience=null", "max_episode_steps=30") == (30, True)


@pytest.mark.parametrize("limit", [5, 100])
def test_only_the_step_limit_cuts_an_episode_that_was_not_over(limit: int) -> None:
    environment = recipe("max_noops=0", "patience=10", f"max_episode_steps={limit}")
    with closing(environment.open(Population((0,)).generators("environment"), 1)) as vector:
        vector.reset()
        outcomes = [vector.step(torch.zeros(1, 1, dtype=torch.long)) for _ in range(12)]
        assert not any(outcome.failures for outcome in outcomes)
        assert any(outcome.truncated.any() for outcome in outcomes)
        assert vector.limited == ({0} if limit == 5 else set())


def test_after_the_end_and_after_closing_it_is_said_and_closing_twice_is_nothing(stage: Any) -> None:
    env = stage(recipe("max_noops=0", "patience=1"))
    env.reset(seed=0)
    assert env.step(0)[3]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    env.step(RIGHT)
    env.close()
    env.close()
    for use in (env.reset, env.render):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError):
            use()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_how_long_nothing_is_pressed_comes_from_the_seed(stage: Any) -> None:
    env = stage(recipe("max_noops=30"))

    def memory(env: Stage, seed: int) -> bytes:
        env.reset(seed=seed)
        assert env._console is not None
        return bytes(env._console.memory)

    starts = [memory(env, seed) for seed in (0, 1, 2, 0)]
    assert starts[0] == starts[3]
    assert len({*starts}) > 1  # by chance three draws out of 31 would be the same once in 961 times; the seeds are fixed
    still = stage(recipe("max_noops=0"))
    assert memory(still, 0) == memory(still, 1), "the game itself leaves nothing to chance"


@pytest.mark.parametrize(("probability", "fewest", "most"), [(0.0, 0, 0), (0.25, 4, 28), (1.0, 60, 60)])
def test_sticky_actions_hold_the_buttons_of_the_step_before(
    stage: Any, monkeypatch: pytest.MonkeyPatch, probability: float, fewest: int, most: int
) -> None:
    """Of 60 steps that press another button each, those are held that press the same as before: 15 in the mean.

    Of chance 0.25 fewer than 4 or more than 28 would come once in 8,000 times.
    """
    env = stage(recipe("max_noops=0", "patience=null", f"sticky_probability={probability}"))
    env.reset(seed=0)
    pressed = [0]
    frame = env._console.frame

    def noted(buttons: int) -> float:
        pressed.append(buttons)
        return float(frame(buttons))

    monkeypatch.setattr(env._console, "frame", noted)
    for step in range(60):
        env.step(JUMP if step % 2 == 0 else 0)
    steps = pressed[::4]  # the one before the first, and the last frame of each
    assert len(steps) == 61
    assert fewest <= sum(now == before for before, now in pairwise(steps)) <= most


# ---------------------------------------------------------------- vectors


def play(environment: SuperMarioBros, seeds: tuple[int, ...], envs: int, steps: int = 60) -> list[StepResult]:
    """Each sub-environment of a member takes the actions of its own number."""
    columns = torch.tensor([actions(steps, env) for env in range(envs)])
    with closing(environment.open(Population(seeds).generators("environment"), envs)) as vector:
        first, nothing = vector.reset(), torch.zeros(len(seeds), envs)
        outcomes = [StepResult(first, first, nothing, nothing, nothing)]
        outcomes += [vector.step(columns[:, step].expand(len(seeds), envs)) for step in range(steps)]
    assert not any(outcome.failures for outcome in outcomes)
    return outcomes


def same(left: list[StepResult], right: list[StepResult]) -> bool:
    fields = "observation", "next_observation", "reward", "terminated", "truncated"
    return all(torch.equal(getattr(a, f), getattr(b, f)) for a, b in zip(left, right, strict=True) for f in fields)


def of_member(outcomes: list[StepResult], member: int) -> list[StepResult]:
    rows = slice(member, member + 1)
    return [
        StepResult(o.observation[rows], o.next_observation[rows], o.reward[rows], o.terminated[rows], o.truncated[rows])
        for o in outcomes
    ]


RANDOM = "sticky_probability=0.25", "patience=10"
"""Episodes are short, so that there are resets in 60 steps."""


def test_a_member_is_what_it_is_alone_and_another_one_differs() -> None:
    together = play(recipe(*RANDOM), (3, 4), 2)
    assert any((outcome.terminated + outcome.truncated).any() for outcome in together)
    for member, seed in enumerate((3, 4)):
        assert same(of_member(together, member), play(recipe(*RANDOM), (seed,), 2))
    assert not same(of_member(together, 0), of_member(together, 1))


@pytest.mark.parametrize("how", ["threads", "processes"])
def test_however_steps_are_taken_they_are_the_same(how: str) -> None:
    assert same(play(recipe(*RANDOM, "vectorization=sync"), (3,), 3), play(recipe(*RANDOM, f"vectorization={how}"), (3,), 3))


@pytest.mark.parametrize("make", [recipe, pixels])
def test_a_snapshot_restores_episodes_exactly(make: Any) -> None:
    """Some episodes have just begun and others are long; what follows is the same, also where chance has a part in it.

    First in consoles that have played on, then of one member in others.
    """
    environment, seeds, steps = make(*RANDOM), (3, 4), 60
    columns = torch.tensor([actions(steps, env) for env in range(2)])
    generators = Population(seeds).generators("environment")
    with closing(environment.open(generators, 2)) as vector:
        assert isinstance(vector, EpisodeKeeper)
        vector.reset()
        for step in range(33):
            outcome = vector.step(columns[:, step].expand(2, 2))
        state, drawn = vector.snapshot(), generators.state_dict()
        members = [split({"episodes": state, "drawn": drawn}, member) for member in range(2)]
        following = [vector.step(columns[:, step].expand(2, 2)) for step in range(33, steps)]
        saved = stack(members)
        generators.load_state_dict(saved["drawn"])
        assert torch.equal(vector.restore(saved["episodes"]), outcome.observation)
        assert same([vector.step(columns[:, step].expand(2, 2)) for step in range(33, steps)], following)
    assert state["lengths"].unique().numel() > 1, "episodes that began at different steps"
    assert any((outcome.terminated + outcome.truncated).any() for outcome in following)
    alone = stack(members[1:])
    generators = Population(seeds[1:]).generators("environment")
    with closing(environment.open(generators, 2)) as vector:
        assert isinstance(vector, EpisodeKeeper)
        generators.load_state_dict(alone["drawn"])
        assert torch.equal(vector.restore(alone["episodes"]), outcome.observation[1:])
        again = [vector.step(columns[:, step].expand(1, 2)) for step in range(33, steps)]
    assert same(again, of_member(following, 1))


def test_episodes_that_come_out_otherwise_are_refused() -> None:
    """As where another version of the game's package is installed."""
    environment = recipe(*RANDOM)
    with closing(environment.open(Population((3,)).generators("environment"), 1)) as vector:
        vector.reset()
        for action in JUMPING[:5]:
            vector.step(torch.tensor([[action]]))
        state = vector.snapshot()
        state["observation"][..., 0] += 1
        with pytest.raises(StateError, match="holds episodes that cannot be restored"):
            vector.restore(state)


def test_measures_are_how_far_an_episode_came_and_whether_it_reached_the_flag() -> None:
    environment = recipe("max_noops=0", "patience=20")
    with closing(Evaluator(environment, 2, 2, CPU)) as evaluator:  # the first member walks, the second stays where it is
        found = evaluator(lambda seen, rows: (torch.arange(2)[rows].unsqueeze(1) == 0).expand(seen.shape[:2]).long() * RIGHT)
    assert environment.measures == ("x_pos", "flag_rate") == tuple(found.measures)
    assert found.measures["x_pos"][1].tolist() == [40, 40]
    assert (found.measures["x_pos"][0] > 100).all()
    assert (found.measures["flag_rate"] == 0).all()
    metrics = found.metrics()
    assert metrics["eval/x_pos"].tolist() == found.measures["x_pos"].mean(dim=1).tolist()


def test_a_failure_of_one_console_is_said_and_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(recipe().open(Population((0, 1)).generators("environment"), 1)) as vector:
        vector.reset()
        broken = vector._vector.envs[1].env.env  # type: ignore[attr-defined]
        monkeypatch.setattr(broken._console, "frame", lambda _: 1 / 0)
        outcome = vector.step(torch.ones(2, 1, dtype=torch.long))
    assert {*outcome.failures} == {1}
    assert "division by zero" in outcome.failures[1]
    assert outcome.reward.isnan().tolist() == [[False], [True]]


# ---------------------------------------------------------------- alone


@pytest.mark.parametrize("make", [recipe, pixels])
def test_gymnasiums_checker_finds_nothing(make: Any) -> None:
    with closing(make("patience=20").single(episode_generators("checked"), "rgb_array")) as env:
        check_env(env.unwrapped, skip_render_check=True)  # which would make another one by its name


def test_alone_it_plays_the_episodes_of_an_evaluation() -> None:
    environment, column = recipe("sticky_probability=0.25", "patience=5"), actions(400)
    step = iter(range(400))
    with closing(Evaluator(environment, 1, 1, CPU, "played")) as evaluator:
        found = evaluator(lambda seen, _: torch.full(seen.shape[:2], column[next(step)]))
    with closing(environment.single(episode_generators("played"), "rgb_array")) as env:
        env.reset()
        total, ended, number = 0.0, False, 0
        while not ended:
            _, reward, terminated, truncated, _ = env.step(column[number])
            total, ended, number = total + float(reward), terminated or truncated, number + 1
    assert total == float(found.returns)


def test_a_film_shows_an_undrawn_game_with_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two policies side by side, and what each gives is what it gives unseen."""
    environment = recipe("patience=5", "max_noops=0")
    captions: list[str] = []
    monkeypatch.setattr(play_command, "captioned", lambda picture, lines: captions.append(lines[1]) or picture)
    policies = {"walks": Constant(RIGHT), "stands": Constant(0)}
    shown: list[np.ndarray] = []
    envs = [environment.single(episode_generators("filmed"), "rgb_array") for _ in policies]
    rewards = play_command.play_beside(policies, envs, environment.measures, shown.append)
    for env in envs:
        env.close()
    with closing(environment.single(episode_generators("filmed"), "rgb_array")) as env:
        unseen = play_command.play(policies["walks"], Unshown(env), lambda _: None)
    assert rewards["walks"] == unseen
    assert len(rewards["stands"]) == 5, "its patience"
    assert captions[-1].split()[-2] == "x_pos"
    assert int(captions[-1].split()[-1]) > 100
    assert {picture.shape for picture in shown} == {(240, 2 * 256 + GAP, 3)}
    assert all(picture[:, :256].std() > 10 for picture in shown), "the screen is not blank"


class Constant(nn.Module):
    """Takes one action always."""

    def __init__(self, action: int) -> None:
        super().__init__()
        self.action = action

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(torch.full(seen.shape[:1], self.action), 7).float()


class Unshown(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Nobody looks at it."""

    render_mode = None  # type: ignore[assignment]


# ---------------------------------------------------------------- packages


def test_a_missing_and_another_version_of_a_package_are_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(mario_console.metadata, "version", missing)
    with pytest.raises(ModuleNotFoundError, match=r"needs gym-super-mario-bros, which is not installed: make install-mario"):
        check_installed()
    monkeypatch.setattr(mario_console.metadata, "version", lambda _: "7.4.0")
    with pytest.raises(ModuleNotFoundError, match=r"needs gym-super-mario-bros 8\.0\.x, and 7\.4\.0 is .*make install-mario"):
        check_installed()


# ---------------------------------------------------------------- whole runs


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
@pytest.mark.parametrize("environment", ["super_mario_bros_tiles", "super_mario_bros"])
def test_it_trains(algorithm: str, environment: str, tmp_path: Path) -> None:
    config = compose(
        f"algorithm={algorithm}", f"environment={environment}", "trainer=smoke", "logger=disk", "regularizer=none",
        "trainer.num_envs=4",
    )  # fmt: skip
    (result,) = run([config], [tmp_path])
    assert (result.status, result.env_steps, result.vectorization) == ("done", 400, "threads")
    assert result.flag_rate == 0
    assert result.x_pos is not None
    assert result.x_pos >= 40
