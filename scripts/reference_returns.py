"""Dense returns beside those of others: published ones, and of Stable-Baselines3 with our settings, trained here.

`--train` trains one run of Stable-Baselines3 (MuJoCo tasks; minutes to an hour each) with the settings that sparserl ships for
the pair, and evaluates its last policy in as many episodes. Rows go to results/references/rows.csv, and
results/references/table.md has them beside the dense policies of the tables in results/. Needs the extra `bench`.

    python scripts/reference_returns.py                                # the table of what there is
    python scripts/reference_returns.py --train ppo-hopper             # trains, then the table
    python scripts/reference_returns.py --train ppo-hopper --steps 2000 --to outputs/smoke-results
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from claims_settings import groups_in
from measurements import Measurements

from sparserl.config.schema import Config
from sparserl.config.validation import compose
from sparserl.report.groups import Group
from sparserl.report.rows import LENGTH
from sparserl.report.statistics import t_interval

PEER = "Stable-Baselines3, trained here"

PUBLISHED = {
    "rl-baselines3-zoo": {
        "dqn": {"cartpole": 500, "acrobot": -76.6, "lunar_lander": 154},
        "ppo": {"cartpole": 500, "acrobot": -73.5, "lunar_lander": 242, "pendulum": -172, "half_cheetah": 5819, "hopper": 2410},
        "a2c": {"half_cheetah": 3041, "hopper": 733, "walker2d": 582, "ant": -44},
        "ddpg": {"pendulum": -152},
        "td3": {"pendulum": -152, "half_cheetah": 9656},
        "sac": {"pendulum": -157, "half_cheetah": 9535},
    },
    "CleanRL": {
        "dqn": {"cartpole": 489, "acrobot": -91.5},
        "ppo": {"cartpole": 490, "acrobot": -86.4},
    },
}
"""Returns by source, algorithm and environment. The zoo's are of one run each, without exploration, MuJoCo tasks in version 3
after 1,000,000 steps and more (its benchmark.md); CleanRL's of the last training episodes (its documentation)."""

PAIRS = {"ppo-hopper": 1_000_000, "ppo-half_cheetah": 1_000_000, "td3-half_cheetah": 100_000, "sac-half_cheetah": 100_000}
"""What is trained, with the environment steps that reproduce_algorithms.py takes."""


