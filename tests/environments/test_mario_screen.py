"""What is read from the memory of Super Mario Bros is what its screen shows: tiles, enemies and Mario."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from sparserl.environments import mario_console as at
from sparserl.environments.mario_console import Console, check_installed
from sparserl.environments.mario_views import COLUMNS, MARIO_COLUMN, PIRANHA, ROWS, SCALARS, TILE, TOP, Tiles

try:
    check_installed()
except ModuleNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)

NOTHING, RUN, LEAP = 0, 130, 131
"""What is pressed: nothing; right and B; right, A and B."""

CELLS = ROWS * COLUMNS
BULLET = 0x08


@pytest.fixture(scope="module")
def drawn() -> Iterator[Console]:
    """7-1 on a console that draws, shared: it takes a third of a second to start."""
    with closing(Console(7, 1, "vanilla", draw=True)) as console:
        yield console


@pytest.fixture(scope="module")
def undrawn() -> Iterator[Console]:
    with closing(Console(7, 1, "vanilla", draw=False)) as console:
        yield console


def hold(console: Console, *sequence: tuple[int, int]) -> None:
    """Hold buttons for a number of frames, one after the other."""
    for buttons, frames in sequence:
        for _ in range(frames):
            console.frame(buttons)


def grids(console: Console) -> tuple[np.ndarray, np.ndarray]:
    """What is solid and what hurts, of 0 and 1."""
    seen = Tiles().first(console)
    return seen[:CELLS].reshape(ROWS, COLUMNS), seen[CELLS : 2 * CELLS].reshape(ROWS, COLUMNS)


def first_column(console: Console) -> int:
    """The column of the stage that is the first of the grids."""
    return (console.x + TILE // 2) // TILE - MARIO_COLUMN


# ---------------------------------------------------------------- tiles and enemies

FIRST_CANNON = """
................
................
................
................
................
................
................
................
................
............#...
............#...
##############..
##############..
"""
"""What is solid where Mario stands half a screen before the first cannon of 7-1, as the picture shows it: two rows of ground
and a cannon of two tiles. The last two columns are beyond the right border of the screen."""


def test_the_grid_is_what_a_known_screen_shows(drawn: Console) -> None:
    drawn.reset()
    hold(drawn, (LEAP, 60), (NOTHING, 40))
    solid, _ = grids(drawn)
    assert "\n".join("".join(".#"[int(tile)] for tile in row) for row in solid) == FIRST_CANNON.strip()


def test_all_that_moves_on_the_screen_hurts_and_all_that_hurts_moves(drawn: Console) -> None:
    """Where Mario stands still and nothing scrolls, the pixels that change within 16 frames are those of enemies."""
    drawn.reset()
    met = 0
    hold(drawn, (RUN, 70))
    for _ in range(6):
        hold(drawn, (NOTHING, 24))
        border, first, mario = drawn.left_border, first_column(drawn), drawn.x
        moved, hurts = np.zeros((ROWS, COLUMNS), np.bool_), np.zeros((ROWS, COLUMNS), np.bool_)
        before = drawn.picture()
        for _ in range(16):
            drawn.frame(NOTHING)
            hurts |= grids(drawn)[1] > 0
            now = drawn.picture()
            rows, columns = np.nonzero((now != before).any(axis=-1))
            for y, x in zip(rows.tolist(), (columns + border).tolist(), strict=True):
                column = x // TILE - first
                if y >= TOP and 0 <= column < COLUMNS and abs(x - mario - TILE // 2) > TILE:
                    moved[(y - TOP) // TILE, column] = True
            before = now
        if drawn.dead:
            break
        if (drawn.left_border, drawn.x) != (border, mario):  # he was still sliding
            continue
        # an enemy is drawn in the tiles around that of its feet; nothing else moves
        assert not (moved & ~_grown(hurts)).any()
        away = hurts & (abs((first + np.arange(COLUMNS)) * TILE - mario) > 2 * TILE)
        assert not (away & ~_grown(moved)).any()
        met += int(moved.any())
    assert met > 1


def _grown(grid: np.ndarray) -> np.ndarray:
    """Those of a grid and the eight around each."""
    padded = np.pad(grid, 1)
    return np.any([padded[i : i + ROWS, j : j + COLUMNS] for i in range(3) for j in range(3)], axis=0)


# ---------------------------------------------------------------- Mario

X_IN_TILE, Y, Y_IN_TILE, RIGHTWARDS, DOWNWARDS, ON_GROUND, IN_JUMP, HOLDS_A, IS_TALL, HAS_FIRE, ON_SCREEN, INVINCIBLE = range(
    SCALARS
)


def mario(console: Console) -> np.ndarray:
    return Tiles().first(console)[-SCALARS:]


def test_the_numbers_of_mario_say_how_he_moves(undrawn: Console) -> None:
    undrawn.reset()
    standing = mario(undrawn)
    expected = np.zeros(SCALARS)
    # he starts 40 pixels from the border, and 64 above the bottom of the screen: two rows of ground and his own
    expected[[Y, ON_GROUND, ON_SCREEN]] = 176 / 240, 1, 40 / 256
    assert standing == pytest.approx(expected)
    hold(undrawn, (RUN, 30))
    runs = mario(undrawn)
    assert runs[RIGHTWARDS] > 0
    assert runs[[ON_GROUND, IN_JUMP, HOLDS_A, DOWNWARDS]].tolist() == [1, 0, 0, 0]
    hold(undrawn, (LEAP, 5))
    leaps = mario(undrawn)
    assert leaps[[ON_GROUND, IN_JUMP, HOLDS_A]].tolist() == [0, 1, 1]
    assert leaps[DOWNWARDS] < 0
    assert leaps[Y] < runs[Y]
    assert leaps[[IS_TALL, HAS_FIRE, INVINCIBLE]].tolist() == [0, 0, 0]
    assert 0 <= leaps[X_IN_TILE] < 1
    assert 0 <= leaps[Y_IN_TILE] < 1


# ---------------------------------------------------------------- pictures and areas


def test_a_picture_of_what_is_not_drawn_is_the_drawn_one_of_three_frames_later(drawn: Console, undrawn: Console) -> None:
    """With the status bar in its place, which is drawn apart from what scrolls below it."""
    for console in (drawn, undrawn):
        console.reset()
        hold(console, (RUN, 45), (LEAP, 60))
    assert undrawn.left_border > 0, "the screen has scrolled"
    memory = bytes(undrawn.memory)
    picture = undrawn.picture()
    assert bytes(undrawn.memory) == memory
    hold(drawn, (NOTHING, 3))
    assert (picture == drawn.picture()).all()


def test_the_way_into_a_pipe_is_skipped_as_by_the_package_and_drawn_or_not() -> None:
    """1-2 begins with a walk into a pipe."""
    from gym_super_mario_bros import SuperMarioBrosEnv

    rng = np.random.default_rng(0)
    with (
        closing(SuperMarioBrosEnv(target=(1, 2))) as package,
        closing(Console(1, 2, "vanilla", draw=True)) as ours,
        closing(Console(1, 2, "vanilla", draw=False)) as undrawn,
    ):
        package.reset()
        for _ in range(40):
            buttons = int(rng.choice((RUN, LEAP)))
            for _ in range(4):
                _, reward, ended, _, info = package.step(buttons)
                for console in (ours, undrawn):
                    assert console.frame(buttons) == reward
                    assert (console.x, console.dead or console.flag) == (info["x_pos"], ended)
            if ended:
                break
        assert info["x_pos"] > 150, "he came out and walked on"


@pytest.mark.parametrize(("kind", "seen"), [(BULLET, True), (PIRANHA, False)])
def test_a_bullet_is_seen_in_its_cannon_and_a_piranha_is_not_in_its_pipe(undrawn: Console, kind: int, seen: bool) -> None:
    """Both are put into the ground below Mario, which is solid."""
    undrawn.reset()
    memory, row = undrawn.memory, ROWS - 1
    memory[at.ENEMY_DRAWN], memory[at.ENEMY_TYPE], memory[at.ENEMY_Y_PAGE] = 1, kind, 1
    memory[at.ENEMY_PAGE], memory[at.ENEMY_X] = divmod(undrawn.x, 256)
    memory[at.ENEMY_Y] = TOP + (row - 1) * TILE  # what hurts is a tile lower, and a piranha is two high
    view = Tiles()
    solid, hostile, _ = view.first(undrawn)[: 3 * ROWS * COLUMNS].reshape(3, ROWS, COLUMNS)
    assert solid[row, MARIO_COLUMN] == 1
    assert bool(hostile[row].any()) is seen
