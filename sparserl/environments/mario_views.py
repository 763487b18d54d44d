"""What a policy sees of Super Mario Bros: tiles out of the console's memory, or the pixels of its screen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial

import numpy as np

from sparserl.environments import mario_console as at
from sparserl.environments.mario_console import Console, signed

ROWS, COLUMNS = 13, 16
"""Of tiles of 16 pixels, below the status bar of 32 pixels."""
TILE, TOP = 16, 32
MARIO_COLUMN = 5
"""Columns are those of the stage; Mario is in this one."""
SCALARS = 12

PAGES = 0x500
"""Two screens of tiles, each by row and column: those with an even page, and those with an odd one."""
SOLID = np.ones(256, np.float32)
SOLID[[0x00, 0x24, 0x25, 0x26, 0x5F, 0x60, 0xC2, 0xC3]] = 0  # nothing, the flag and its pole, hidden blocks, coins
TALL = frozenset((0x00, 0x01, 0x03, 0x04, 0x05, 0x0D, 0x0E, 0x0F, 0x10))
"""Enemies of two rows: koopas, hammer brothers, piranhas, paratroopas."""
PIRANHA = 0x0D
SHORT_FIREBARS, LONG_FIREBAR = range(0x1B, 0x1F), 0x1F
HARMLESS = frozenset((*range(0x24, 0x2D), 0x2E, 0x2F, 0x30, 0x31, 0x32, 0x34, 0x35))
"""Lifts, mushrooms, vines, flags, springs, what asks for a warp zone, and who was rescued."""
FIREBAR_ANGLE = 0xA0
HAMMER, HAMMER_PAGE, HAMMER_X, HAMMER_Y, HAMMERS = 0x2A, 0x7A, 0x93, 0xDB, range(9)
IS_HAMMER = 0x80
"""The bit of a slot's state that coins, which share the slots, do not have."""


class View(ABC):
    """An observation of a console, which it keeps what it needs of earlier ones for."""

    shape: tuple[int, ...]
    dtype: type[np.float32 | np.uint8]

    @abstractmethod
    def first(self, console: Console) -> np.ndarray:
        """What is seen at the start of an episode: ``[*shape]`` of ``dtype``, of its own memory."""

    @abstractmethod
    def next(self, console: Console) -> np.ndarray:
        """The same after a step of the episode."""


