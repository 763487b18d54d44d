"""Speed beside Stable-Baselines3's DQN, on one core, in one run. What `make bench` runs; needs the extra `bench`.

With `--device cuda`: only how speed goes with the size of the population, on that core and with a GPU beside it.

Every measurement is a process of its own, pinned to the same core, with one thread, and begins after learning has begun.
Environment steps of all members count, for each CPU second, since neighbours on the core would show in any other; on a GPU for
each second. Both sides train DQN on CartPole-v1 with the same network (120-84), batch (128), one gradient step for ten
environment steps, and number of environments. Rows and tables for docs/benchmarks.md go to the folders of results/speed/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from measurements import Measurements

from sparserl.sweeps.executors.processes import usable_cores

PHASES = ("environment", "acting", "replay", "update")
SIZES = (1, 2, 4, 8, 16, 32, 64)
WARM_STEPS = 3_000
"""Environment steps of each member before the clock starts: past `learning_starts`, compiling and first-time costs."""


def measure_ours(
    members: int, regularizer: str, envs: int, compiled: bool, seconds: float, device: str = "cpu", by_wall: bool = False
) -> dict[str, Any]:
    """Steps/s, the split of time and the memory of one population of DQN."""
    moving = "regularizer.delay_steps=0", "regularizer.ramp_steps=0", "regularizer.lambda_c=1e-3"
    overrides = (
        f"regularizer={regularizer}",
        f"device={device}",
        f"trainer.num_envs={envs}",
        f"trainer.compile={str(compiled).lower()}",
        "experience.learning_starts=1000",
        "algorithm.epsilon=0.05",
        "algorithm.learning_rate=2.5e-4",
        "experience.n_step=1",  # as on the other side, and so are observations
        "algorithm.normalize_observation=false",
        *(moving if regularizer == "l0" else ()),
    )
    clock = time.perf_counter if by_wall else time.process_time
    return population(overrides, members, WARM_STEPS, seconds, clock)


def population(
    overrides: Sequence[str],
    members: int,
    warm_steps: int,
    seconds: float,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Any]:
    """Steps/s, the split of time and the memory of one population; it trains for about ``seconds`` after the warm-up.

    That is until a row has come, at least, since the split of time comes with rows. ``clock`` says what seconds are.
    """
    from sparserl.config.build import build
    from sparserl.config.validation import compose
    from sparserl.training import interrupts
    from sparserl.training.events import Progress, Row

    interrupts.prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    endless = (
        "logger=disk",
        "trainer.log_every=100",
        "trainer.eval_every=1000000000",
        "trainer.checkpoint_every=1000000000",
        "trainer.total_steps=1000000000",
        "trainer.eval_episodes=1",
    )
    trainer, parts = build([compose(*endless, *overrides, f"seed={seed}") for seed in range(members)])
    spent = dict.fromkeys(PHASES, 0.0)
    started, first, step = 0.0, 0, 0
    for event in trainer.run(parts):
        if isinstance(event, Row) and started:
            spent = {phase: spent[phase] + event.seconds.get(phase, 0.0) for phase in PHASES}
        if isinstance(event, Progress):
            step = event.env_step
            if not started and step >= warm_steps:
                started, first = clock(), step
            elif started and clock() - started > seconds and any(spent.values()):
                break
    elapsed = clock() - started
    mib = 1 << (20 if sys.platform == "darwin" else 10)  # macOS counts bytes, Linux KiB
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / mib
    total = sum(spent.values())
    return {
        "steps_per_second": (step - first) * members / elapsed,
        "mib_per_member": memory / members,
        **{f"share_{phase}": spent[phase] / total for phase in PHASES},
    }


def measure_checkpoint(members: int, seconds: float) -> dict[str, Any]:
    """Seconds that a checkpoint takes, waiting for the disk included, and its share of the time at the default interval.

    The rings are as full as they are halfway through the shipped run.
    """
    from sparserl.config.build import build
    from sparserl.config.validation import compose
    from sparserl.population.state import split, stack
    from sparserl.runs import checkpoint
    from sparserl.training import interrupts
    from sparserl.training.events import Snapshot

    interrupts.prepare()
    shipped = compose("regularizer=none")["trainer"]
    trainer, parts = build([compose("regularizer=none", "trainer=smoke", f"seed={seed}") for seed in range(members)])
    states = next(event.states for event in trainer.run(parts) if isinstance(event, Snapshot))
    half = shipped["total_steps"] // 2
    for fields in (state["experience"]["fields"] for state in states):
        for name, field in fields.items():
            times = -(-half // len(field))
            fields[name] = torch.cat([field] * times)[:half].contiguous()
    state = stack(states)
    with tempfile.TemporaryDirectory(dir=".") as root:  # on the disk where runs are kept
        folders = [Path(root) / str(member) for member in range(members)]
        for folder in folders:
            folder.mkdir()
        rounds, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds:
            rounds += 1
            checkpoint.save(folders, rounds, [split(state, member) for member in range(members)])
    rate = measure_ours(members, "none", shipped["num_envs"], compiled=False, seconds=seconds)["steps_per_second"]
    between = shipped["checkpoint_every"] * members / rate
    each = spent / rounds
    return {"took_seconds": each, "beside_seconds": between}


def measure_sweep(members: int, seconds: float) -> dict[str, Any]:
    """CPU seconds of the sweep of all ranks, and its share of those of the shipped run.

    It takes as long as its episodes, so these are the longest that there are: of policies made by hand, which balance the
    pole to the limit of 500 steps at every rank. A little noise gives their layers the ranks that trained ones have.
    """
    from sparserl.config.build import build, build_rank_sweep
    from sparserl.config.validation import compose
    from sparserl.training import interrupts

    interrupts.prepare()
    configs = [compose("regularizer=none", f"seed={seed}") for seed in range(members)]
    trainer, parts = build(configs)
    algorithm = parts.algorithm.bind(parts.environment.spec())
    noise = algorithm.init(parts.members)["policy"]
    layers = {name: 1e-3 * tensor for name, tensor in noise.items()}
    # one unit of each layer carries how far the pole leans and falls to the right, above a level that keeps it from 0
    level = 10.0
    layers["0.weight"][:, :, 0] = torch.tensor([0.02, 0.1, 1.0, 0.5])
    layers["0.bias"][:, 0, 0] = layers["2.bias"][:, 0, 0] = level
    layers["1.weight"][:, 0, 0] = layers["2.weight"][:, 0, 1] = 1.0
    started = time.process_time()
    swept = build_rank_sweep(configs[0])(parts.environment, algorithm, {"policy": layers}, lambda: None)
    spent = time.process_time() - started
    rate = measure_ours(members, "none", trainer.num_envs, compiled=False, seconds=seconds)["steps_per_second"]
    training = trainer.total_steps * members / rate
    return {
        "ranks": len(swept[0].rows),
        "lowest_return": min(row.return_mean for found in swept for row in found.rows),
        "took_seconds": spent,
        "beside_seconds": training,
    }


def measure_sb3(envs: int, seconds: float) -> dict[str, Any]:
    """Steps/s of Stable-Baselines3's DQN with the same settings."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    model = DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=envs),
        learning_rate=2.5e-4,
        buffer_size=500_000,
        learning_starts=1_000,
        batch_size=128,
        train_freq=max(1, 10 // envs),  # counted in steps of the vector: ten environment steps
        gradient_steps=1,
        target_update_interval=10,  # counted in environment steps: once a gradient step
        tau=0.01,
        exploration_initial_eps=0.05,
        exploration_final_eps=0.05,
        policy_kwargs={"net_arch": [120, 84]},
        device="cpu",
    )
    return peer(model, WARM_STEPS, seconds)


