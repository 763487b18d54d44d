"""Speed beside purejaxrl (jitted JAX), on one core: DQN and PPO on CartPole, solo and eight seeds at once.

Needs a clone of purejaxrl and a Python with what it imports: jax, flax, optax, distrax, gymnax and flashbax. Its own
`make_train` is run under `jit` and `vmap`, as its scripts do it, compiled before the clock starts; ours is compiled too
(`trainer.compile=true`). Networks, minibatches, environments and gradient steps for each environment step are the same.
purejaxrl is measured before and after ours. Time is CPU time of the process on that core. Rows and a table go to
results/purejaxrl-speed/.

    git clone https://github.com/luchris429/purejaxrl CLONE
    python scripts/bench_purejaxrl.py --clone CLONE --python JAX_ENVIRONMENT/bin/python
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import MagicMock

MEMBERS = 1, 8
REPEATS = 3
UNUSED = "brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix", "wandb"
"""What purejaxrl's files import, and neither script needs."""

PUREJAXRL: dict[str, dict[str, Any]] = {
    "dqn": {
        "NUM_ENVS": 10,
        "BUFFER_SIZE": 10_000,
        "BUFFER_BATCH_SIZE": 128,
        "EPSILON_START": 1.0,
        "EPSILON_FINISH": 0.05,
        "EPSILON_ANNEAL_TIME": 25e4,
        "TARGET_UPDATE_INTERVAL": 500,
        "LR": 2.5e-4,
        "LEARNING_STARTS": 1000,
        "TRAINING_INTERVAL": 10,
        "LR_LINEAR_DECAY": False,
        "GAMMA": 0.99,
        "TAU": 1.0,
        "WANDB_MODE": "disabled",
    },
    "ppo": {
        "LR": 2.5e-4,
        "NUM_ENVS": 4,
        "NUM_STEPS": 128,
        "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh",
        "ANNEAL_LR": True,
        "DEBUG": False,
    },
}
"""Its own settings, but that DQN begins to learn after 1,000 steps."""

OURS: dict[str, tuple[str, ...]] = {
    "dqn": (
        "experience.learning_starts=1000",
        "experience.n_step=1",  # as on the other side, and so are observations
        "algorithm.normalize_observation=false",
    ),
    "ppo": (),
}

Rate: TypeAlias = "dict[str, Any]"
"""``steps_per_second``: environment steps of all members for each CPU second."""


def measure_purejaxrl(algorithm: str, members: int, clone: str, steps: int) -> Rate:
    """Called in the Python that has JAX."""
    sys.path.insert(0, str(Path(clone) / "purejaxrl"))
    for name in UNUSED:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            sys.modules[name] = MagicMock()
    jax = importlib.import_module("jax")
    jax.tree_map = jax.tree.map  # its name when dqn.py was written
    config = PUREJAXRL[algorithm] | {"ENV_NAME": "CartPole-v1", "TOTAL_TIMESTEPS": steps}
    train = jax.jit(jax.vmap(importlib.import_module(algorithm).make_train(config)))
    keys = jax.random.split(jax.random.PRNGKey(0), members)
    compiled, seconds = train.lower(keys).compile(), []
    for _ in range(REPEATS):
        start = time.process_time()
        jax.block_until_ready(compiled(keys))
        seconds.append(time.process_time() - start)
    return {"steps_per_second": members * steps / statistics.median(seconds), "jax": jax.__version__}


def measure_ours(algorithm: str, members: int, slices: int) -> Rate:
    """Some slices of a training that has begun to learn."""
    import by_turns

    from sparserl.training import interrupts

    interrupts.prepare()
    spent = by_turns.slices(algorithm, "none", members, compiled=True, more=OURS[algorithm])
    next(spent)
    seconds = [slice_["total"] for slice_ in itertools.islice(spent, slices)]
    steps = members * by_turns.TASKS[algorithm].slice
    return {"steps_per_second": steps / statistics.median(seconds)}


def compare(algorithm: str, members: int, theirs: Callable[[], Rate], ours: Callable[[], Rate]) -> dict[str, Any]:
    """A row: theirs before and after ours, and ours as a multiple of their mean."""
    before, own, after = theirs(), ours(), theirs()
    rates = [its["steps_per_second"] for its in (before, after)]
    return {
        "algorithm": algorithm,
        "members": members,
        "purejaxrl": statistics.mean(rates),
        "purejaxrl_before": rates[0],
        "purejaxrl_after": rates[1],
        "sparserl": own["steps_per_second"],
        "times": own["steps_per_second"] / statistics.mean(rates),
        "jax": before["jax"],
    }


def main() -> None:
    """Measure, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", default=os.environ.get("PUREJAXRL"), help="of purejaxrl; by default what PUREJAXRL names")
    parser.add_argument("--python", default=os.environ.get("JAX_PYTHON"), help="that has JAX; by default what JAX_PYTHON names")
    parser.add_argument("--only", nargs="+", choices=PUREJAXRL, default=[*PUREJAXRL], metavar="NAME", help="algorithms")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of each member of purejaxrl")
    parser.add_argument("--slices", type=int, default=30, help="of ours")
    parser.add_argument("--core", type=int, help="the core to run on; by default the last")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        given = json.loads(options.measure)
        measure = {"purejaxrl": measure_purejaxrl, "sparserl": measure_ours}[given.pop("what")]
        print(json.dumps(measure(**given)))
        return
    if not options.clone or not (Path(options.clone) / "purejaxrl" / "ppo.py").is_file():
        sys.exit("purejaxrl is not there: git clone https://github.com/luchris429/purejaxrl, and name the clone with --clone")
    if not options.python:
        needed = "jax, flax, optax, distrax, gymnax and flashbax"
        sys.exit(f"no Python with JAX is named: make an environment with {needed}, and name its Python with --python")

    from bench import in_a_process
    from measurements import Measurements, folder_of

    from sparserl.sweeps.executors.processes import usable_cores

    core = max(usable_cores()) if options.core is None else options.core
    git = ["git", "-C", options.clone, "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    shown = ("algorithm", "members", "purejaxrl", "sparserl", "times")
    measurements = Measurements(
        dict(zip(shown, ("algorithm", "members", "purejaxrl, steps/s", "sparserl, steps/s", "times purejaxrl"), strict=True)),
        key=("algorithm", "members"),
        readable=lambda row: (
            {name: f"{float(row[name]):,.0f}" for name in shown[2:4]} | {"times": f"{float(row['times']):.2f}"}
        ),
        order=lambda row: (row["algorithm"], int(row["members"])),
    )
    table = ""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for algorithm, members in itertools.product(options.only, MEMBERS):
            what = {"algorithm": algorithm, "members": members}
            row = compare(
                **what,
                theirs=lambda what=what: in_a_process(
                    [core],
                    __file__,
                    options.python,
                    what="purejaxrl",
                    clone=options.clone,
                    steps=options.steps,
                    **what,
                ),
                ours=lambda what=what: in_a_process([core], __file__, what="sparserl", slices=options.slices, **what),
            )
            table = measurements.add(folder_of("purejaxrl-speed"), [row | {"purejaxrl_commit": commit}])
    print(table)


if __name__ == "__main__":
    main()
