"""What is on the screen of Super Mario Bros as a grid of tiles, read from the console's memory.

The level is stored in tiles of 16 x 16 pixels, 13 rows of them below the score; two pages of 16 columns hold what is near. The
grid has 16 columns, of which Mario is in the sixth, and moves with him a tile at a time. Addresses are those of the game's
public disassembly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

ROWS, COLUMNS = 13, 16
BEHIND = 5
"""Columns of the grid to the left of Mario's."""

TILE = 16
"""Pixels of a side."""

TOP = 32
"""The pixel at which the first row begins."""

STATE = 12
"""Numbers of Mario's state."""

SIZE = 3 * ROWS * COLUMNS + STATE
"""Numbers of an observation: what is solid, is hostile and was so a step before, ``[row, column]`` each, and Mario's state."""

_PAGES = slice(0x500, 0x6A0)
_EMPTY_TILES = (0x00, 0x24, 0x25, 0x26, 0x5F, 0x60, 0xC2, 0xC3)
"""Air, flagpoles, and blocks and coins that Mario passes through."""

_TALL = (0x00, 0x01, 0x03, 0x04, 0x05, 0x0D, 0x0E, 0x0F, 0x10)
"""Enemies of two tiles: koopas, hammer brothers, piranhas, paratroopas."""
_HARMLESS = (*range(0x24, 0x2D), 0x2E, 0x2F, 0x30, 0x31, 0x32, 0x34, 0x35)
"""Among the enemies: lifts, power-ups, vines, flags, springs, and those who thank Mario."""
_BOWSER = 0x2D
_FIREBARS = range(0x1B, 0x20)
_LONG_FIREBAR = 0x1F

_ENEMIES = range(5)
_HAMMERS = range(9)


def column_of(x: int) -> int:
    """The column of the level that a pixel is in."""
    return x // TILE


class Tiles:
    """Reads the grid from ``memory``, a live view: nothing that is returned changes when the game goes on."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._pages = np.frombuffer(memory, np.uint8)[_PAGES].reshape(2, ROWS, COLUMNS)
        self._solid = np.ones(256, np.float32)
        self._solid[list(_EMPTY_TILES)] = 0

    def observation(self, hostile_before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is seen, ``[SIZE]`` of float32, and what is hostile now, ``[ROWS, COLUMNS]``, to be given the next time."""
        first = column_of(self.x + TILE // 2) - BEHIND
        hostile = self.hostile(first)
        parts = self.solid(first), hostile, hostile_before, self.state()
        return np.concatenate([part.ravel() for part in parts]), hostile

    @property
    def x(self) -> int:
        """Mario's place in the level, in pixels."""
        return self._memory[0x6D] * 256 + self._memory[0x86]

    @property
    def left(self) -> int:
        """The first pixel of the level that is on the screen."""
        return self._memory[0x71A] * 256 + self._memory[0x71C]

    def solid(self, first: int) -> np.ndarray:
        """1 where a tile on the screen can be stood on or run into; ``first`` is the level's column of the first one here."""
        columns = np.arange(first, first + COLUMNS)
        visible = (columns * TILE + TILE > self.left) & (columns * TILE < self.left + 256)
        tiles = self._pages[columns // COLUMNS & 1, :, columns % COLUMNS].T
        return np.where(visible, self._solid[tiles], np.float32(0))

    def hostile(self, first: int) -> np.ndarray:
        """1 where an enemy, a hammer or fire is."""
        memory, grid = self._memory, np.zeros((ROWS, COLUMNS), np.float32)

        def mark(x: float, y: float) -> None:
            column, row = column_of(int(x)) - first, math.floor((y - TOP) / TILE)
            if 0 <= column < COLUMNS and 0 <= row < ROWS:
                grid[row, column] = 1

        for enemy in _ENEMIES:
            kind, on_screen = memory[0x16 + enemy], memory[0xB6 + enemy] == 1
            if not memory[0x0F + enemy] or not on_screen or kind in _HARMLESS:
                continue
            x, y = memory[0x6E + enemy] * 256 + memory[0x87 + enemy] + TILE // 2, memory[0xCF + enemy]
            if not self.left - 8 <= x < self.left + 264:
                continue
            if kind in _FIREBARS:
                self._mark_firebar(mark, x, y, memory[0xA0 + enemy], 12 if kind == _LONG_FIREBAR else 6)
                continue
            mark(x, y + TILE)  # its feet
            if kind in _TALL or kind == _BOWSER:
                mark(x, y)
            if kind == _BOWSER:
                mark(x + TILE, y)
                mark(x + TILE, y + TILE)
        for hammer in _HAMMERS:
            if memory[0x2A + hammer] & 0x80:
                mark(memory[0x7A + hammer] * 256 + memory[0x93 + hammer] + 4, memory[0xDB + hammer] + 4)
        return grid

    @staticmethod
    def _mark_firebar(mark: Callable[[float, float], None], x: int, y: int, turned: int, length: int) -> None:
        """Balls of fire, 8 pixels apart, on a line that turns in 32 steps; the base itself is a block."""
        angle = (turned & 31) / 32 * 2 * math.pi
        for ball in range(1, length):
            mark(x + 8 * ball * math.sin(angle), y + 8 - 8 * ball * math.cos(angle))

    def state(self) -> np.ndarray:
        """Mario's own: where he is in his tile and on the screen, speeds, whether he stands or jumps, and what he has."""
        memory = self._memory
        y = memory[0xCE] + 256 * (memory[0xB5] - 1)
        return np.array(
            [
                (self.x + TILE // 2) % TILE / TILE,
                y / 240,
                y % TILE / TILE,
                _signed(memory[0x57]) / 40,
                _signed(memory[0x9F]) / 5,
                memory[0x1D] == 0,  # on the ground
                memory[0x1D] == 1,  # jumping
                memory[0x0A] & 0x80 != 0,  # the button to jump is held: a new jump needs a release
                memory[0x756] > 0,  # tall
                memory[0x756] > 1,  # with fire
                (self.x - self.left) / 256,
                memory[0x79E] > 0,  # cannot be hurt for a while
            ],
            np.float32,
        )


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte
