"""Speed of Super Mario Bros' environments alone: ours beside Gymnasium's vectors of Gymnasium's wrappers, on two cores.

Sub-environments of 7-1 take random actions, the same ones everywhere, so that all play the same games: rows have the points of
the first steps. Pixels are 4 images of 84 x 84 in shades of grey and 4 frames a step on both sides. Every measurement is a
process of its own, pinned to the same cores, and begins after these first steps. Steps are counted for each second, which is
what more cores are for, and for each CPU second of all threads and processes, which other work on the machine changes less.
Each measurement is made twice, in an order and in the reverse one, and a rate is the mean of both. Rows with their command, and
a table for docs/benchmarks.md, go to results/mario-speed/. Needs the game: make install-mario.

    python scripts/bench_mario.py             # minutes
    python scripts/bench_mario.py --smoke     # does it work? a moment of each, in outputs/smoke-results
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any

import gymnasium
import numpy as np
import torch
from bench import in_a_process
from gymnasium import wrappers
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from measurements import Measurements, folder_of

from sparserl.environments.mario_console import check_installed
from sparserl.sweeps.executors.processes import usable_cores

ENVS, FIRST_STEPS, LIMIT = 8, 100, 2_000
"""Sub-environments, as many as PPO trains on here; their steps before the clock starts; and the step limit of an episode."""

Step = Callable[[np.ndarray], float]
"""Takes a step with the actions ``[env]``, and gives the sum of the rewards."""

RATES = "wall", "cpu"
"""What steps are counted for: seconds, and CPU seconds."""


@dataclass(frozen=True)
class Case:
    """One way to play: what is shown, by what, in how many threads, and whether the console draws."""

    view: str
    by: str
    threads: int = 1
    draw: bool = True


CASES = (
    Case("pixels", "SyncVectorEnv"),
    Case("pixels", "AsyncVectorEnv"),
    *(Case("pixels", "sparserl", threads) for threads in (1, 2)),
    *(Case("tiles", "sparserl", threads, draw) for draw in (True, False) for threads in (1, 2)),
)
"""The first of a view is what the others of it are compared with."""


def measure(case: Case, envs: int, seconds: float) -> dict[str, Any]:
    """Environment steps a second and a CPU second, and the points of the first steps."""
    torch.set_num_threads(1)
    vector, step = ours(case, envs) if case.by == "sparserl" else theirs(case, envs)
    chance = np.random.default_rng(0)

    def clocks() -> np.ndarray:
        elsewhere = sum(vector.call("cpu_seconds")) if case.by == "AsyncVectorEnv" else 0.0
        return np.array([time.perf_counter(), time.process_time() + elsewhere])

    with closing(vector):
        points = sum(step(chance.integers(7, size=envs)) for _ in range(FIRST_STEPS))
        steps, began = 0, clocks()
        while time.perf_counter() - began[0] < seconds or not steps:
            step(chance.integers(7, size=envs))
            steps += 1
        rates = steps * envs / (clocks() - began)
    return dict(zip(RATES, rates.tolist(), strict=True)) | {"points": points}


def ours(case: Case, envs: int) -> tuple[Any, Step]:
    """What the trainer steps: one member's sub-environments."""
    from sparserl.config.build import build
    from sparserl.config.validation import compose
    from sparserl.population.members import Population

    keys: dict[str, Any] = {"threads": case.threads, "draw": case.draw, "max_episode_steps": LIMIT, "patience": None}
    keys |= {"max_noops": 0, "reward_scale": 1.0, "flag_reward": 0.0, "death_penalty": 0.0}
    overrides = [f"environment.{key}={json.dumps(value)}" for key, value in keys.items()]
    name = "super_mario_bros" if case.view == "pixels" else "super_mario_bros_tiles"
    _, parts = build([compose("algorithm=ppo", f"environment={name}", *overrides)])
    vector = parts.environment.open(Population((0,)).generators("environment"), envs)
    vector.reset()
    return vector, lambda actions: float(vector.step(torch.from_numpy(actions)[None]).reward.sum())


