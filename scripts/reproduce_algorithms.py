"""Every algorithm on the environments that it is known for: dense policies, and sparse ones beside them.

Trains cell by cell in outputs/tables/, which it shares with reproduce_tables.py: a cell is an algorithm on an
environment, with its shipped settings. Started again, it goes on where it was. After each cell the rows of all runs, tables
and a figure go to results/algorithms/.

    python scripts/reproduce_algorithms.py                     # all cells
    python scripts/reproduce_algorithms.py --only pendulum     # those whose name contains a text
    python scripts/reproduce_algorithms.py --list
"""

from __future__ import annotations

from collections.abc import Iterator

from cells import Cell, Table, reproduce
from reproduce_sparsity import AS_SUM, FIRST_SEED

STRENGTHS = {
    # the losses of PPO are about 1, those of DDPG's actors as large as action values
    "l0": {"ppo": (0.1, 1.0), "ddpg": (1.0, 10.0)},
    "l1": {"ppo": (1e-5, 1e-4), "ddpg": (1e-4, 1e-3)},
    "l2": {"ppo": (1e-5, 1e-4), "ddpg": (1e-4, 1e-3)},
}
"""Two values of lambda_c for each regulariser and algorithm, none of them tuned; the penalties of l1 and l2 are sums."""


def sparse(algorithm: str, environment: str, seeds: int = 3) -> Iterator[Cell]:
    """Each regulariser at two strengths."""
    for regularizer, values in STRENGTHS.items():
        strengths = f"regularizer.lambda_c={','.join(map(str, values[algorithm]))}"
        reduction = () if regularizer == "l0" else (AS_SUM,)
        yield Cell(algorithm, environment, regularizer, seeds, (strengths, *reduction), FIRST_SEED)


def dense(algorithm: str, environment: str, seeds: int = 5, *overrides: str) -> Cell:
    """The control: no regulariser."""
    return Cell(algorithm, environment, "none", seeds, overrides, FIRST_SEED)


CELLS = [
    *(dense(algorithm, environment) for environment in ("cartpole", "acrobot", "lunar_lander") for algorithm in ("ppo", "dqn")),
    *(dense(algorithm, "pendulum") for algorithm in ("ddpg", "sac", "td3")),
    *(dense(algorithm, "fetch_reach", 3) for algorithm in ("sac", "ddpg")),
    *(dense("ppo", environment, 3) for environment in ("hopper", "half_cheetah")),
    *(cell for environment in ("cartpole", "acrobot", "lunar_lander") for cell in sparse("ppo", environment)),
    *sparse("ddpg", "fetch_reach"),
    *sparse("ddpg", "pendulum"),
    # the first tenth of what is published
    *(dense(algorithm, "half_cheetah", 3, "trainer.total_steps=100_000") for algorithm in ("td3", "sac")),
]


if __name__ == "__main__":
    reproduce([Table("algorithms", CELLS, "tables")], (__doc__ or "").split("\n")[0])
