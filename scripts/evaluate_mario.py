"""How far policies come in Super Mario Bros: greedy and sampled, in the game as they were trained in it and in the stock one.

Training on tiles switches the console's drawing off, and where that lags, the game is not quite the stock one. Each policy
plays whole and at its selected rank, the same episodes every time, which are none of those that its rank was selected on.
Returns are in points of the package, whatever the rewards of training were.

    python scripts/evaluate_mario.py results/mario_7_1_tiles                  # the finished runs of a table, into its play.csv
    python scripts/evaluate_mario.py RUN [RUN ...] --out FILE.csv --episodes 100
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparserl import load_policy
from sparserl.environments.mario import SuperMarioBros
from sparserl.play import load_recipe
from sparserl.policies import categorical
from sparserl.population.members import Population
from sparserl.runs.files import write_text
from sparserl.runs.reader import Run, find
from sparserl.training.evaluation import CONFIRMATION, CPU, Evaluator

EPISODES = 40


def sampled(policy: nn.Module) -> Callable[[Tensor], Tensor]:
    """Actions ``[episode]`` drawn with the probabilities of a softmax over what the policy gives for ``[episode, *obs]``."""
    generators = Population((0,)).generators("played actions")

    def act(seen: Tensor) -> Tensor:
        logits = policy(seen)
        return categorical.sample(logits, generators.uniform(*logits.shape)[0])

    return act


def greedy(policy: nn.Module) -> Callable[[Tensor], Tensor]:
    """The most probable action of each episode."""
    return lambda seen: categorical.mode(policy(seen))


ACTIONS = {"greedy": greedy, "sampled": sampled}


def play(policy: nn.Module, game: SuperMarioBros, actions: str, episodes: int) -> dict[str, Any]:
    """What some episodes gave: means, and the deviation of the return."""
    act = ACTIONS[actions](policy)
    with closing(Evaluator(game, 1, episodes, CPU, CONFIRMATION)) as evaluator:
        found = evaluator(lambda seen, _: act(seen.flatten(0, 1)).view(seen.shape[:2]))
    metrics = {name.removeprefix("eval/"): float(values) for name, values in found.metrics().items()}
    return {name: metrics[name] for name in ("return_mean", "return_std", "x_pos", "flag_rate")} | {"episodes": episodes}


def rows(run: Run, episodes: int) -> Iterator[dict[str, Any]]:
    """A row for each policy of a run, game, and way to act. Raises ValueError where it is no run of this game."""
    recipe = load_recipe(run.folder)
    if not isinstance(recipe, SuperMarioBros):
        raise ValueError(f"{run.folder} was not trained in Super Mario Bros")
    recipe = dataclasses.replace(recipe, reward_scale=1.0, flag_reward=0.0, death_penalty=0.0)
    games = {"as trained": recipe} if recipe.draw else {"as trained": recipe, "stock": dataclasses.replace(recipe, draw=True)}
    selected = run.result["rank"]
    for rank in ("full", *([selected] if isinstance(selected, int) else [])):
        policy = load_policy(run.folder, rank=None if rank == "full" else rank)
        for game, environment in games.items():
            for actions in ACTIONS:
                known = {name: run.result[name] for name in ("algorithm", "environment", "regularizer", "lambda_c", "seed")}
                how = {"rank": rank, "game": game, "actions": actions}
                yield known | {"sparsity": run.result["sparsity"]} | how | play(policy, environment, actions, episodes)


def write(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """A CSV file, whole or not at all."""
    lines = [[*found[0]], *(["" if value is None else value for value in row.values()] for row in found)]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(path, text.getvalue())


def main() -> None:
    """Evaluate the runs that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a table in results/, or of runs")
    parser.add_argument("--episodes", type=int, default=EPISODES, metavar="N", help=f"of each row ({EPISODES})")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="play.csv in the first folder, unless it is named")
    arguments = parser.parse_args()
    runs = [run for run in find(arguments.folders) if run.counts]
    if not runs:
        sys.exit(f"there is no finished run in {', '.join(map(str, arguments.folders))}")
    found: list[dict[str, Any]] = []
    for run in runs:
        for row in rows(run, arguments.episodes):
            found.append(row)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        write(arguments.out or arguments.folders[0] / "play.csv", found)  # after each run, since all take hours


if __name__ == "__main__":
    with torch.no_grad():
        main()