def model_of(config: Config, seed: int) -> Any:
    """An untrained model of Stable-Baselines3 with the settings of a config."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize
    from torch import nn

    its, experience, trainer = config["algorithm"], config["experience"], config["trainer"]
    env = make_vec_env(config["environment"]["id"], n_envs=trainer["num_envs"], seed=seed)
    if its["normalize_observation"] or its["normalize_reward"]:
        env = VecNormalize(env, norm_obs=its["normalize_observation"], norm_reward=its["normalize_reward"], gamma=its["gamma"])
    network = its["network"]
    policy: dict[str, Any] = {
        "net_arch": list(network["hidden"]),
        "activation_fn": {"relu": nn.ReLU, "tanh": nn.Tanh}[network["activation"]],
    }
    settings: dict[str, Any] = {"gamma": its["gamma"], "batch_size": experience["batch_size"]}
    name = config["names"]["algorithm"]
    if name == "ppo":
        policy |= {"log_std_init": its["log_std_init"], "ortho_init": network["initialization"] == "orthogonal"}
        settings |= {"n_steps": experience["n_steps"], "n_epochs": experience["n_epochs"]}
        settings |= {key: its[key] for key in ("gae_lambda", "vf_coef", "max_grad_norm", "target_kl")}
        settings |= {key: constant(its[key]) for key in ("learning_rate", "clip_range", "ent_coef")}
    else:
        rates = {constant(its[key]) for key in ("actor_learning_rate", "critic_learning_rate")}
        (settings["learning_rate"],) = rates  # theirs is one
        settings |= {key: int(experience[key]) for key in ("buffer_size", "learning_starts", "train_freq")}
        settings |= {"tau": its["tau"], "gradient_steps": 1}
        if name == "td3":
            from stable_baselines3.common.noise import NormalActionNoise

            (size,) = env.action_space.shape
            settings["action_noise"] = NormalActionNoise([0.0] * size, [constant(its["action_noise"])] * size)
            settings["policy_delay"] = its["policy_delay"]
    return getattr(sb3, name.upper())("MlpPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, **settings)


def constant(schedule: Mapping[str, Any] | float) -> float:
    """The value of a schedule. Raises ValueError where it changes."""
    if not isinstance(schedule, Mapping):
        return float(schedule)
    if "value" not in schedule:
        raise ValueError(f"{schedule['_target_']} is not a constant, which is all that is handed on to Stable-Baselines3")
    return float(schedule["value"])


def train(pair: str, steps: int, seed: int = 0) -> dict[str, Any]:
    """One run of Stable-Baselines3, and the return of its last policy."""
    import torch
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    algorithm, environment = pair.split("-")
    config = compose(f"algorithm={algorithm}", f"environment={environment}", "regularizer=none", f"trainer.total_steps={steps}")
    model = model_of(config, seed)
    model.learn(steps)
    env = model.get_env()
    if isinstance(env, VecNormalize):
        env.training = env.norm_reward = False
    # the episodes' own returns, which the Monitor wrapper keeps
    mean, _ = evaluate_policy(model, env, n_eval_episodes=config["trainer"]["eval_episodes"], deterministic=True)
    return {"algorithm": algorithm, "environment": environment, "source": PEER, "steps": steps, "seed": seed, "return": mean}


ROWS = Measurements(
    {"algorithm": "algorithm", "environment": "environment", "steps": "steps", "seed": "seed", "return": "return"},
    key=("algorithm", "environment"),
    readable=lambda row: {"return": f"{float(row['return']):.1f}", "steps": f"{int(row['steps']):,}"},
)


OURS = "table_main", "table_continuous", "table_algorithms", "algorithms"
"""Tables with dense policies: of a pair that several have, the first counts."""


def dense(folders: Iterable[Path]) -> dict[tuple[str, str], tuple[Path, Group]]:
    """Dense policies of whole networks, with the table that has them, by algorithm and environment."""
    found: dict[tuple[str, str], tuple[Path, Group]] = {}
    for folder in folders:
        for group in groups_in(folder):
            environment, algorithm = group.task
            if group.is_dense and group.settings["network"] != "small_dense":
                found.setdefault((algorithm, environment), (folder, group))
    return dict(sorted(found.items()))


def beside(ours: Iterable[Path], rows: Path) -> str:
    """The dense policies of the tables in some folders, beside published returns and the rows that were trained."""
    peers: dict[tuple[str, str], str] = {}
    if rows.exists():
        with rows.open(newline="") as file:
            peers = {(row["algorithm"], row["environment"]): f"{float(row['return']):.1f}" for row in csv.DictReader(file)}
    header = ["algorithm", "environment", "table", "steps", "seeds", "return here", *PUBLISHED, *([PEER] if peers else [])]
    lines = [header, ["---"] * len(header)]
    for pair, (folder, group) in dense(ours).items():
        returns = group.scores("return_mean")
        low, high = t_interval(returns.tolist())
        interval = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
        published = [PUBLISHED[source].get(pair[0], {}).get(pair[1]) for source in PUBLISHED]
        lines.append(
            [
                *(*pair, folder.name, f"{group.settings[LENGTH]:,}", str(len(returns)), f"{returns.mean():.1f}{interval}"),
                *("-" if each is None else str(each) for each in published),
                *([peers.get(pair, "-")] if peers else []),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Train what is asked for; the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", choices=PAIRS, default=[], metavar="PAIR", help=", ".join(PAIRS))
    parser.add_argument("--steps", type=int, help="environment steps, by default those of reproduce_algorithms.py")
    parser.add_argument("--ours", nargs="+", type=Path, help="folders with tables of our runs, by default those of results/")
    parser.add_argument("--to", type=Path, default=Path("results"), help="where the folder `references` is")
    options = parser.parse_args()
    folder = options.to / "references"
    for pair in options.train:
        ROWS.add(folder, [train(pair, options.steps or PAIRS[pair])])
    folder.mkdir(parents=True, exist_ok=True)
    known = [path for name in OURS if (path := Path("results", name)).exists()]
    table = beside(options.ours or known, folder / "rows.csv")
    (folder / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
