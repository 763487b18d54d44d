"""Super Mario Bros, by gym-super-mario-bros 8 and nes-py 9: one stage, one life, and one episode.

Traps of these packages, and what is done about them: the memory and the screen are live views, so whatever is shown is a copy;
a seed changes nothing and the console is deterministic, so episodes differ by idle steps at their start and by actions that
stick, drawn from the generator of the episode; a single stage ends with the first death; stepping after the end raises, and so
does closing twice.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, ClassVar, Literal

import gymnasium
import numpy as np
from annotated_types import Ge, Le, Lt
from gymnasium import spaces

from sparserl.environments import mario_tiles
from sparserl.environments.gymnasium import Made
from sparserl.environments.mario_tiles import Tiles
from sparserl.environments.vectors import Vectorization
from sparserl.fields import Count, NonNegative, Steps
from sparserl.types import Spec

INSTALL = "make install-mario (it installs gym-super-mario-bros 8 and nes-py 9, which needs a C++ compiler)"

BUTTONS = {"NOOP": 0, "A": 1, "B": 2, "up": 16, "down": 32, "left": 64, "right": 128}
"""The bit of each button in the byte of a controller."""

SPRITE_0_HIT, DISABLE_SCREEN = 0x722, 0x774
"""Where the game waits for the picture to be drawn as far as the score, and whether the picture is switched off."""

LARGEST_REWARD = 15
"""Of a frame, as the package clips it."""


@dataclass(frozen=True, kw_only=True)
class SuperMarioBros(Made):
    """The keys are described in ``conf/environment/super_mario_bros_tiles.yaml``."""

    shown: ClassVar[Literal["tiles", "pixels"]] = "tiles"

    world: Annotated[int, Ge(1), Le(8)]
    stage: Annotated[int, Ge(1), Le(4)]
    rom: Literal["vanilla", "downsample", "pixel", "rectangle"]
    actions: Literal["right_only", "simple", "complex"]
    frame_skip: Count
    sticky: Annotated[float, Ge(0), Lt(1)]
    noops: Steps
    stall_steps: Count | None
    reward_scale: NonNegative
    flag_bonus: NonNegative
    death_penalty: NonNegative
    draw: bool
    max_episode_steps: Count
    vectorization: Vectorization = "threads"
    at_once: Count | None = 32

    @property
    def name(self) -> str:
        return f"Super Mario Bros {self.world}-{self.stage}"

    def spec(self) -> Spec:
        return replace(super().spec(), max_episode_steps=self.max_episode_steps)

    def make(self, render_mode: str | None = None) -> tuple[gymnasium.Env[Any, Any], int | None]:
        return MarioTiles(self, render_mode), None


@dataclass(frozen=True, kw_only=True)
class SuperMarioBrosPixels(SuperMarioBros):
    """The keys are described in ``conf/environment/super_mario_bros.yaml``."""

    shown: ClassVar[Literal["tiles", "pixels"]] = "pixels"

    size: Annotated[int, Ge(8), Le(240)]
    stack: Count

    def __post_init__(self) -> None:
        if not self.draw:
            raise ValueError("environment.draw is false, so that there are no pixels; set it to true")

    def make(self, render_mode: str | None = None) -> tuple[gymnasium.Env[Any, Any], int | None]:
        return MarioPixels(self, render_mode), None


def console(settings: SuperMarioBros) -> Any:
    """A console with the game at the start of the stage. Raises ModuleNotFoundError where it is not installed."""
    try:
        installed = version("gym-super-mario-bros"), version("nes-py")
        from gym_super_mario_bros import SuperMarioBrosEnv
    except (PackageNotFoundError, ImportError) as error:
        raise ModuleNotFoundError(f"{settings.name} is not installed: {INSTALL}") from error
    if [its.split(".")[0] for its in installed] != ["8", "9"]:
        raise ModuleNotFoundError(f"gym-super-mario-bros {installed[0]} and nes-py {installed[1]} are installed: {INSTALL}")
    return SuperMarioBrosEnv(rom_mode=settings.rom, target=(settings.world, settings.stage))


def bytes_of(actions: str) -> list[int]:
    """The byte of the controller for each action of a set of the package's."""
    from gym_super_mario_bros import actions as sets

    named = {"right_only": sets.RIGHT_ONLY, "simple": sets.SIMPLE_MOVEMENT, "complex": sets.COMPLEX_MOVEMENT}
    return [sum(BUTTONS[button] for button in pressed) for pressed in named[actions]]


