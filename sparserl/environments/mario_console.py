"""Super Mario Bros as a console plays it: one emulator, its frames, and what its memory says.

Addresses are those of the disassembly of the game (doppelganger, "SMBDIS.ASM"), and the reward is that of the package
gym-super-mario-bros 8.0.0, whose emulator is nes-py.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any, Literal

import numpy as np

Rom = Literal["vanilla", "downsample", "pixel", "rectangle"]

PACKAGES = {"gym-super-mario-bros": "8.0.", "nes-py": "9.0.", "opencv-python-headless": ""}
"""What each version must begin with: before, they need a Gymnasium that is no more; after, the reward is another one."""

PAGE, X, Y_PAGE, Y = 0x6D, 0x86, 0xB5, 0xCE
"""Where Mario is, in pixels: the page counts screens of 256, downwards from 1, which is the visible one."""
SPEED_X, SPEED_Y = 0x57, 0x9F
AIR = 0x1D
"""0 on the ground, 1 in a jump, 2 in a fall, 3 at the flag's pole."""
STATE, NORMAL, DYING, DEAD = 0x0E, 0x08, 0x0B, 0x06
CHANGING_AREA = (0, 1, 2, 3, 4, 5, 7)
"""States in which no button moves Mario, such as in a pipe. The package skips them."""
POWER, INVINCIBLE, BUTTONS = 0x756, 0x79E, 0x0A
CLOCK = 0x7F8
"""Three decimal digits."""
SCREEN_PAGE, SCREEN_X = 0x71A, 0x71C
"""Of the left border of the screen."""
AREA_TIMER, MODE, WORLD_OVER = 0x6DE, 0x770, 2
STATUS_BAR, SCREEN_OFF = 0x722, 0x774
"""Whether a frame waits until the status bar is drawn, and whether it is drawn at all."""
ENEMY_DRAWN, ENEMY_TYPE, ENEMY_PAGE, ENEMY_X, ENEMY_Y_PAGE, ENEMY_Y = 0x0F, 0x16, 0x6E, 0x87, 0xB6, 0xCF
"""Each of five slots."""
ENEMIES = range(5)
BOWSER, FLAG = 0x2D, 0x31
AT_POLE = 3


def check_installed() -> None:
    """Raises ModuleNotFoundError where what plays the game is not installed in the version whose reward this is."""
    for package, version in PACKAGES.items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ModuleNotFoundError(f"Super Mario Bros needs {package}, which is not installed: make install-mario") from None
        if not found.startswith(version):
            raise ModuleNotFoundError(
                f"Super Mario Bros needs {package} {version}x, and {found} is installed: make install-mario"
            )


class Console:
    """One emulator with the game at the start of a stage. A single life: whoever dies or reaches the flag is at the end.

    The game is deterministic. Where ``draw`` is false, frames are computed but not drawn, which is nearly twice as fast. It is
    not quite the same game: the console is too slow for frames with many enemies, and then the drawn game lags.
    """

    def __init__(self, world: int, stage: int, rom: Rom, draw: bool) -> None:
        from gym_super_mario_bros import SuperMarioBrosEnv  # slow to import, and of an extra

        self._env = SuperMarioBrosEnv(rom_mode=rom, target=(world, stage))
        self._advance: Callable[[int], None] = self._env._env.frame_advance  # noqa: SLF001 (a step takes twice as long)
        self._after_frame: Callable[[bool], None] = self._env._did_step  # noqa: SLF001 (which a step calls)
        self.memory = memoryview(self._env.ram)
        """A live view: it changes with each frame. Its elements are plain integers, which cannot overflow."""
        self._draw = draw
        self.reset()

    def reset(self) -> None:
        """Go to the start of the stage."""
        self._env.reset()
        self.x, self._clock = self._position(), self._time()
        self.dead = self.flag = False
        self._undrawn = 0  # frames since drawing was switched off

    def frame(self, buttons: int) -> float:
        """Hold the buttons, as bits, for a 60th of a second. Returns the reward of the package.

        It is what Mario has moved to the right, in pixels, less a point for each tick of the clock and 25 at a death, between
        -15 and 15. There is no next frame after the end, where ``dead`` or ``flag`` is true.
        """
        memory = self.memory
        if not self._draw:  # both at once, or off and on again, would lose frames
            memory[STATUS_BAR] = 0
            if self._undrawn:
                memory[SCREEN_OFF] = 1
            self._undrawn += 1
        self._advance(buttons)

        x, clock = self._position(), self._time()
        moved = x - self.x
        reward = moved if -5 <= moved <= 5 else 0  # more is another area
        reward += min(0, clock - self._clock)
        self.x, self._clock = x, clock
        state = memory[STATE]
        self.dead = state in (DYING, DEAD) or memory[Y_PAGE] > 1
        self.flag = memory[MODE] == WORLD_OVER or self._at_pole()
        if self.dead:
            reward -= 25
        elif not self.flag and (state != NORMAL or memory[AREA_TIMER] > 1):
            self._skip_what_cannot_be_played(state)
        return float(max(-15, min(15, reward)))

    @property
    def left_border(self) -> int:
        """Of the screen, in pixels from the start of the stage."""
        return self.memory[SCREEN_PAGE] * 256 + self.memory[SCREEN_X]

    def grayscale(self) -> np.ndarray:
        """A copy of what the screen shows, ``[240, 256]`` of uint8."""
        return np.asarray(self._env.observation("grayscale"))

    def picture(self) -> np.ndarray:
        """A copy of what the screen shows, ``[240, 256, 3]`` of uint8. Where nothing is drawn, three frames later."""
        if self._draw:
            return np.array(self._env.screen)
        now = self._env.dump_state()
        memory = self.memory
        for frame in range(3):  # the first switches drawing on, and in the second the status bar is in a wrong place
            memory[SCREEN_OFF], memory[STATUS_BAR] = 0, int(frame > 0)
            self._advance(0)
        shown = np.array(self._env.screen)
        self._env.load_state(now)
        return shown

    def close(self) -> None:
        """Give the emulator back, once."""
        self.memory.release()
        self._env.close()

    def _skip_what_cannot_be_played(self, state: int) -> None:
        if not self._draw and state in CHANGING_AREA:
            self.memory[SCREEN_OFF], self.memory[STATUS_BAR] = 0, 1
            self._undrawn = 0
        self._after_frame(False)

    def _at_pole(self) -> bool:
        memory = self.memory
        return memory[AIR] == AT_POLE and any(memory[ENEMY_TYPE + slot] in (BOWSER, FLAG) for slot in ENEMIES)

    def _position(self) -> int:
        return self.memory[PAGE] * 256 + self.memory[X]

    def _time(self) -> int:
        hundreds, tens, ones = self.memory[CLOCK : CLOCK + 3]
        return hundreds * 100 + tens * 10 + ones


def signed(byte: int) -> int:
    """A byte as a number from -128 to 127."""
    return byte - 256 if byte > 127 else byte


def buttons_of(movements: Literal["right_only", "simple", "complex"]) -> tuple[int, ...]:
    """The buttons of each action, as bits, in the order of the package's lists."""
    from gym_super_mario_bros import actions
    from nes_py.wrappers import JoypadSpace

    named: Any = {
        "right_only": actions.RIGHT_ONLY,
        "simple": actions.SIMPLE_MOVEMENT,
        "complex": actions.COMPLEX_MOVEMENT,
    }[movements]
    bits = JoypadSpace._button_map  # noqa: SLF001 (there is no other list of them)
    return tuple(sum(bits[button] for button in pressed) for pressed in named)
