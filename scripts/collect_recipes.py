"""Every evaluation of recipes for DQN, from folders of runs to a folder of results/.

On CartPole each folder holds the runs of one recipe, whose name is the folder's; one that is there already is replaced.
table.csv is made anew: how many last policies are at the limit, and which share of the late evaluations is below it. Elsewhere
(`--to`) a recipe is named by what was tried, and table.csv has the mean of its last policies.

    python scripts/collect_recipes.py outputs/nstep3 outputs/fresh-nstep3-dqn
    python scripts/collect_recipes.py outputs/recipes --to results/searches/dqn-acrobot-lunar_lander
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from sparserl.runs.reader import find

RESULTS = Path(__file__).parents[1] / "results/searches/dqn-cartpole"
"""Of CartPole."""
LIMIT = 475
"""The return from which CartPole-v1 counts as solved."""
LATE = 275_000
"""Late evaluations are those of the last nine twentieths of 500,000 steps."""
WHOLE = 500_000


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """What recipes differ in."""
    algorithm, experience = config["algorithm"], config["experience"]
    keys = "tau", "gamma", "loss", "max_grad_norm", "normalize_observation"
    return {
        "algorithm": config["names"]["algorithm"],
        "seed": config["seed"],
        "learning_rate": algorithm["learning_rate"]["start"],
        "epsilon_end": algorithm["epsilon"]["end"],
        "epsilon_steps": algorithm["epsilon"]["steps"],
        "adam_eps": algorithm["optimizer"]["eps"],
        **{key: algorithm[key] for key in keys},
        **{key: experience[key] for key in ("batch_size", "buffer_size", "train_freq")},
        "n_step": experience.get("n_step", 1),  # of runs before there was such a key
        "episodes": config["trainer"]["eval_episodes"],
    }


def evaluations(folder: Path) -> pd.DataFrame:
    """A row for each evaluation of each run."""
    return pd.DataFrame(
        {"recipe": folder.name, **settings(run.config), "env_step": int(step), "return_mean": value}
        for run in find([folder])
        for step, value in zip(*run.curve("eval/return_mean"), strict=True)
    )


def tried(folder: Path) -> pd.DataFrame:
    """A row for each evaluation of each run of an environment without a limit to reach; a recipe is what was tried."""
    return pd.DataFrame(
        {
            "environment": run.config["names"]["environment"],
            "hidden": "-".join(map(str, run.config["algorithm"]["network"]["hidden"])),
            **{key: run.config["experience"][key] for key in ("n_step", "train_freq")},
            "seed": run.config["seed"],
            "env_step": int(step),
            "return_mean": value,
        }
        for run in find([folder])
        if run.counts
        for step, value in zip(*run.curve("eval/return_mean"), strict=True)
    )


RECIPE = ["environment", "hidden", "n_step", "train_freq"]


def last_returns(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each recipe: its last policies."""
    last = rows[rows.env_step == rows.groupby(RECIPE).env_step.transform("max")]
    found = last.groupby([*RECIPE, "env_step"]).agg(
        runs=("seed", "nunique"),
        first_seed=("seed", "min"),
        last_seed=("seed", "max"),
        return_mean=("return_mean", "mean"),
        lowest=("return_mean", "min"),
        highest=("return_mean", "max"),
    )
    return found.round(1).reset_index()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each recipe. One whose last step is below 500,000 was stopped, and has no last policies."""
    found = []
    for recipe, its in rows.groupby("recipe"):
        last, late = its[its.env_step == its.env_step.max()], its[its.env_step >= LATE]
        found.append(
            {
                "recipe": recipe,
                "last_env_step": its.env_step.max(),
                "runs": its.seed.nunique(),
                "seeds": f"{its.seed.min()}-{its.seed.max()}",
                "last_policies_at_475_or_more": (
                    int((last.return_mean >= LIMIT).sum()) if its.env_step.max() == WHOLE else None
                ),
                "share_of_evaluations_below_475_from_275k_steps_on": (
                    round((late.return_mean < LIMIT).mean(), 3) if len(late) else None
                ),
                "those_evaluations": len(late),
            }
        )
    return pd.DataFrame(found).astype({"last_policies_at_475_or_more": "Int64"})


def main() -> None:
    """Replace or add recipes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, help="where recipes of other environments than CartPole go")
    arguments = parser.parse_args()
    if arguments.to:
        rows = pd.concat([tried(folder) for folder in arguments.folders]).sort_values([*RECIPE, "seed", "env_step"])
        arguments.to.mkdir(parents=True, exist_ok=True)
        rows.to_csv(arguments.to / "evaluations.csv", index=False)
        last_returns(rows).to_csv(arguments.to / "table.csv", index=False)
        return
    given = [evaluations(folder) for folder in arguments.folders]
    kept = pd.read_csv(RESULTS / "evaluations.csv").astype({"n_step": int})
    kept = kept[~kept.recipe.isin({folder.recipe.iloc[0] for folder in given})]
    rows = pd.concat([kept, *given])[kept.columns].sort_values(["recipe", "seed", "env_step"])
    rows.to_csv(RESULTS / "evaluations.csv", index=False)
    summary(rows).to_csv(RESULTS / "table.csv", index=False)


if __name__ == "__main__":
    main()
