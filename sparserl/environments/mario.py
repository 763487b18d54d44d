"""Super Mario Bros for a policy: a stage, its buttons, and what an episode is worth.

Optional: the package brings the game "for educational purposes only", and nothing of it is kept here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import torch
from annotated_types import Ge, Le
from gymnasium import spaces
from gymnasium.wrappers import HumanRendering

from sparserl.environments.base import BrokenEnvironmentError, Environment, VectorEnvironment
from sparserl.environments.containment import Contained
from sparserl.environments.gymnasium import Seeded, spec_of
from sparserl.environments.mario_console import Console, Rom, buttons_of, check_installed
from sparserl.environments.mario_views import Pixels, Tiles, View
from sparserl.environments.replayed import ReplayedGymnasium
from sparserl.environments.vectors import Vectorization, vectorize
from sparserl.fields import Count, Fraction, NonNegative, Positive, Steps
from sparserl.population.random import Generators
from sparserl.terminal import describe
from sparserl.types import Spec

NAME = "Super Mario Bros"

MEASURES = {"x_pos": ("x_pos",), "flag_rate": ("flag",)}
"""By their names in rows, the keys of ``info`` that say how far an episode came: the farthest x in pixels, and whether the
flag was reached."""


@dataclass(frozen=True, kw_only=True)
class SuperMarioBros(Environment):
    """One stage of Super Mario Bros, in one life. Keys: see ``SuperMarioBrosTiles``."""

    world: Annotated[int, Ge(1), Le(8)]
    stage: Annotated[int, Ge(1), Le(4)]
    rom: Rom
    draw: bool
    actions: Literal["right_only", "simple", "complex"]
    frame_skip: Count
    sticky_probability: Fraction
    max_noops: Steps
    max_episode_steps: Count
    patience: Count | None
    reward_scale: Positive
    flag_reward: NonNegative
    death_penalty: NonNegative
    vectorization: Vectorization
    threads: Count
    at_once: Count | None

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(MEASURES)

    def spec(self) -> Spec:
        return _spec(self)

    def open(self, generators: Generators, envs: int) -> VectorEnvironment:
        vector = vectorize(self._contained, len(generators) * envs, self.vectorization, NAME, self.threads)
        return ReplayedGymnasium(vector, generators, envs, self.spec(), self.measures)

    def single(self, generators: Iterator[torch.Generator], render_mode: str) -> gymnasium.Env[Any, Any]:
        env: gymnasium.Env[Any, Any] = self._make()
        return Seeded(HumanRendering(env) if render_mode == "human" else env, generators)

    @abstractmethod
    def view(self) -> View:
        """What a policy is shown, of one console."""

    def _make(self) -> Stage:
        """Raises like ``spec``."""
        check_installed()
        try:
            return Stage(self)
        except Exception as error:
            raise BrokenEnvironmentError(f"{NAME} cannot be made: {describe(error)}") from error

    def _contained(self) -> gymnasium.Env[Any, Any]:
        return Contained(self._make(), NAME, self.max_episode_steps, MEASURES)


@dataclass(frozen=True, kw_only=True)
class SuperMarioBrosTiles(SuperMarioBros):
    """What is on the screen as a vector, read out of the console's memory. See ``Tiles``.

    Keys (``make docs`` copies them from ``conf/environment/super_mario_bros_tiles.yaml``):
        world (integer, at least 1, at most 8): World, 1 to 8.
        stage (integer, at least 1, at most 4): Stage of it, 1 to 4.
        rom (``vanilla``, ``downsample``, ``pixel``, ``rectangle``): What the game looks like, which tiles do not show: vanilla,
            downsample, pixel or rectangle.
        draw (``true`` or ``false``): Whether the console draws its frames. Without, it is nearly twice as fast, and not quite
            the same game: where there are many enemies, the drawn one lags. The same in training and evaluation.
        actions (``right_only``, ``simple``, ``complex``): Which buttons can be pressed: right_only (5 actions), simple (7, also
            to the left and jumps on the spot) or complex (12).
        frame_skip (integer, at least 1): Frames (60 a second) that the buttons of a step are held for.
        sticky_probability (number, at least 0, at most 1): Probability at each step that the buttons of the step before are
            held instead, 0 to 1 (Machado et al. 2018: 0.25).
        max_noops (integer, at least 0): The most frames in which nothing is pressed at the start of an episode; how many is
            random. Without these and sticky actions all episodes of a greedy policy are the same one.
        max_episode_steps (integer, at least 1): Steps after which an episode is truncated; with 4 frames a step the game's own
            clock ends it after 2,005.
        patience (integer, at least 1 or ``null``): Steps without getting farther to the right after which an episode is
            truncated; null waits for ever.
        reward_scale (number, above 0): What the reward of the package is multiplied by: pixels to the right, less ticks of the
            clock and 25 for a death, all summed over the frames of a step, each frame's between -15 and 15.
        flag_reward (number, at least 0): Added at the flag.
        death_penalty (number, at least 0): Subtracted at a death.
        vectorization (``sync``, ``threads``, ``processes``): How sub-environments take a step: sync (one after the other),
            threads (which pays, since a console computes outside of Python's lock) or processes (one for each sub-environment).
            The results are the same.
        threads (integer, at least 1): How many sub-environments take a step at the same time where vectorization is threads.
        at_once (integer, at least 1 or ``null``): How many sub-environments an evaluation may keep open at once; each takes 0.5
            MB.
    """

    def view(self) -> View:
        return Tiles()


@dataclass(frozen=True, kw_only=True)
class SuperMarioBrosPixels(SuperMarioBros):
    """The last images of the screen, stacked. See ``Pixels``.

    Keys beside those of ``SuperMarioBrosTiles`` (``make docs`` copies them from ``conf/environment/super_mario_bros.yaml``):
        size (integer, at least 1): Height and width of an image in pixels, to which the screen's 240 x 256 are averaged.
        stack (integer, at least 1): Images in an observation: one of each of the last steps.
    """

    size: Count
    stack: Count

    def __post_init__(self) -> None:
        if not self.draw:
            raise ValueError("environment.draw is false, but pixels are what the console draws; set it to true")

    def view(self) -> View:
        return Pixels(self.size, self.stack)


@cache
def _spec(environment: SuperMarioBros) -> Spec:
    with closing(environment._make()) as env:
        return spec_of(env, NAME, environment.max_episode_steps)


class Stage(gymnasium.Env[np.ndarray, np.int64]):
    """One stage on one console, as an environment of Gymnasium.

    What is random in an episode comes from the seed of its reset: for how many frames nothing is pressed at its start, and at
    which steps the buttons of the step before are held.
    An episode is terminated by death and by the flag. It is truncated after ``max_episode_steps``, and after ``patience``
    steps that brought Mario no farther than he had been.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 (Gymnasium's)
    render_mode = "rgb_array"

    def __init__(self, settings: SuperMarioBros) -> None:
        self._settings, self._buttons, self._view = settings, buttons_of(settings.actions), settings.view()
        self._console: Console | None = Console(settings.world, settings.stage, settings.rom, settings.draw)
        self._playing = False
        low, high = (0, 255) if self._view.dtype == np.uint8 else (-np.inf, np.inf)
        self.observation_space = spaces.Box(low, high, self._view.shape, self._view.dtype)
        self.action_space = spaces.Discrete(len(self._buttons))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        console = self._opened()
        console.reset()
        self._pressed = self._steps = self._waited = 0
        self._playing = True
        for _ in range(self.np_random.integers(self._settings.max_noops, endpoint=True)):
            console.frame(self._pressed)
        self._farthest = console.x
        return self._view.first(console), {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self._playing:
            raise gymnasium.error.ResetNeeded("the episode has ended, and reset begins the next one")
        settings, console = self._settings, self._opened()
        if not (settings.sticky_probability and self.np_random.random() < settings.sticky_probability):
            self._pressed = self._buttons[action]
        classic = 0.0
        for _ in range(settings.frame_skip):
            classic += console.frame(self._pressed)
            if console.dead or console.flag:
                break
        reward = settings.reward_scale * classic + settings.flag_reward * console.flag - settings.death_penalty * console.dead

        self._steps += 1
        self._waited = 0 if console.x > self._farthest else self._waited + 1
        self._farthest = max(self._farthest, console.x)
        terminated = console.dead or console.flag
        impatient = settings.patience is not None and self._waited >= settings.patience
        truncated = not terminated and (impatient or self._steps >= settings.max_episode_steps)
        self._playing = not (terminated or truncated)
        info = {"x_pos": float(self._farthest), "flag": float(console.flag)}
        return self._view.next(console), reward, terminated, truncated, info

    def render(self) -> np.ndarray:
        return self._opened().picture()

    def close(self) -> None:
        """Closes the console; once more is harmless."""
        console, self._console = self._console, None
        self._playing = False
        if console is not None:
            console.close()

    def _opened(self) -> Console:
        if self._console is None:
            raise gymnasium.error.ClosedEnvironmentError("the environment is closed")
        return self._console
