"""Speed of every algorithm beside Stable-Baselines3's, on one core, in one run: solo, and as a population.

Both sides have the same network, minibatch, number of environments and gradient steps for each environment step. Every
measurement is a process of its own with one thread, and begins after learning has begun; Stable-Baselines3 is measured before
and after ours. Environment steps of all members count. Rows with their command, and a table for
docs/benchmarks.md, go to results/algorithms-speed/. Needs the extra `bench`.

    python scripts/bench_algorithms.py                     # everything: minutes
    python scripts/bench_algorithms.py --only ppo sac
    python scripts/bench_algorithms.py --smoke             # does it work? a moment of each, in outputs/smoke-results
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import in_a_process, options_of, peer, population
from measurements import Measurements, folder_of


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
        "cartpole", "CartPole-v1", 16, 3000,
        # one step and observations as they are, as on the other side
        ("experience.learning_starts=1000", "algorithm.epsilon=0.05", "experience.n_step=1",
         "algorithm.normalize_observation=false"),
        10, (120, 84),
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
    """Steps a CPU second of eager training, and where the time goes."""
    task = TASKS[name]
    chosen = f"algorithm={name}", f"environment={task.environment}", "regularizer=none", "trainer.compile=false"
    return population((*chosen, *task.overrides), members, task.warm_steps, seconds)


def measure_sb3(name: str, seconds: float) -> dict[str, Any]:
    """Steps a CPU second of Stable-Baselines3."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    task = TASKS[name]
    policy = {"net_arch": list(task.arch)}
    env = make_vec_env(task.id, n_envs=task.envs)
    model = getattr(stable_baselines3, name.upper())("MlpPolicy", env, policy_kwargs=policy, device="cpu", **task.settings)
    return peer(model, task.warm_steps, seconds)


MEASUREMENTS = Measurements(
    {
        "algorithm": "algorithm",
        "environment": "environment",
        "sb3": "Stable-Baselines3, steps/s",
        "solo": "solo, steps/s",
        "solo_times": "solo, times Stable-Baselines3",
        "members": "members",
        "together": "all members, steps/s",
        "together_times": "all, times Stable-Baselines3",
        "update": "update's share of time",
        "mib_per_member": "MiB a member",
    },
    key=("algorithm",),
    readable=lambda row: {
        **{name: f"{float(row[name]):,.0f}" for name in ("sb3", "solo", "together", "mib_per_member")},
        **{name: f"{float(row[name]):.2f}" for name in ("solo_times", "together_times")},
        "update": f"{float(row['update']):.0%}",
    },
    order=lambda row: [*TASKS].index(row["algorithm"]),
)


def measure(name: str, core: int, seconds: float) -> dict[str, Any]:
    """The row of an algorithm; Stable-Baselines3's rate is the mean of those before and after ours."""
    task = TASKS[name]
    common = {"cores": [core], "script": __file__, "name": name, "seconds": seconds}
    first = in_a_process(kind="sb3", **common)["steps_per_second"]
    solo, together = (in_a_process(kind="ours", members=members, **common) for members in (1, task.members))
    last = in_a_process(kind="sb3", **common)["steps_per_second"]
    theirs = (first + last) / 2
    return {
        "algorithm": name,
        "environment": task.environment,
        "members": task.members,
        "sb3": theirs,
        "sb3_first": first,
        "sb3_last": last,
        "solo": solo["steps_per_second"],
        "solo_times": solo["steps_per_second"] / theirs,
        "together": together["steps_per_second"],
        "together_times": together["steps_per_second"] / theirs,
        "update": together["share_update"],
        "mib_per_member": together["mib_per_member"],
    }


def main() -> None:
    """Measure, print the table, keep the rows."""
    parser = options_of(__doc__, [*TASKS])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, after its warm-up")
    options = parser.parse_args()
    if options.measure:
        arguments = json.loads(options.measure)
        kinds = {"ours": measure_ours, "sb3": measure_sb3}
        print(json.dumps(kinds[arguments.pop("kind")](**arguments)))
        return
    folder = folder_of("algorithms-speed", options.smoke)
    for name in options.only:
        print(MEASUREMENTS.add(folder, [measure(name, options.core, 0.1 if options.smoke else options.seconds)]))
    print(f"rows and table: {folder}")


if __name__ == "__main__":
    main()
