"""The tables of the paper and of its open questions: environments, algorithms and regularisers beside each other; ablations.

Says first what is left to train and about how long that takes. Trains cell by cell, each as populations; started again, it goes
on where it was. After each cell the table's report goes to results/<table>.

    python scripts/reproduce_tables.py --estimate                           # of all tables
    python scripts/reproduce_tables.py table_main                           # one table; several may be named
    python scripts/reproduce_tables.py table_main --only ppo-cartpole       # the cells whose name contains a text
    python scripts/reproduce_tables.py table_main --list                    # the exact command of each cell
    python scripts/reproduce_tables.py table_main --report                  # only the report of what there is
    python scripts/reproduce_tables.py table_main trainer=smoke             # does it work? in outputs/smoke-*

The tables share their runs, in outputs/tables, and with reproduce_sparsity.py: a run has the same folder in whichever table it
stands, so it is trained once; runs.txt names a table's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cells import Cell, Table, reproduce
from reproduce_sparsity import AS_SUM, FIRST_SEED, at_the_level
from reproduce_surgical import FORMS as SURGICAL
from reproduce_surgical import SHORT as SURGICAL_STEPS

SEEDS = {
    "cartpole": 8,
    "acrobot": 8,
    "pendulum": 8,
    "lunar_lander_continuous": 3,
    "half_cheetah": 3,
    "super_mario_bros_tiles": 3,
}
"""Of each environment; 5 of the others."""

STRENGTHS: dict[str, dict[str, float]] = {
    "dqn": {"l1": 1e-3, "l2": 1e-3},
    "ppo": {"l1": 1e-4, "l2": 1e-4},
    # the losses of actors are as large as action values
    "ddpg": {"l0": 10.0, "l0_units": 10.0, "l0_combined": 10.0, "l0_rank": 40.0, "l1": 1e-3, "l2": 1e-3},
}
"""lambda_c where it is not the shipped one, from the size of the loss; the penalties of l1 and l2 are sums over the weights."""

STRENGTHS |= {"double_dqn": STRENGTHS["dqn"], "a2c": STRENGTHS["ppo"], "td3": STRENGTHS["ddpg"], "sac": STRENGTHS["ddpg"]}

VALUE_BASED = "dqn", "double_dqn"


def cells(
    experiment: str, algorithm: str, environment: str, forms: str | Sequence[str], *overrides: str, seeds: int | None = None
) -> Iterator[Cell]:
    """A cell for each form, at its shipped strength or at that of ``STRENGTHS``."""
    count = seeds or SEEDS.get(environment, 5)
    for form in forms.split(",") if isinstance(forms, str) else forms:
        strengths = STRENGTHS[algorithm]
        strength = (f"regularizer.lambda_c={strengths[form]}",) if form in strengths else ()
        reduction = (AS_SUM,) if form in ("l1", "l2") else ()
        yield Cell(algorithm, environment, form, count, (*overrides, *strength, *reduction), FIRST_SEED, experiment)


# ---------------------------------------------------------------- the paper's table

PAIRS = [
    (algorithm, environment) for environment in ("cartpole", "acrobot", "lunar_lander") for algorithm in (*VALUE_BASED, "ppo")
]

MAIN = [
    *(cell for pair in PAIRS for cell in cells("table_main", *pair, "none,l0,l0_units,l1,l2")),
    *cells("table_main", "ddpg", "surrol_ecm_reach", ["none"], SURGICAL_STEPS),
    *(
        Cell(
            "ddpg", "surrol_ecm_reach", form, 5,
            (SURGICAL_STEPS, f"regularizer.lambda_c={','.join(map(str, values))}", *([AS_SUM] if form in ("l1", "l2") else [])),
            FIRST_SEED, "table_main",
        )
        for form, values in SURGICAL.items()
    ),
    *cells("table_main", "ppo", "super_mario_bros_tiles", "none,l0,l0_units,l1,l2"),
]  # fmt: skip

RANKS = [
    *cells("table_ranks", "dqn", "cartpole", "none,l0,l0_units,l0_combined,l0_rank,l1"),
    *cells("table_ranks", "ppo", "cartpole", "none,l0,l0_units,l0_rank,l1"),
    *cells("table_ranks", "dqn", "acrobot", "none,l0,l0_units,l0_rank,l1"),
    *cells("table_ranks", "dqn", "lunar_lander", "none,l0,l0_units,l0_rank,l1"),
    *cells("table_ranks", "td3", "pendulum", "none,l0,l0_units,l0_rank,l1"),
]

# ---------------------------------------------------------------- ablations

THIRD, TWO_THIRDS = 1 / 3, 2 / 3

LAMBDAS = {
    ("dqn", "cartpole"): (2000.0, 6000.0, 20000.0, 60000.0),
    ("ppo", "cartpole"): (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    ("dqn", "acrobot"): (0.3, 1.0, 3.0, 10.0),
    ("ppo", "lunar_lander"): (0.3, 1.0, 3.0, 10.0),
    ("td3", "pendulum"): (1.0, 3.0, 10.0, 30.0),
}
"""Around the shipped lambda_c, a factor of 3 apart; more of PPO on CartPole, which keeps its return up to 10."""


def over_lambda_and_beta() -> Iterator[Cell]:
    """Each pair's dense policies, and L0 at four lambda_c or more and three beta, on four seeds."""
    table = "ablation_lambda_beta"
    for (algorithm, environment), values in LAMBDAS.items():
        yield from cells("table_main", algorithm, environment, "none", seeds=4)
        lambdas = f"regularizer.lambda_c={','.join(map(str, values))}"
        betas = f"regularizer.beta={THIRD},{TWO_THIRDS},1.0"
        yield Cell(algorithm, environment, "l0", 4, (lambdas, betas), FIRST_SEED, table)


