"""Film the best policy of a table: dense, hardened and truncated to its selected rank, side by side in one episode.

Of the runs that learned, those count whose sparsity is within a percentage point of the highest one, and of these the one with
the best return is filmed, the first one where several have it. So where nothing sparse has learned it is the best dense run.
The episode is the first one of the evaluation, whatever comes of it. Beside the film, a page of its name says which run it
shows and how it was made.

    python scripts/film_best.py results/mario_7_1_tiles_93                      # results/mario_7_1_tiles_93/film.mp4
    python scripts/film_best.py results/surgical --only ecm_reach --video results/surgical/ecm_reach.mp4
    python scripts/film_best.py outputs/mine --video film.gif
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sparserl.runs import provenance
from sparserl.runs.files import write_text
from sparserl.runs.reader import Run, find
from sparserl.terminal import one_sentence

NEAR = 0.01
"""How far below the highest sparsity another one is still the same level."""


def best(runs: Sequence[Run]) -> Run:
    """The run to film. Raises ValueError where none has learned, or where returns cannot be compared."""
    learned = [run for run in runs if run.counts and run.learned]
    if not learned:
        raise ValueError(f"none of {len(runs)} runs has learned, as far as rank sweeps have ended")
    tasks = sorted({f"{run.result['algorithm']}-{run.result['environment']}" for run in learned})
    if len(tasks) > 1:
        raise ValueError(f"there are runs of {', '.join(tasks)}, whose returns cannot be compared; choose by --only TEXT")
    highest = max(run.result["sparsity"] for run in learned)
    at_the_level = (run for run in learned if run.result["sparsity"] >= highest - NEAR)
    return max(at_the_level, key=lambda run: float(run.result["return_mean"]))


def page(run: Run, told: str) -> str:
    """What the film shows and how it was made; ``told`` are the lines of ``sparserl.play``."""
    result = run.result
    chosen = [f"{key} {result[key]}" for key in ("regularizer", "lambda_c", "seed", "rank") if result[key] is not None]
    lines = [
        f"run: `{run.folder.as_posix()}`",
        f"{', '.join(chosen)}, sparsity {result['sparsity']:.1%}, mean return {result['return_mean']:.1f}",
        *told.splitlines(),
        f"command: `{provenance.command()}`",
        f"commit: `{provenance.commit()}`",
        f"versions: `{provenance.versions()}`",
    ]
    return "".join(f"* {line}\n" for line in lines)


def main() -> None:
    """Choose, film, and say what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a table in results/, or of runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="the runs whose folder's name contains it")
    parser.add_argument("--video", type=Path, metavar="FILE", help="an .mp4 or a .gif (film.mp4 in the folder)")
    arguments = parser.parse_args()
    video = arguments.video or arguments.folder / "film.mp4"
    with one_sentence(ValueError):
        run = best([run for run in find([arguments.folder]) if arguments.only in run.folder.name])
    command = [sys.executable, "-m", "sparserl.play", str(run.folder), "--beside", "--video", str(video)]
    played = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if played.returncode:
        sys.exit(played.returncode)
    write_text(video.with_suffix(".md"), page(run, played.stdout))
    print(f"{video}, {video.stat().st_size / 1e6:.2f} MB: {run.folder}")


if __name__ == "__main__":
    main()
