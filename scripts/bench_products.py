"""Speed of training with the products of matrices of gradient steps by oneDNN, beside MKL, on one core. Part of `make bench`.

For processors where training takes oneDNN (`sparserl/networks/products.py`); on others there is nothing to compare. Both train
eagerly in one process by turns, as by_turns.py says. Rows and a table for docs/benchmarks.md go to results/products-speed/.

    python scripts/bench_products.py                 # everything: five minutes
    python scripts/bench_products.py --only td3      # one algorithm; the others are kept
    python scripts/bench_products.py --smoke         # does it work? in outputs/smoke-results
"""

from __future__ import annotations

import math
import sys
from typing import Any
from unittest.mock import patch

from by_turns import MEMBERS, TASKS, arguments, compare, measure_all, readable_rates, slices
from measurements import Measurements

ALGORITHMS = "td3", "sac"
"""Those of TASKS whose networks are large enough."""

WAYS = "mkl", "onednn"


def measure(algorithm: str, pairs: int) -> list[dict[str, Any]]:
    """A row for each number of members."""
    from sparserl.networks import products
    from sparserl.training import interrupts

    interrupts.prepare()
    rows = []
    for members in MEMBERS:
        trained = {way: slices(algorithm, "none", members, compiled=False) for way in WAYS}
        with patch.object(products, "FEWEST_WEIGHTS", math.inf):  # a learner asks when it is made
            next(trained["mkl"])
        next(trained["onednn"])
        rows.append({"members": members, **compare(trained, pairs, members * TASKS[algorithm].slice)})
    return rows


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
    readable=lambda row: readable_rates(row, WAYS),
)


def main() -> None:
    """Measure, print the table, keep the rows."""
    from sparserl.networks.products import onednn_is_faster

    options = arguments(__doc__, ALGORITHMS).parse_args()
    if not onednn_is_faster():
        sys.exit("on this processor products of matrices are left to PyTorch's choice: there is nothing to compare")
    tasks = [{"algorithm": algorithm} for algorithm in options.only]
    measure_all(options, __file__, "products-speed", measure, MEASUREMENTS, tasks)


if __name__ == "__main__":
    main()