def theirs(case: Case, envs: int) -> tuple[Any, Step]:
    """Gymnasium's vector of its own wrappers, of which an episode begins within the step that ended the one before, as ours."""
    if case.by == "AsyncVectorEnv":
        vector: Any = AsyncVectorEnv([wrapped] * envs, autoreset_mode=AutoresetMode.SAME_STEP)
    else:
        vector = SyncVectorEnv([wrapped] * envs, autoreset_mode=AutoresetMode.SAME_STEP)
    vector.reset()
    return vector, lambda actions: float(vector.step(actions)[1].sum())


class Clocked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Says how much CPU time the process of an environment has taken."""

    def cpu_seconds(self) -> float:
        return time.process_time()


def wrapped() -> gymnasium.Env[Any, Any]:
    """The package's environment as pixels, with no wrapper but Gymnasium's and that of its buttons."""
    import cv2
    import gym_super_mario_bros
    from gym_super_mario_bros.actions import SIMPLE_MOVEMENT
    from nes_py.wrappers import JoypadSpace

    cv2.setNumThreads(1)
    env = JoypadSpace(gym_super_mario_bros.make("SuperMarioBros-7-1-v0"), SIMPLE_MOVEMENT)
    env = wrappers.GrayscaleObservation(wrappers.RepeatAction(env, 4))
    env = wrappers.FrameStackObservation(wrappers.ResizeObservation(env, (84, 84)), 4)
    return Clocked(wrappers.TimeLimit(env, LIMIT))


MEASUREMENTS = Measurements(
    {"view": "shown", "draw": "drawn", "by": "by"}
    | {"wall": "steps/s", "wall_times": "times", "cpu": "steps a CPU second", "cpu_times": "CPU: times"},
    key=("view", "draw", "by", "threads"),
    readable=lambda row: {
        "draw": "yes" if str(row["draw"]) == "True" else "no",
        "by": f"sparserl, threads: {row['threads']}" if row["by"] == "sparserl" else f"Gymnasium, {row['by']}",
        **{name: f"{float(row[name]):,.0f}" for name in RATES},
        **{f"{name}_times": f"{float(row[f'{name}_times']):.2f}" for name in RATES},
    },
)


def rows(measured: Callable[[Case], dict[str, Any]], cores: int, envs: int) -> list[dict[str, Any]]:
    """A row for each case."""
    first = {case: measured(case) for case in CASES}
    last = {case: measured(case) for case in reversed(CASES)}
    found: list[dict[str, Any]] = []
    for case in CASES:
        row = asdict(case) | {"points": first[case]["points"], "envs": envs, "cores": cores}
        for name in RATES:
            row |= {f"{name}_first": first[case][name], f"{name}_last": last[case][name]}
            row[name] = fmean((first[case][name], last[case][name]))
            compared = next((other for other in found if other["view"] == case.view), row)
            row[f"{name}_times"] = row[name] / compared[name]
        found.append(row)
    return found


def main() -> None:
    """Measure, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, after its first steps")
    parser.add_argument("--smoke", action="store_true", help="measure next to nothing, and keep it out of results/")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        arguments = json.loads(options.measure)
        print(json.dumps(measure(Case(**arguments.pop("case")), **arguments)))
        return
    try:
        check_installed()
    except ModuleNotFoundError as error:
        sys.exit(str(error))
    cores, envs, seconds = usable_cores()[-2:], 2 if options.smoke else ENVS, 0.1 if options.smoke else options.seconds
    in_one = partial(in_a_process, cores, script=__file__, envs=envs, seconds=seconds)
    folder = folder_of("mario-speed", options.smoke)
    print(MEASUREMENTS.add(folder, rows(lambda case: in_one(case=asdict(case)), len(cores), envs)))
    print(f"rows and table: {folder}")


if __name__ == "__main__":
    main()
