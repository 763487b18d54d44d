"""Speed of training with the products of matrices of gradient steps by oneDNN, beside MKL, on one core. Part of `make bench`.

For processors where training takes oneDNN (`sparserl.networks.products.py`); on others there is nothing to compare. Both train
in one process by turns, as in bench_compiled.py, eagerly. Rows and a table for docs/benchmarks.md go to
results/DATE-products-speed/.

    python scripts/bench_products.py                 # everything: five minutes
    python scripts/bench_products.py --only td3      # one algorithm; others of the same day are kept
    python scripts/bench_products.py --smoke         # does it work? in outputs/smoke-results
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench import in_a_process
from bench_compiled import MEMBERS, TASKS, by_turns, slices
from measurements import Measurements, Row

from sparserl.sweeps.executors.processes import usable_cores

ALGORITHMS = "td3", "sac"
"""Those of the tasks of bench_compiled.py whose networks are large enough."""


def measure(algorithm: str, pairs: int) -> list[dict[str, Any]]:
    """A row for each number of members."""
    from sparserl.networks import products
    from sparserl.training import interrupts

    interrupts.prepare()
    rows = []
    for members in MEMBERS:
        trained = {
            "mkl": slices(algorithm, "none", members, compiled=False),
            "onednn": slices(algorithm, "none", members, False),
        }
        with patch.object(products, "FEWEST_WEIGHTS", math.inf):  # a learner asks when it is made
            next(trained["mkl"])
        next(trained["onednn"])
        rows.append({"members": members, **by_turns(trained, pairs, members * TASKS[algorithm].slice)})
    return rows


def readable(row: Row) -> dict[str, str]:
    """The numbers of a row as the table has them."""
    rates = "mkl_steps_per_second", "onednn_steps_per_second"
    times, low, high = (float(row[name]) for name in ("times", "times_25", "times_75"))
    return {**{name: f"{float(row[name]):,.0f}" for name in rates}, "times": f"{times:.2f} ({low:.2f} to {high:.2f})"}


MEASUREMENTS = Measurements(
    {
        "algorithm": "algorithm",
        "environment": "environment",
        "members": "members",
        "mkl_steps_per_second": "MKL, steps/s",
        "onednn_steps_per_second": "oneDNN, steps/s",
        "times": "times (quartiles of pairs)",
    },
    key=("algorithm", "members"),
    readable=readable,
)


def main() -> None:
    """Measure, print the table, keep the rows."""
    from sparserl.networks.products import onednn_is_faster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="of slices for each row")
    parser.add_argument("--core", type=int, default=max(usable_cores()), help="the core to run on")
    parser.add_argument("--only", nargs="+", choices=ALGORITHMS, default=ALGORITHMS, metavar="NAME", help="algorithms")
    parser.add_argument("--smoke", action="store_true", help="two pairs, kept out of results/")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps({"rows": measure(**json.loads(options.measure))}))
        return
    if not onednn_is_faster():
        sys.exit("on this processor products of matrices are left to PyTorch's choice: there is nothing to compare")
    folder = Path("outputs/smoke-results" if options.smoke else "results") / f"{date.today()}-products-speed"
    for algorithm in options.only:
        task = {"algorithm": algorithm, "pairs": 2 if options.smoke else options.pairs}
        rows = in_a_process([options.core], script=__file__, **task)["rows"]
        table = MEASUREMENTS.add(folder, [task | {"environment": TASKS[algorithm].environment} | row for row in rows])
    print(table)
    print(f"rows and table: {folder}")


if __name__ == "__main__":
    main()
