"""Super Mario Bros 7-1: dense policies of PPO, and from each of them policies trained on, with a regulariser or without.

Needs the game (make install-mario). Trains cell by cell in outputs/; started again, it goes on where it was. Dense policies
come first: the other cells begin from them. After each cell the report of its table goes to results/<table>.

    python scripts/reproduce_mario.py                                    # all tables: days on one core
    python scripts/reproduce_mario.py mario_7_1_tiles_dense mario_7_1_tiles
    python scripts/reproduce_mario.py mario_7_1_tiles_93                 # at 93 % zeros, as the paper has
    python scripts/reproduce_mario.py mario_7_1_tiles --only l0_units
    python scripts/reproduce_mario.py --estimate
    python scripts/evaluate_mario.py results/mario_7_1_tiles             # also sampled, and on the stock game

mario_on_gpu.sh trains the cells of mario_7_1_dense and mario_7_1 on a GPU.
"""

from __future__ import annotations

from cells import Cell, Table, reproduce

# part of what a run is, since it is a key of the environment, though the results are the same
TILES = "super_mario_bros_tiles", "environment.threads=1"
PIXELS = "super_mario_bros", "environment.threads=16"

FROM_DENSE = (
    # a tenth of what the policy explored with, and less than half of the learning rate, which falls to 0 again
    "algorithm.ent_coef=0.001",
    "algorithm.learning_rate.start=1e-4",
)
AT_ONCE = "regularizer.delay_steps=0"
"""Gates move from the first step on, since the policy is a trained one."""


DENSE = {TILES: "results/mario_7_1_tiles_dense/policies", PIXELS: "outputs/${sweep_name}_dense"}
"""Where dense policies are: those on tiles, which are small, are kept with their table."""


def began_from(which: tuple[str, str]) -> str:
    """The override that names the dense policy of the same seed."""
    return f"init_from={DENSE[which]}/ppo-{which[0]}-none-seed${{seed}}-*"


def dense(which: tuple[str, str], seeds: int, steps: int) -> list[Cell]:
    """Policies from fresh weights."""
    environment, threads = which
    return [Cell("ppo", environment, "none", seeds, (threads, f"trainer.total_steps={steps}"))]


def from_dense(which: tuple[str, str], seeds: int, steps: int, *regularizers: str) -> list[Cell]:
    """Policies that begin as the dense one of the same seed; without a regulariser too, as the control of the steps."""
    environment, threads = which
    shared = (threads, f"trainer.total_steps={steps}", began_from(which), *FROM_DENSE)
    return [
        Cell("ppo", environment, regularizer, seeds, (*shared, *([AT_ONCE] if regularizer.startswith("l0") else [])))
        for regularizer in regularizers
    ]


def at_the_level(which: tuple[str, str], seeds: int, steps: int) -> list[Cell]:
    """All that can be asked for a share of zeros at that of the paper, and the control of the steps.

    lambda_c is where the multiplier begins; the level decides what becomes of it. At 10 gates close too fast.
    """
    environment, threads = which
    shared = (
        threads,
        f"trainer.total_steps={steps}",
        began_from(which),
        *FROM_DENSE,
        "lowrank.ranks=[16,32,64]",
    )
    level = "regularizer.target_sparsity=0.93"
    gates = level, "regularizer.lambda_c=0.3", "regularizer.ramp_steps=0", AT_ONCE
    given = {"none": (), "l0_units": gates, "l0": gates, "magnitude": (level,)}
    return [Cell("ppo", environment, form, seeds, (*shared, *its)) for form, its in given.items()]


TABLES = [
    Table("mario_7_1_tiles_dense", dense(TILES, 3, 1_500_000), keeps_policies=True),
    Table("mario_7_1_tiles", from_dense(TILES, 3, 500_000, "none", "l0", "l0_units", "l1", "l2")),
    Table("mario_7_1_tiles_93", at_the_level(TILES, 3, 500_000)),
    Table("mario_7_1_dense", dense(PIXELS, 1, 1_000_000)),
    Table("mario_7_1", from_dense(PIXELS, 1, 200_000, "none", "l0", "l0_units", "l1")),
]


if __name__ == "__main__":
    reproduce(TABLES, (__doc__ or "").split("\n")[0])