class Tiles(View):
    """The tiles on the screen as 636 numbers: three grids of 0 and 1, ``[13, 16]`` each, and 12 numbers about Mario.

    The grids are where Mario can stand, where he would be hurt, and where he would have been a step ago. The numbers are his
    place within his tile, height on the screen, place within his row, speed to the right and downwards, whether he is on the
    ground or in a jump, whether A is held (it must be let go before another jump), whether he is tall and has fire, how far he
    is from the left border of the screen, and whether nothing can hurt him. All of them are about -1 to 1.

    Not seen are kinds of enemies and their places within tiles, lifts, springs, and what is above the screen.
    """

    dtype = np.float32
    shape = (3 * ROWS * COLUMNS + SCALARS,)

    def first(self, console: Console) -> np.ndarray:
        self._hostile = self._see(console)[1]
        return self.next(console)

    def next(self, console: Console) -> np.ndarray:
        before = self._hostile
        solid, self._hostile = self._see(console)
        grids = np.stack([solid, self._hostile, before]).ravel()
        return np.concatenate([grids, _mario(console)])

    def _see(self, console: Console) -> tuple[np.ndarray, np.ndarray]:
        """Where it is solid and where hostile, ``[13, 16]`` each."""
        left = (console.x + TILE // 2) // TILE - MARIO_COLUMN
        columns = np.arange(left, left + COLUMNS)
        pages = np.frombuffer(console.memory, np.uint8, 2 * ROWS * TILE, PAGES).reshape(2, ROWS, TILE)
        border = console.left_border
        on_screen = (columns * TILE + TILE > border) & (columns * TILE < border + 256)
        solid = SOLID[pages[columns // TILE & 1, :, columns % TILE].T] * on_screen
        hostile = np.zeros((ROWS, COLUMNS), np.float32)
        for x, y, hidden_by_tiles in _hostile_places(console):
            row, column = (y - TOP) // TILE, x // TILE - left
            if 0 <= row < ROWS and 0 <= column < COLUMNS and not (hidden_by_tiles and solid[row, column]):
                hostile[row, column] = 1
        return solid, hostile


class Pixels(View):
    """The screen in shades of grey, shrunk by averaging, as the last images ``[stack, size, size]``; the newest is the last.

    An episode begins with copies of its first image. All four frames of a step are drawn: with the first three switched off as
    in ``Console``, the status bar of the fourth is in a wrong place and 168 of 195 observations differed, 29 below that bar.
    """

    dtype = np.uint8

    def __init__(self, size: int, stack: int) -> None:
        import cv2  # of an extra

        cv2.setNumThreads(1)  # images are small, and several consoles step at once
        self.shape = stack, size, size
        self._shrink = partial(cv2.resize, dsize=(size, size), interpolation=cv2.INTER_AREA)
        self._ring = np.zeros(self.shape, np.uint8)

    def first(self, console: Console) -> np.ndarray:
        self._ring[:] = self._shrink(console.grayscale())
        return self._ring.copy()

    def next(self, console: Console) -> np.ndarray:
        self._ring[:-1] = self._ring[1:]
        self._ring[-1] = self._shrink(console.grayscale())
        return self._ring.copy()


def _mario(console: Console) -> np.ndarray:
    """The 12 numbers of Tiles."""
    memory = console.memory
    y = memory[at.Y] + 256 * (memory[at.Y_PAGE] - 1)
    numbers = (
        (console.x + TILE // 2) % TILE / TILE,
        y / 240,
        y % TILE / TILE,
        signed(memory[at.SPEED_X]) / 40,
        signed(memory[at.SPEED_Y]) / 5,
        memory[at.AIR] == 0,
        memory[at.AIR] == 1,
        memory[at.BUTTONS] >= 0x80,
        memory[at.POWER] > 0,
        memory[at.POWER] > 1,
        (console.x - console.left_border) / 256,
        memory[at.INVINCIBLE] > 0,
    )
    return np.array(numbers, np.float32)


def _hostile_places(console: Console) -> list[tuple[int, int, bool]]:
    """Pixels ``(x, y)`` of the stage, each in a tile that hurts, and whether not where that tile is solid.

    A piranha hides in its pipe and a firebar turns about a block; a bullet is seen in the cannon that it comes out of.
    """
    memory, border = console.memory, console.left_border
    places: list[tuple[int, int, bool]] = []
    for slot in at.ENEMIES:
        enemy = memory[at.ENEMY_TYPE + slot]
        if not memory[at.ENEMY_DRAWN + slot] or enemy in HARMLESS or memory[at.ENEMY_Y_PAGE + slot] != 1:
            continue
        x = memory[at.ENEMY_PAGE + slot] * 256 + memory[at.ENEMY_X + slot] + TILE // 2
        y = memory[at.ENEMY_Y + slot]
        if not border - 8 <= x < border + 264:
            continue
        if enemy in SHORT_FIREBARS or enemy == LONG_FIREBAR:
            angle = memory[FIREBAR_ANGLE + slot] % 32 / 32 * 2 * math.pi
            reach = range(1, 12 if enemy == LONG_FIREBAR else 6)  # balls of 8 pixels; the first is in the block that holds them
            places += [(int(x + 8 * k * math.sin(angle)), int(y + 8 - 8 * k * math.cos(angle)), True) for k in reach]
            continue
        wide = {PIRANHA: (-4, 4), at.BOWSER: (0, TILE)}.get(enemy, (0,))  # a piranha is between two columns
        high = (0, TILE) if enemy in TALL or enemy == at.BOWSER else (TILE,)
        places += [(x + right, y + down, enemy == PIRANHA) for right in wide for down in high]
    for slot in HAMMERS:
        if memory[HAMMER + slot] & IS_HAMMER:
            x = memory[HAMMER_PAGE + slot] * 256 + memory[HAMMER_X + slot]
            places.append((x + 4, memory[HAMMER_Y + slot] + 4, False))
    return places
