"""Pictures of what runs left: one of a run, one that compares several.

What draws them is imported only when there is something to draw: training starts a second sooner without it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from sparserl.runs import provenance, reader
from sparserl.runs.files import FIGURE

PACKAGES = "matplotlib", "pandas", "scipy"
"""What else decides how a report looks and what its intervals are."""


def draw(folder: str | Path) -> Path:
    """Draw what one run's folder holds into its ``figure.png``; returns the path.

    Panels that the run has nothing for are left out. Raises ValueError where a file is damaged or nothing can be drawn.
    """
    from sparserl.report import panels

    run = reader.read(Path(folder))
    if run.problems:
        raise ValueError("; ".join(run.problems))
    return panels.save(panels.of_run(run), run.folder / FIGURE, _origin(run.result))


def compare(folders: Sequence[str | Path], path: str | Path) -> Path:
    """Draw the finished runs in ``folders`` and below beside each other into ``path``, a PNG; returns the path.

    Runs that differ in nothing but their seed are one line. Raises ValueError where no run has finished.
    """
    from sparserl.report import panels

    found, _ = reader.without_repeats(reader.find([Path(folder) for folder in folders]))
    origin = {"command": provenance.command(), "commit": provenance.commit(), "versions": provenance.versions(*PACKAGES)}
    return panels.save(panels.of_many([run for run in found if run.counts]), Path(path), _origin(origin))


def _origin(row: reader.Row) -> list[str]:
    """The command, commit and versions that the numbers of a picture were made with: its last lines."""
    text = " · ".join(str(row[key]) for key in ("command", "commit", "versions") if row.get(key))
    return textwrap.wrap(text, 200, max_lines=6)
