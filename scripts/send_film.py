"""Send a film of a run to the run in Weights & Biases: it stands there as `film`.

python -m sparserl.play RUN --beside --video film.mp4
python scripts/send_film.py RUN film.mp4
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparserl.config.build import build_logger
from sparserl.config.validation import read_back
from sparserl.sweeps.jobs import CONFIG_FILE, label
from sparserl.tracking.wandb_files import ID_FILE


def send(folder: Path, film: Path) -> None:
    """Raises FileNotFoundError without a film, and ValueError where W&B has no such run or it is in an account of another's."""
    if not film.exists():
        raise FileNotFoundError(f"{film} does not exist: python -m sparserl.play {folder} --beside --video {film}")
    config = read_back(folder / CONFIG_FILE, trust=False)
    if not (folder / ID_FILE).exists():
        raise ValueError(f"W&B has no run of {folder}, which was trained without logger=wandb")
    logger = build_logger(config)
    if logger.recipient is not None:
        raise ValueError(f"the run of {folder} is in the account {logger.recipient!r}; set WANDB_ENTITY to it if that is right")
    logs = logger.open([folder], [config], [label(config)])
    logs[0].film(film)
    logger.close(logs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("film", type=Path, metavar="FILM", help="what sparserl.play --video has made")
    arguments = parser.parse_args()
    try:
        send(arguments.run, arguments.film)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
