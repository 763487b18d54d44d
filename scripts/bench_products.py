"""Speed of compiled training with products of matrices by oneDNN's kernel, beside MKL's, on one core. Part of `make bench`.

Both train in one process by turns, as by_turns.py says, each with a cache of programs of its own. Rows and a table for
docs/benchmarks.md go to results/products-speed/.

    python scripts/bench_products.py                 # everything: half an hour
    python scripts/bench_products.py --only td3      # one algorithm; the others are kept
    python scripts/bench_products.py --smoke         # does it work? in outputs/smoke-results
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

from by_turns import MEMBERS, TASKS, arguments, compare, measure_all, readable_rates, slices, within
from measurements import Measurements

from sparserl.training import compiled

WAYS = "mkl", "onednn"


@contextmanager
def multiplied(way: str, cache: str) -> Iterator[None]:
    """Within it programs have the products of eager steps, by MKL, or the kernel; they are in a cache of their own."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, XDG_CACHE_HOME=cache))
        if way == "mkl":
            stack.enter_context(patch.object(compiled, "traced_for_program", nullcontext))
        yield


def measure(algorithm: str, pairs: int) -> list[dict[str, Any]]:
    """A row for each number of members."""
    from sparserl.training import interrupts

    interrupts.prepare()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for members in MEMBERS:
            trained = {
                way: within(partial(multiplied, way, f"{root}/{way}"), slices(algorithm, "none", members, compiled=True))
                for way in WAYS
            }
            for its in trained.values():
                next(its)
            rows.append({"members": members, **compare(trained, pairs, members * TASKS[algorithm].slice)})
    return rows


MEASUREMENTS = Measurements(
    {
        "algorithm": "algorithm",
        "environment": "environment",
        "members": "members",
        "mkl_steps_per_second": "MKL, steps/s",
        "onednn_steps_per_second": "oneDNN's kernel, steps/s",
        "times": "times (quartiles of pairs)",
    },
    key=("algorithm", "members"),
    readable=lambda row: readable_rates(row, WAYS),
    order=lambda row: ([*TASKS].index(row["algorithm"]), int(row["members"])),
)


def main() -> None:
    """Measure, print the table, keep the rows."""
    options = arguments(__doc__, [*TASKS]).parse_args()
    measure_all(options, __file__, "products-speed", measure, MEASUREMENTS, [{"algorithm": its} for its in options.only])


if __name__ == "__main__":
    main()
