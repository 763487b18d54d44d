"""Pictures of what runs left: one of a run, one that compares several, and those of a report.

What draws them is imported only when there is something to draw: training starts a second sooner without it.
"""

from __future__ import annotations

from pathlib import Path

from sparserl.runs import reader
from sparserl.runs.files import FIGURE


def draw(folder: str | Path) -> Path:
    """Draw what one run's folder holds into its ``figure.png``; returns the path.

    Panels that the run has nothing for are left out. Raises ValueError where a file is damaged or nothing can be drawn.
    """
    from sparserl.report.figures import single, style

    run = reader.read(Path(folder))
    if run.problems:
        raise ValueError("; ".join(run.problems))
    return style.save(single.of_run(run), run.folder / FIGURE, style.origin(run.result))