RECIPE = {
    "initial_open": "0.5,0.9,0.99",
    "gate_learning_rate.start": "2.5e-4,5e-3,5e-2",
    "delay_steps": "0,50_000,200_000",
    "deterministic_gate": "median,sigmoid",
}
"""Keys of the gates, each with its values while the others are as shipped. The last is the shipped one, trained once."""


def over_recipe() -> Iterator[Cell]:
    """Dense policies, then what RECIPE has, under L0 by weight."""
    yield from cells("table_main", "dqn", "cartpole", "none")
    for key, values in RECIPE.items():
        experiment = "ablation_recipe" if key == "initial_open" else "table_main"
        yield from cells(experiment, "dqn", "cartpole", "l0", f"regularizer.{key}={values}")


# ---------------------------------------------------------------- open questions

SHORT = "trainer.total_steps=100_000"
ACTORS = "ddpg", "td3", "sac"

CONTINUOUS = [
    *(cell for actor in ACTORS for cell in cells("table_continuous", actor, "pendulum", "none,l0,l0_units,l1")),
    *cells("table_continuous", "td3", "lunar_lander_continuous", "none,l0", SHORT),
    *(cell for actor in ("ddpg", "sac") for cell in cells("table_continuous", actor, "fetch_reach", "none,l0,l0_units")),
    # the first tenth of what is published
    *(cell for actor in ("td3", "sac") for cell in cells("table_continuous", actor, "half_cheetah", "none,l0", SHORT)),
]

ALGORITHMS = [
    *cells("table_algorithms", "a2c", "cartpole", "none,l0,l0_units,l1"),
    *cells("table_algorithms", "a2c", "acrobot", "none,l0"),
    *(cell for algorithm in ("sac", "td3") for cell in cells("table_algorithms", algorithm, "pendulum", "none,l0,l0_units,l1")),
]

# ---------------------------------------------------------------- controls


def controls() -> Iterator[Cell]:
    """What has as many zeros, or stores as many numbers, as gates; on CartPole as in reproduce_sparsity.py."""
    yield from cells("table_main", "dqn", "cartpole", "none,l0_units,l0_combined")
    for cell in at_the_level():
        # the experiment has a target of its own, which dense networks have not
        yield replace(cell, experiment="table_main" if cell.regularizers == "none" else "table_controls")
    # a tenth of the weights of each
    tenths = {("ppo", "cartpole"): 448, ("dqn", "lunar_lander"): 6_860, ("td3", "pendulum"): 12_150}
    for (algorithm, environment), tenth in tenths.items():
        yield from cells("table_main", algorithm, environment, "none,l0_units")
        yield from cells("table_controls", algorithm, environment, "magnitude,random", "regularizer.target_sparsity=0.9")
        yield from cells("table_main", algorithm, environment, "none", "network=small_dense", f"network.weights={tenth}")


# ---------------------------------------------------------------- first steps

FIRST_STEPS = [
    Cell("dqn", "cartpole", "none,l0,l1", 3, experiment="first_steps"),
    # from the dense policies, which come first
    Cell("dqn", "cartpole", "l0", 3, experiment="first_steps_from_dense"),
]

TABLES = [
    Table("table_main", MAIN, "tables"),
    Table("table_ranks", RANKS, "tables"),
    Table("ablation_lambda_beta", [*over_lambda_and_beta()], "tables"),
    Table("ablation_recipe", [*over_recipe()], "tables"),
    Table("table_continuous", CONTINUOUS, "tables"),
    Table("table_algorithms", ALGORITHMS, "tables"),
    Table("table_controls", [*controls()], "tables"),
    Table("first_steps", FIRST_STEPS),
]


if __name__ == "__main__":
    reproduce(TABLES, (__doc__ or "").split("\n")[0])
