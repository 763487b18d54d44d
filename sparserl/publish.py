"""A report of Weights & Biases: ``python -m sparserl.publish FOLDER... --project P``.

It makes the report of ``python -m sparserl.report`` on the disk, and then has its tables and figures in a report of W&B.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sparserl.report.building import build, folder_of
from sparserl.report.markup import markdown
from sparserl.report.page import Content, Drawing
from sparserl.report.table import Table
from sparserl.report.writer import FIGURE_FOLDER
from sparserl.runs.files import DiskError
from sparserl.terminal import one_sentence, print_line
from sparserl.tracking import views
from sparserl.tracking.wandb import PRIVATE

if TYPE_CHECKING:
    from wandb_workspaces.reports import v2
    from wandb_workspaces.reports.v2 import Report

JOB_TYPE = "report"
"""Of the run of W&B that holds the figures."""

NOT_SENT = "wandb_report.json"


def main() -> None:
    """The console script. Errors of the user's end, and W&B's, with one sentence."""
    parser = argparse.ArgumentParser("sparserl-publish", description="Make a report, on the disk and in a project of W&B.")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="a run's folder, one with runs below it, or a rows.csv"
    )
    parser.add_argument("--project", required=True, metavar="P", help="where the report is to be")
    parser.add_argument("--entity", metavar="E", help="the user or team it belongs to; by default the key's own")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where the files go; by default the first folder")
    parser.add_argument("--dry-run", action="store_true", help=f"write it as JSON ({NOT_SENT} in DIR), without a network")
    arguments = parser.parse_args()
    views.check_package("a report of W&B")
    if not arguments.dry_run:
        views.check_key()
    to = arguments.to or folder_of(arguments.folders)
    with one_sentence(DiskError):
        content = build(arguments.folders, to)
    with views.told_in_a_sentence("report of W&B"):
        if arguments.dry_run:
            views.write(document(content, arguments.project, arguments.entity or "", None), to / NOT_SENT)
            print_line(f"report of W&B, not sent: {to / NOT_SENT}")
        else:
            print_line(f"report of W&B: {save(content, to / FIGURE_FOLDER, arguments.project, arguments.entity)}")


def document(content: Content, project: str, entity: str, figures_run: str | None) -> Report:
    """The report, not saved yet.

    ``figures_run`` is the id of the run that has the figures. A set of runs that names a project is looked up on the server, so
    without that id the figures are of any runs.
    """
    import wandb_workspaces.reports.v2 as wr  # an extra

    def table(its: Table) -> list[v2.Block]:
        notes = [wr.UnorderedList([*its.notes])] if its.notes else []
        return [wr.H2(content.heading(its)), wr.MarkdownBlock(markdown(its.cells)), wr.P(its.caption), *notes]

    def figure(its: Drawing) -> list[v2.Block]:
        runs = wr.Runset(entity=entity, project=project, name="figures", query=figures_run) if figures_run else wr.Runset()
        panel = wr.MediaBrowser(media_keys=[its.name], num_columns=1, layout=wr.Layout(w=24, h=14))
        return [wr.H2(its.title), wr.PanelGrid(runsets=[runs], panels=[panel]), wr.P(its.caption)]

    blocks: list[v2.Block] = [wr.TableOfContents()]
    blocks += [block for its in content.tables for block in table(its)]
    blocks += [block for its in content.drawings for block in figure(its)]
    blocks += [wr.H2("How this was made"), wr.UnorderedList([*content.made_with])]
    if content.skipped:
        blocks += [wr.P("Not made:"), wr.UnorderedList([*content.skipped])]
    return wr.Report(project=project, entity=entity, title=content.title, width="fluid", blocks=blocks)


def save(content: Content, figures: Path, project: str, entity: str | None) -> str:
    """Send the figures, which are in a folder, as a run of W&B, and save the report beside it; where it can be read."""
    import wandb

    settings = wandb.Settings(silent=True, console="off", **PRIVATE)
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as kept,  # all of it is sent
        wandb.init(project=project, entity=entity, job_type=JOB_TYPE, dir=kept, settings=settings) as run,
    ):
        run.name = f"{content.title} ({run.id})"  # by which the set of runs finds it
        run.log({its.name: wandb.Image(str(figures / f"{its.name}.png")) for its in content.drawings})
        owner, found = run.entity, run.id
    return str(document(content, project, owner, found).save().url)


if __name__ == "__main__":
    main()
