"""Speed of every algorithm beside Stable-Baselines3's, on one core, in one run: solo, and as a population.

Both sides have the same network, minibatch, number of environments and gradient steps for each environment step. Every
measurement is a process of its own with one thread, and begins after learning has begun; Stable-Baselines3 is measured before
and after ours. Environment steps of all members count. Rows and the command go to results/DATE-speed-algorithms/. Needs the
extra `bench`.

    python scripts/bench_algorithms.py                     # everything: minutes
    python scripts/bench_algorithms.py --only ppo sac
    python scripts/bench_algorithms.py --smoke             # does it work? a moment of each, in outputs/smoke-results
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from bench import in_a_process, keep, peer, population
from rich.table import Table

from sparserl.sweeps.executors.processes import usable_cores


@dataclass(frozen=True)
class Task:
    """One algorithm with the same settings on both sides."""

    environment: str
    id: str
    members: int
    warm_steps: int
    overrides: tuple[str, ...]
    envs: int
    arch: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of Stable-Baselines3."""


_REPLAY = (
    "experience.learning_starts=300",
    "network.hidden=[256,256]",
    "experience.batch_size=256",
    "trainer.num_envs=1",
    "trainer.log_every=20",  # they take few steps a second, and the split of time comes with rows
)
_THEIRS = {"learning_starts": 300, "batch_size": 256, "train_freq": 1, "gradient_steps": 1}

TASKS = {
    "dqn": Task(
        "cartpole", "CartPole-v1", 16, 3000, ("experience.learning_starts=1000", "algorithm.epsilon=0.05"), 10, (120, 84),
        {"learning_starts": 1000, "batch_size": 128, "train_freq": 1, "gradient_steps": 1, "target_update_interval": 10,
         "tau": 0.01, "exploration_initial_eps": 0.05, "exploration_final_eps": 0.05},
    ),
    "ppo": Task(
        "cartpole", "CartPole-v1", 16, 2048, ("network.hidden=[64,64]", "trainer.num_envs=4"), 4, (64, 64),
        {"n_steps": 128, "batch_size": 128, "n_epochs": 4},
    ),
    "a2c": Task(
        "cartpole", "CartPole-v1", 16, 2000, ("network.hidden=[64,64]", "trainer.num_envs=8"), 8, (64, 64), {"n_steps": 5}
    ),
    "ddpg": Task("pendulum", "Pendulum-v1", 8, 600, _REPLAY, 1, (256, 256), _THEIRS),
    "td3": Task("pendulum", "Pendulum-v1", 8, 600, _REPLAY, 1, (256, 256), _THEIRS),
    "sac": Task("pendulum", "Pendulum-v1", 8, 600, _REPLAY, 1, (256, 256), _THEIRS),
}  # fmt: skip


def measure_ours(name: str, members: int, seconds: float) -> dict[str, Any]:
    """Steps/s, and where the time goes."""
    task = TASKS[name]
    chosen = f"algorithm={name}", f"environment={task.environment}", "regularizer=none"
    return population((*chosen, *task.overrides), members, task.warm_steps, seconds)


def measure_sb3(name: str, seconds: float) -> dict[str, Any]:
    """Steps/s of Stable-Baselines3."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    task = TASKS[name]
    policy = {"net_arch": list(task.arch)}
    env = make_vec_env(task.id, n_envs=task.envs)
    model = getattr(stable_baselines3, name.upper())("MlpPolicy", env, policy_kwargs=policy, device="cpu", **task.settings)
    return peer(model, task.warm_steps, seconds)


def main() -> None:
    """Measure, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, after its warm-up")
    parser.add_argument("--core", type=int, default=max(usable_cores()), help="the core to run on")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=[*TASKS], metavar="NAME", help="algorithms")
    parser.add_argument("--smoke", action="store_true", help="measure next to nothing, and keep it out of results/")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        arguments = json.loads(options.measure)
        measure = {"ours": measure_ours, "sb3": measure_sb3}[arguments.pop("kind")]
        print(json.dumps(measure(**arguments)))
        return
    title = "environment steps/s on one core"
    table = Table("algorithm", "environment", "SB3", "solo", "times SB3", "members", "all members", "times SB3", title=title)
    rows: list[dict[str, Any]] = []
    seconds = 0.1 if options.smoke else options.seconds
    for name in options.only:
        task = TASKS[name]
        common = {"core": options.core, "script": __file__, "name": name, "seconds": seconds}
        first = in_a_process(kind="sb3", **common)
        solo, together = (in_a_process(kind="ours", members=members, **common) for members in (1, task.members))
        last = in_a_process(kind="sb3", **common)
        rate = (first["steps_per_second"] + last["steps_per_second"]) / 2
        for row in (solo, together):
            row["times_sb3"] = row["steps_per_second"] / rate
        rows += [first, solo, together, last]
        shown = [f"{solo['steps_per_second']:.0f}", f"{solo['times_sb3']:.2f}", str(task.members)]
        shown += [f"{together['steps_per_second']:.0f}", f"{together['times_sb3']:.2f}"]
        table.add_row(name, task.environment, f"{rate:.0f}", *shown)
    chosen = "" if options.only == [*TASKS] else f" --only {' '.join(options.only)}"
    command = f"command: python scripts/bench_algorithms.py --seconds {seconds:g}{chosen}"
    root = Path("outputs/smoke-results" if options.smoke else "results")
    keep(root / f"{date.today()}-speed-algorithms", {"versus_sb3": rows}, [command, table])


if __name__ == "__main__":
    main()
