"""A workspace of Weights & Biases from code: ``python -m sparserl.dashboard --project P``.

Its panels name what tracking/wandb.py logs: rows of training by env_step, the rank sweep by lowrank/rank, and result.json as
the summary of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from sparserl.runs.schema import MEASURES
from sparserl.terminal import print_line
from sparserl.tracking import views

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

REGULARIZER = "names.regularizer"
"""The key of the config by which curves are grouped."""

COLUMNS = (
    *("algorithm", "environment", "regularizer", "lambda_c", "beta", "seed"),
    *("return_mean", "return_std", "return_random", *MEASURES),
    *("sparsity", "nonzero_weights", "alive_units", "rank", "compression", "return_lowrank", "retention"),
    *("shrunken_rank", "shrunken_compression", "shrunken_return_mean", "shrunken_retention", "sparse_bytes", "status"),
)
"""Of the table of runs: fields of result.json."""

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")
"""One for each regulariser, in the order of their names."""

MANY = 1000
"""How many runs are drawn; W&B's own 10 would be the last jobs of a sweep."""


def main() -> None:
    """The console script. Errors of the user's end, and W&B's, with one sentence."""
    parser = argparse.ArgumentParser("sparserl-dashboard", description="Make a workspace of W&B for the runs of a project.")
    parser.add_argument("--project", required=True, metavar="P", help="logger.project of the runs")
    parser.add_argument("--entity", metavar="E", help="the user or team it belongs to; by default the key's own")
    parser.add_argument("--name", default="sparserl", help="of the workspace (%(default)s)")
    told = "check it and write it as JSON (%(const)s), without a network"
    parser.add_argument("--dry-run", nargs="?", type=Path, const=Path("dashboard.json"), metavar="FILE", help=told)
    arguments = parser.parse_args()
    views.check_package("a dashboard")
    with views.told_in_a_sentence("workspace"):
        if arguments.dry_run:
            views.write(workspace(arguments.project, arguments.entity or "", arguments.name), arguments.dry_run)
            print_line(f"workspace, not sent: {arguments.dry_run}")
            return
        views.check_key()
        print_line(f"workspace: {save(arguments.project, arguments.entity, arguments.name)}")


def workspace(project: str, entity: str, name: str, colours: Mapping[str, str] | None = None) -> Workspace:
    """The workspace, not saved yet; ``colours`` are those of runs by their id. Raises ValueError where W&B refuses a name."""
    import wandb_workspaces.reports.v2 as wr  # an extra
    import wandb_workspaces.workspaces as ws

    def curves(*keys: str, x: str = "env_step") -> list[wr.LinePlot]:
        """For each key the mean over the runs of each regulariser, between their lowest and their highest."""
        grouped = {"groupby": wr.Config(REGULARIZER), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        return [wr.LinePlot(title=f"{key} by {x}", x=x, y=[key], max_runs_to_show=MANY, **grouped) for key in keys]

    def points(x: str, y: str) -> wr.ScatterPlot:
        """A point for each run, in its colour: W&B has no colours by a word of the config."""
        return wr.ScatterPlot(title=f"{y} by {x}", x=wr.SummaryMetric(x), y=wr.SummaryMetric(y))

    sections = {
        "Learning curves": curves("train/return", "eval/return_mean"),
        "Goals and levels": curves(*(f"eval/{name}" for name in MEASURES)),
        "Sparsity": curves("sparsity/exact", "sparsity/expected", "sparsity/thresholded"),
        "Return and what it costs": [
            points("sparsity", "return_mean"),
            points("compression", "return_lowrank"),
            points("shrunken_compression", "shrunken_return_mean"),
            points("alive_units", "return_mean"),
        ],
        "Return by rank": curves(
            *("lowrank/return_mean", "lowrank/retention", "lowrank/compression"),
            *("lowrank/shrunken_return_mean", "lowrank/shrunken_compression"),
            x="lowrank/rank",
        ),
        "Gates": curves("gates/open", "gates/closed", "gates/undecided"),
        "PPO": curves("policy/approx_kl", "policy/clip_fraction"),
        "Runs": [wr.RunComparer(diff_only="split")],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis="env_step", max_runs=MANY),
        runset_settings=ws.RunsetSettings(
            pinned_columns=[f"summary:{column}" for column in COLUMNS],
            run_settings={run: ws.RunSettings(color=colour) for run, colour in (colours or {}).items()},
        ),
    )


def save(project: str, entity: str | None, name: str) -> str:
    """Save the workspace, with the runs that the project has now coloured by regulariser; where it can be seen."""
    import wandb

    api = wandb.Api()
    owner = entity or api.default_entity or ""
    # the type of a run's job is its regulariser, which comes without the whole config
    regularizers = {run.id: run.job_type for run in api.runs(f"{owner}/{project}") if run.job_type}
    colours = dict(zip(sorted(set(regularizers.values())), cycle(COLOURS), strict=False))
    made = workspace(project, owner, name, {run: colours[regularizer] for run, regularizer in regularizers.items()})
    return str(made.save().url)


if __name__ == "__main__":
    main()
