"""Speed of training with compiled gradient steps beside eager ones, on one core. What `make bench` runs after bench.py.

Both train in one process by turns, as by_turns.py says; the ratio is the median of those of all pairs. Gates of L0 move all the
time. The cache of programs is empty before each pair of an algorithm and a
regulariser: what its first process took longer with compiled steps is what compiling takes, once for any number of members.
Rows and a table for docs/benchmarks.md go to results/compiled-speed/.

    python scripts/bench_compiled.py                                # everything: half an hour
    python scripts/bench_compiled.py --only dqn --regularizer none  # one pair; the others are kept
    python scripts/bench_compiled.py --smoke                        # does it work? in outputs/smoke-results
"""

from __future__ import annotations

import os
import sys
import tempfile
from itertools import product
from typing import Any

import torch
from by_turns import MEMBERS, TASKS, arguments, compare, cpu, measure_all, parts_of, readable_rates, slices
from measurements import Measurements, Row

WAYS = "eager", "compiled"

EPISODES = 100
"""Of an evaluation as shipped: a program has so many observations of each member."""


def compiling_evaluation(algorithm: str, regularizer: str) -> float:
    """CPU seconds to compile what evaluations need, of which a training without end has none."""
    from sparserl.training.deterministic_call import DeterministicPolicies

    _, parts = parts_of(algorithm, regularizer, 1, compiled=True)
    bound, spec = parts.algorithm.bind(parts.environment.spec()), parts.environment.spec()
    weights = bound.init(parts.members)
    started = cpu()
    policies = DeterministicPolicies(bound, compiles=lambda: True)
    seen = torch.zeros(1, EPISODES, *spec.observation_shape)
    policies({component: weights[component] for component in bound.policy}, seen)
    return cpu() - started


def measure(algorithm: str, regularizer: str, pairs: int) -> list[dict[str, Any]]:
    """A row for each number of members."""
    from sparserl.training import interrupts, programs

    interrupts.prepare()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for members in MEMBERS:
            both = [slices(algorithm, regularizer, members, compiled) for compiled in (False, True)]
            begun = [next(its)["total"] for its in both]
            if not rows:
                seconds = begun[1] - begun[0] + compiling_evaluation(algorithm, regularizer)
            made: dict[str, Any] = {"compile_seconds": seconds}
            made["programs"] = len(list(programs.folder().rglob("*.pt2")))
            if not made["programs"]:
                sys.exit("nothing could be compiled")
            compared = compare(dict(zip(WAYS, both, strict=True)), pairs, members * TASKS[algorithm].slice)
            rows.append({"members": members, **compared, **made})
    return rows


def readable(row: Row) -> dict[str, str]:
    """The numbers of a row as the table has them."""
    shares = {f"{way}_share_update": f"{float(row[f'{way}_share_update']):.0%}" for way in WAYS}
    return readable_rates(row, WAYS) | shares | {"compile_seconds": f"{float(row['compile_seconds']):,.0f}"}


MEASUREMENTS = Measurements(
    {
        "algorithm": "algorithm",
        "environment": "environment",
        "regularizer": "regularizer",
        "members": "members",
        "eager_steps_per_second": "eager, steps/s",
        "compiled_steps_per_second": "compiled, steps/s",
        "times": "times (quartiles of pairs)",
        "eager_share_update": "update, eager",
        "compiled_share_update": "update, compiled",
        "programs": "programs",
        "compile_seconds": "compiling, s",
    },
    key=("algorithm", "regularizer", "members"),
    readable=readable,
    order=lambda row: ([*TASKS].index(row["algorithm"]), row["regularizer"] != "none", int(row["members"])),
)


def main() -> None:
    """Measure, print the table, keep the rows."""
    parser = arguments(__doc__, [*TASKS])
    parser.add_argument("--regularizer", nargs="+", choices=("none", "l0"), default=["none", "l0"], help="regularisers")
    options = parser.parse_args()
    tasks = [{"algorithm": each, "regularizer": name} for each, name in product(options.only, options.regularizer)]
    measure_all(options, __file__, "compiled-speed", measure, MEASUREMENTS, tasks)


if __name__ == "__main__":
    main()
