"""Forms of sparsity beside each other: gates on weights, units and ranks, penalties, and the controls.

Trains cell by cell in outputs/tables/, which it shares with reproduce_tables.py. Started again, it goes on where it was. After
each cell the rows of all runs, tables and a figure go to results/sparsity/.

    python scripts/reproduce_sparsity.py                     # all cells
    python scripts/reproduce_sparsity.py --only cartpole     # those whose name contains a text
    python scripts/reproduce_sparsity.py --list
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cells import Cell, Table, reproduce

FIRST_SEED = 2000
"""No strength was chosen on these seeds or later ones: those of the gates come from seeds 500 to 503."""

AS_SUM = "regularizer.reduction=sum"

LEVEL = "regularizer.target_sparsity=0.973"
"""The share of zeros that l0_combined, which stores the least, had at its shipped strength on the seeds that chose it."""

SMALL = "network=small_dense", "network.weights=290,166"
"""Dense with as many weights as it kept there, and as its selected ranks stored."""


def at(algorithm: str, environment: str, seeds: int, forms: dict[str, Sequence[float]], *overrides: str) -> Iterator[Cell]:
    """Each form at several values of lambda_c; the dense policies first."""
    yield Cell(algorithm, environment, "none", seeds, overrides, FIRST_SEED)
    for form, values in forms.items():
        strengths = f"regularizer.lambda_c={','.join(map(str, values))}"
        reduction = (AS_SUM,) if form in ("l1", "l2") else ()
        yield Cell(algorithm, environment, form, seeds, (*overrides, strengths, *reduction), FIRST_SEED)


def controls(algorithm: str, environment: str, seeds: int, weights: int) -> Iterator[Cell]:
    """At 80 and at 95 % zeros: magnitude pruning, and dense policies with as many weights as are left of ``weights``."""
    levels = {0.8: weights // 5, 0.95: weights // 20}
    strengths = f"regularizer.target_sparsity={','.join(map(str, levels))}"
    yield Cell(algorithm, environment, "magnitude", seeds, (strengths,), FIRST_SEED)
    small = f"network.weights={','.join(map(str, levels.values()))}"
    yield Cell(algorithm, environment, "none", seeds, ("network=small_dense", small), FIRST_SEED)


def at_the_level() -> Iterator[Cell]:
    """DQN on CartPole with as many zeros, or as few weights, as the form that stores the least.

    Without l0_rank, which stores more with a single direction.
    """
    for form in ("magnitude", "random", "l0", "l0_units"):
        yield Cell("dqn", "cartpole", form, 8, (LEVEL,), FIRST_SEED)
    yield Cell("dqn", "cartpole", "magnitude", 8, (LEVEL, "regularizer.schedule=one_shot"), FIRST_SEED)
    yield Cell("dqn", "cartpole", "random", 8, (LEVEL, "regularizer.distribution=uniform"), FIRST_SEED)
    yield Cell("dqn", "cartpole", "none", 8, SMALL, FIRST_SEED)


CELLS = [
    # the loss of DQN on CartPole is in the hundreds, that of PPO about 1
    *at(
        "dqn",
        "cartpole",
        8,
        {
            "l0": (3000.0, 6000.0, 12000.0),
            "l0_units": (200.0, 600.0, 2000.0, 6000.0, 12000.0, 24000.0),
            "l0_combined": (2000.0, 6000.0, 20000.0),
            "l0_rank": (600.0, 2000.0, 6000.0),
            "l1": (1e-3, 1e-2, 1e-1),
        },
    ),
    Cell("dqn", "cartpole", "l0_rank", 8, ("regularizer.lambda_c=600.0,2000.0", "regularizer.factors=trained"), FIRST_SEED),
    Cell("dqn", "cartpole", "l1", 8, ("regularizer.lambda_c=1e-2", AS_SUM, "regularizer.proximal=true"), FIRST_SEED),
    *at_the_level(),
    *at("ppo", "cartpole", 5, {"l0": (1.0, 3.0), "l0_units": (1.0, 3.0), "l1": (1e-5, 1e-4)}),
    *controls("ppo", "cartpole", 5, 4_480),
    *at("td3", "pendulum", 5, {"l0": (1.0, 10.0), "l0_units": (1.0, 10.0), "l1": (1e-4, 1e-3)}),
    *controls("td3", "pendulum", 5, 121_500),
    *at("dqn", "lunar_lander", 5, {"l0": (3.0, 10.0), "l0_units": (3.0, 10.0, 30.0), "l1": (1e-4, 1e-3)}),
    *controls("dqn", "lunar_lander", 5, 68_600),
]


if __name__ == "__main__":
    reproduce([Table("sparsity", CELLS, "tables")], (__doc__ or "").split("\n")[0])