class Mario(gymnasium.Env[np.ndarray, Any]):
    """One console. ``info`` has the farthest ``x_pos`` of the episode, and ``flag_rate``: 1 where it has reached the flag.

    ``observe`` says what is seen.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium declares it)
        "render_modes": ["rgb_array"],
        "render_fps": 15,
    }
    episode_values = ("x_pos", "flag_rate")

    def __init__(self, settings: SuperMarioBros, render_mode: str | None) -> None:
        self._settings, self.render_mode = settings, render_mode
        self._draw = settings.draw or render_mode is not None
        self._game = console(settings)
        self._memory = memoryview(self._game.ram)
        self._bytes = bytes_of(settings.actions)
        self.action_space = spaces.Discrete(len(self._bytes))
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """The start of the stage, after as many idle frames as are drawn."""
        super().reset(seed=seed)
        self._game.reset()
        self._hidden = self._steps = self._since_progress = self._pressed = 0
        for _ in range(int(self.np_random.integers(self._settings.noops + 1))):
            self._frame(0)
        self._farthest, self._over = self._x, False
        self.restart()
        return self.observe(), self._info(flag=False)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over")
        settings = self._settings
        if settings.sticky == 0 or self.np_random.random() >= settings.sticky:
            self._pressed = self._bytes[int(action)]
        total, dead, flag = 0.0, False, False
        for _ in range(settings.frame_skip):
            reward, dead, flag = self._frame(self._pressed)
            total += reward
            if dead or flag:
                break
        self._steps += 1
        self._since_progress = 0 if self._x > self._farthest else self._since_progress + 1
        self._farthest = max(self._farthest, self._x)
        terminated = dead or flag
        stalled = settings.stall_steps is not None and self._since_progress >= settings.stall_steps
        truncated = not terminated and (stalled or self._steps >= settings.max_episode_steps)
        self._over = terminated or truncated
        total = settings.reward_scale * total + settings.flag_bonus * flag - settings.death_penalty * (dead and not flag)
        return self.observe(), total, terminated, truncated, self._info(flag)

    def render(self) -> Any:
        return self._game.screen.copy()

    def close(self) -> None:
        with suppress(ValueError):  # it was closed before
            self._game.close()

    # ------------------------------------------------------------ what is seen

    def restart(self) -> None:
        """Called when an episode begins, before it is seen."""

    def observe(self) -> np.ndarray:
        """What is seen now: a copy."""
        raise NotImplementedError

    # ------------------------------------------------------------ the game

    @property
    def _x(self) -> int:
        return self._memory[0x6D] * 256 + self._memory[0x86]

    def _info(self, flag: bool) -> dict[str, Any]:
        return {"x_pos": float(self._farthest), "flag_rate": float(flag)}

    def _frame(self, buttons: int) -> tuple[float, bool, bool]:
        """One frame: the package's reward, and whether Mario is dead or has reached the flag.

        Without drawing the two switches are set anew before each frame, the second from the second frame on: both at once would
        lose a frame. While an area changes the game needs its picture.
        """
        game, memory = self._game, self._memory
        if not self._draw:
            memory[SPRITE_0_HIT] = 0
            if self._hidden:
                memory[DISABLE_SCREEN] = 1
            self._hidden += 1
        game._env.frame_advance(buttons)  # noqa: SLF001 (step would do all that follows for each frame in its own way)
        reward = max(-LARGEST_REWARD, min(LARGEST_REWARD, game._get_reward()))  # noqa: SLF001
        dead, flag = game._is_dying or game._is_dead, game._flag_get  # noqa: SLF001
        if not (dead or flag):
            if not self._draw and game._is_busy:  # noqa: SLF001
                memory[DISABLE_SCREEN], memory[SPRITE_0_HIT], self._hidden = 0, 1, 0
            game._did_step(False)  # noqa: SLF001
        return reward, dead, flag


class MarioTiles(Mario):
    """Shows the tiles of ``mario_tiles``, ``[SIZE]`` of float32."""

    def __init__(self, settings: SuperMarioBros, render_mode: str | None) -> None:
        super().__init__(settings, render_mode)
        self.observation_space = spaces.Box(-10, 10, (mario_tiles.SIZE,), np.float32)
        self._tiles = Tiles(self._memory)

    def restart(self) -> None:
        _, self._hostile = self._tiles.observation(np.zeros((mario_tiles.ROWS, mario_tiles.COLUMNS), np.float32))

    def observe(self) -> np.ndarray:
        seen, self._hostile = self._tiles.observation(self._hostile)
        return seen


class MarioPixels(Mario):
    """Shows the last screens in gray, ``[stack, size, size]`` of uint8, the newest last; a first one fills the stack."""

    def __init__(self, settings: SuperMarioBrosPixels, render_mode: str | None) -> None:
        super().__init__(settings, render_mode)
        shape = (settings.stack, settings.size, settings.size)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self._size = (settings.size, settings.size)
        self._screens: deque[np.ndarray] = deque(maxlen=settings.stack)

    def restart(self) -> None:
        self._screens.extend([self._screen()] * (self._screens.maxlen or 0))

    def observe(self) -> np.ndarray:
        self._screens.append(self._screen())
        return np.stack(self._screens)

    def _screen(self) -> np.ndarray:
        import cv2

        resized: np.ndarray = cv2.resize(self._game.observation("grayscale"), self._size, interpolation=cv2.INTER_AREA)
        return resized
