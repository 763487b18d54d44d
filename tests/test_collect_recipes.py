"""scripts/collect_recipes.py: what is published of recipes is what their evaluations say."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import collect_recipes


def test_a_recipe_is_counted_by_its_last_policies_and_its_late_evaluations() -> None:
    returns = {250_000: (1, 1), 300_000: (500, 475), 400_000: (474, 500), 500_000: (500, 100)}
    rows = [("a", seed, step, values[seed]) for step, values in returns.items() for seed in (0, 1)]
    rows += [("stopped", 7, 275_000, 500)]
    table = collect_recipes.summary(pd.DataFrame(rows, columns=["recipe", "seed", "env_step", "return_mean"]))
    assert table.to_csv(index=False).splitlines()[1:] == ["a,500000,2,0-1,1,0.333,6", "stopped,275000,1,7-7,,0.0,1"]


def test_the_published_table_is_that_of_the_published_evaluations() -> None:
    published = (collect_recipes.RESULTS / "table.csv").read_text()
    rows = pd.read_csv(collect_recipes.RESULTS / "evaluations.csv")
    assert collect_recipes.summary(rows).to_csv(index=False) == published


def test_the_last_policies_of_what_was_tried_elsewhere_are_what_their_evaluations_say() -> None:
    results = collect_recipes.RESULTS.parent / "dqn-acrobot-lunar_lander"
    rows = pd.read_csv(results / "evaluations.csv")
    assert collect_recipes.last_returns(rows).to_csv(index=False) == (results / "table.csv").read_text()
    # by hand, of the recipe that is shipped for Acrobot
    shipped = rows[(rows.environment == "acrobot") & (rows.hidden == "256-256") & (rows.n_step == 1)]
    (row,) = collect_recipes.last_returns(shipped).itertuples()
    assert (row.env_step, row.runs) == (100_000, 4)
    assert row.return_mean == round(shipped[shipped.env_step == 100_000].return_mean.mean(), 1)