def peer(model: Any, warm_steps: int, seconds: float) -> dict[str, Any]:
    """Steps/s of a model of Stable-Baselines3, which learns for about ``seconds`` after the warm-up."""
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)

    class Stopwatch(BaseCallback):
        started, first, elapsed = 0.0, 0, 0.0

        def _on_step(self) -> bool:
            now = time.process_time()
            if not self.started and self.num_timesteps >= warm_steps:
                self.started, self.first = now, self.num_timesteps
            self.elapsed = now - self.started if self.started else 0.0
            return self.elapsed < seconds

    watch = Stopwatch()
    model.learn(10**9, callback=watch)
    return {"steps_per_second": (watch.num_timesteps - watch.first) / watch.elapsed}


def measure_stepping(envs: int, seconds: float) -> dict[str, Any]:
    """Environment steps/s of CartPole alone: ours, and Gymnasium's own vector environment with its numbers as tensors.

    Actions are random, so both begin many episodes anew: one in twenty sub-environments at every step.
    """
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

    from sparserl.environments.cartpole import CartPole
    from sparserl.population.members import Population

    torch.set_num_threads(1)
    ours, theirs = CartPole(500).open(Population(tuple(range(8))).generators("environment"), envs // 8), CartPoleVectorEnv(envs)
    ours.reset()
    theirs.reset()
    actions = torch.randint(2, (100, 8, envs // 8))
    spent = {"ours": 0.0, "gymnasium": 0.0}
    rounds = 0
    while sum(spent.values()) < seconds:  # by turns, so that both have the same neighbours
        rounds += 1
        started = time.perf_counter()
        for action in actions:
            ours.step(action)
        middle = time.perf_counter()
        for action in actions:
            for numbers in theirs.step(action.flatten().numpy())[:4]:
                torch.from_numpy(np.asarray(numbers, dtype=np.float32)).view(8, envs // 8, *numbers.shape[1:])
        spent = {"ours": spent["ours"] + middle - started, "gymnasium": spent["gymnasium"] + time.perf_counter() - middle}
    return {name: rounds * len(actions) * envs / value for name, value in spent.items()}


MEASURES = {
    "ours": measure_ours,
    "sb3": measure_sb3,
    "checkpoint": measure_checkpoint,
    "sweep": measure_sweep,
    "stepping": measure_stepping,
}


def pin(cores: Sequence[int]) -> None:
    """Keep this process on some cores, where that can be asked for: macOS has no way."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def options_of(description: str | None, algorithms: Sequence[str]) -> argparse.ArgumentParser:
    """The options of a bench whose rows are of algorithms, each measured in a process of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=max(usable_cores()), help="the core to run on")
    parser.add_argument("--only", nargs="+", choices=algorithms, default=[*algorithms], metavar="NAME", help="algorithms")
    parser.add_argument("--smoke", action="store_true", help="measure next to nothing, and keep it out of results/")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser


def in_a_process(
    cores: Sequence[int], script: str = __file__, python: str = sys.executable, **arguments: Any
) -> dict[str, Any]:
    """Run one measurement of a script pinned to some cores."""
    command = [python, script, "--measure", json.dumps(arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: pin(cores),
    )
    if done.returncode:
        sys.exit(f"{arguments} failed:\n{done.stderr}")
    row = arguments | json.loads(done.stdout.splitlines()[-1])
    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, file=sys.stderr)
    return row


VERSUS = Measurements(
    {
        "envs": "environments each",
        "by": "by",
        "steps_per_second": "steps/s",
        "times_sb3": "times Stable-Baselines3",
    },
    key=("envs", "by"),
    readable=lambda row: {
        "steps_per_second": f"{float(row['steps_per_second']):,.0f}",
        "times_sb3": f"{float(row['times_sb3']):.2f}",
    },
)


def beside_sb3(measure: Callable[..., dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """The three populations against Stable-Baselines3, which is measured before and after them: its rate is the mean."""
    rows: list[dict[str, Any]] = []
    for envs in (1, 10):
        first = measure(kind="sb3", envs=envs, seconds=seconds)["steps_per_second"]
        ours = {
            f"{f'{members} members' if members > 1 else 'solo'}, {'dense' if regularizer == 'none' else 'L0'}": measure(
                kind="ours", members=members, regularizer=regularizer, envs=envs, compiled=False, seconds=seconds
            )
            for members, regularizer in ((1, "none"), (16, "l0"), (32, "none"))
        }
        last = measure(kind="sb3", envs=envs, seconds=seconds)["steps_per_second"]
        peer = {"steps_per_second": (first + last) / 2, "first": first, "last": last, "seconds": seconds, "envs": envs}
        named = {"Stable-Baselines3": peer} | ours
        rows += [
            {"by": by, **row, "times_sb3": row["steps_per_second"] / peer["steps_per_second"]} for by, row in named.items()
        ]
    return rows


@dataclass(frozen=True)
class Curve:
    """One line of speed by the size of the population."""

    regularizer: str
    sizes: Sequence[int]
    compiled: bool = False
    device: str = "cpu"

    @property
    def label(self) -> str:
        more = ", compiled" * self.compiled + ", GPU" * (self.device == "cuda")
        return ("dense" if self.regularizer == "none" else "L0, gates moving") + more


ON_A_CORE = [
    Curve(regularizer, SIZES[:: 1 + compiled], compiled) for regularizer in ("none", "l0") for compiled in (False, True)
]
BESIDE_A_GPU = [
    Curve("none", (1, 8, 64), device="cpu"),
    Curve("none", (1, 8, 64, 256), device="cuda"),
    Curve("l0", (1, 8, 64), device="cpu"),
    Curve("l0", (1, 8, 64), device="cuda"),
]


BY_MEMBERS = Measurements(
    {
        "members": "members",
        "regularizer": "regularizer",
        "compiled": "steps are",
        "device": "on",
        "steps_per_second": "steps/s",
        "microseconds": "µs a member-step",
        "split": f"{' / '.join(PHASES)}",
        "mib_per_member": "MiB a member",
    },
    key=("members", "regularizer", "compiled", "device"),
    readable=lambda row: {
        "compiled": "compiled" if str(row["compiled"]) == "True" else "eager",
        "device": row["hardware"],
        "steps_per_second": f"{float(row['steps_per_second']):,.0f}",
        "microseconds": f"{1e6 / float(row['steps_per_second']):,.1f}",
        "split": " / ".join(f"{float(row[f'share_{phase}']):.0%}" for phase in PHASES),
        "mib_per_member": f"{float(row['mib_per_member']):,.0f}",
    },
    order=lambda row: (row["regularizer"] != "none", str(row["compiled"]), int(row["members"]), row["device"]),
)


def by_members(measure: Callable[..., dict[str, Any]], seconds: float, curves: list[Curve]) -> list[dict[str, Any]]:
    """How speed, time and memory go with the size of the population: for each second, if any of it is on a GPU."""
    rows, by_wall = [], any(curve.device == "cuda" for curve in curves)
    for curve in curves:
        settings = {"regularizer": curve.regularizer, "compiled": curve.compiled, "device": curve.device}
        hardware = "one core" if curve.device == "cpu" else torch.cuda.get_device_name()
        for members in curve.sizes:
            measured = measure(kind="ours", members=members, envs=10, seconds=seconds, by_wall=by_wall, **settings)
            rows.append(measured | {"hardware": hardware})
    return rows


def draw(curves: list[Curve], rows: list[dict[str, Any]], path: Path) -> None:
    """The curves of a member-step by the size of the population."""
    hardware = " or ".join(dict.fromkeys(str(row["hardware"]) for row in rows))
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    left = iter(rows)
    for curve in curves:
        values = [1e6 / next(left)["steps_per_second"] for _ in curve.sizes]
        line = "--" if curve.compiled else ":" if curve.device == "cuda" else "-"
        colour = "#0072B2" if curve.regularizer == "none" else "#D55E00"
        axes.plot(curve.sizes, values, line, color=colour, marker="o", label=curve.label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("members of the population")
    axes.set_ylabel("µs a member-step")
    axes.set_title(f"DQN on CartPole-v1, 10 environments each, {hardware}", fontsize=10)
    axes.grid(color="0.9")
    axes.legend()
    figure.savefig(path, dpi=120)


EXTRAS = Measurements(
    {"what": "what", "took_seconds": "seconds", "beside_seconds": "seconds of training", "share": "share"},
    key=("what",),
    readable=lambda row: {
        "took_seconds": f"{float(row['took_seconds']):.2f}",
        "beside_seconds": f"{float(row['beside_seconds']):.1f}",
        "share": f"{share(row):.1%}",
    },
)


def share(row: Mapping[str, Any]) -> float:
    """What something takes of the time that it and the training beside it take."""
    took, beside = float(row["took_seconds"]), float(row["beside_seconds"])
    return took / (took + beside)


STEPPING = Measurements(
    {"envs": "sub-environments", "ours": "ours, steps/s", "gymnasium": "Gymnasium's vector environment, steps/s"},
    key=("envs",),
    readable=lambda row: {name: f"{float(row[name]):,.0f}" for name in ("ours", "gymnasium")},
)


def main() -> None:
    """Measure everything, print the tables, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement, after its warm-up")
    parser.add_argument("--core", type=int, default=max(usable_cores()), help="the core to run on")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: what a GPU makes of it, and no more")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        arguments = json.loads(options.measure)
        kind = arguments.pop("kind")
        print(json.dumps(MEASURES[kind](**arguments)))
        return

    def measure(**arguments: Any) -> dict[str, Any]:
        return in_a_process([options.core], **arguments)

    if options.device == "cuda":
        rows = by_members(measure, options.seconds, BESIDE_A_GPU)
        print(BY_MEMBERS.add(SPEED / "gpu", rows))
        draw(BESIDE_A_GPU, rows, SPEED / "gpu" / "by_members.png")
    else:
        on_a_core(measure, options.seconds)


SPEED = Path("results/speed")
LIMIT = 500
"""The longest episode of CartPole-v1, and its return."""


def on_a_core(measure: Callable[..., dict[str, Any]], seconds: float) -> None:
    """All but what a GPU makes of it."""
    print(VERSUS.add(SPEED / "versus_sb3", beside_sb3(measure, seconds)))
    sizes = by_members(measure, seconds, ON_A_CORE)
    print(BY_MEMBERS.add(SPEED / "by_members", sizes))
    draw(ON_A_CORE, sizes, SPEED / "by_members" / "by_members.png")
    swept = measure(kind="sweep", members=8, seconds=seconds)
    if swept["lowest_return"] < LIMIT:
        sys.exit(f"a policy made by hand has a return of {swept['lowest_return']:g} at some rank, not of {LIMIT}")
    extras = {
        "a checkpoint of 8 members halfway through the shipped run": measure(kind="checkpoint", members=8, seconds=seconds),
        f"the sweep of {swept['ranks']} ranks of 8 members that balance to the limit": swept,
    }
    print(EXTRAS.add(SPEED / "extras", [{"what": what, **row} for what, row in extras.items()]))
    stepped = [measure(kind="stepping", envs=envs, seconds=seconds / 2) for envs in (8, 80, 4000)]
    print(STEPPING.add(SPEED / "stepping", stepped))
    print(f"rows and tables: {SPEED}")


if __name__ == "__main__":
    main()
