"""Speed of training with the gradient of the perceptron that is written by hand, beside autograd's, on one core.

It is written by hand only since that gains. Both train in one process by turns, as by_turns.py says: eagerly, and compiled, of
which each way has a cache of programs of its own. Part of `make bench`. Rows and a table for docs/benchmarks.md go to
results/gradients-speed/.

    python scripts/bench_gradients.py                # everything: a quarter of an hour
    python scripts/bench_gradients.py --way eager    # some rows; the others are kept
    python scripts/bench_gradients.py --smoke        # does it work? in outputs/smoke-results
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from by_turns import TASKS, arguments, compare, measure_all, readable_rates, slices, within
from measurements import Measurements

from sparserl.networks import mlp

ALGORITHMS = "dqn", "ppo"
"""Those of TASKS whose gradient steps are more than products of large matrices."""

MEMBERS = 1, 8, 32

WAYS = "autograd", "hand"
COMPILED = {"eager": False, "compiled": True}


class Unsaved:
    """Takes the place of a function's context: autograd keeps what it needs itself."""

    def save_for_backward(self, *tensors: torch.Tensor) -> None:
        """Nothing is saved."""


def by_autograd(function: Any) -> Any:
    """A function of autograd without its ``backward``: the operations of its ``forward`` are differentiated."""
    return type(function.__name__, (), {"apply": staticmethod(lambda *inputs: function.forward(Unsaved(), *inputs))})


def activation(name: str) -> Any:
    """One that changes its input only where nothing is differentiated.

    In place on a transposed view, as the products give them, autograd would keep account of the view, which takes longer.
    """
    in_place, anew = getattr(torch, f"{name}_"), getattr(torch, name)
    return lambda x: anew(x) if torch.is_grad_enabled() else in_place(x)


@contextmanager
def differentiated(way: str, cache: str) -> Iterator[None]:
    """Within it gradients are by hand or by autograd, and programs in a cache of their own."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, XDG_CACHE_HOME=cache))
        if way == "autograd":
            stack.enter_context(patch.object(mlp, "Perceptron", by_autograd(mlp.Perceptron)))
            stack.enter_context(patch.dict(mlp._IN_PLACE, {each: activation(each) for each in mlp._IN_PLACE}))  # noqa: SLF001
        yield


def measure(algorithm: str, way: str, pairs: int) -> list[dict[str, Any]]:
    """A row for each number of members."""
    from sparserl.training import interrupts

    interrupts.prepare()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for members in MEMBERS:
            trained = {
                by: within(partial(differentiated, by, f"{root}/{by}"), slices(algorithm, "none", members, COMPILED[way]))
                for by in WAYS
            }
            for its in trained.values():
                next(its)
            rows.append({"members": members, **compare(trained, pairs, members * TASKS[algorithm].slice)})
    return rows


MEASUREMENTS = Measurements(
    {
        "algorithm": "algorithm",
        "environment": "environment",
        "way": "steps are",
        "members": "members",
        "autograd_steps_per_second": "autograd, steps/s",
        "hand_steps_per_second": "by hand, steps/s",
        "times": "times (quartiles of pairs)",
    },
    key=("algorithm", "way", "members"),
    readable=lambda row: readable_rates(row, WAYS),
    order=lambda row: (
        [*TASKS].index(row["algorithm"]),
        [*COMPILED].index(row["way"]),
        int(row["members"]),
    ),
)


def main() -> None:
    """Measure, print the table, keep the rows."""
    parser = arguments(__doc__, ALGORITHMS)
    parser.add_argument("--way", nargs="+", choices=COMPILED, default=[*COMPILED], help="how gradient steps are run")
    options = parser.parse_args()
    tasks = [{"algorithm": algorithm, "way": way} for way, algorithm in product(options.way, options.only)]
    measure_all(options, __file__, "gradients-speed", measure, MEASUREMENTS, tasks)


if __name__ == "__main__":
    main()
