"""scripts/send_film.py: a film goes to the run in W&B that its folder has, and nowhere else."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest
from wandb_runs import SETTINGS, history, of, records

from sparserl.config.validation import compose
from sparserl.sweeps.loop import run

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from send_film import send

pytestmark = pytest.mark.usefixtures("logged_out")


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """One frame of one pixel."""
    path = tmp_path / "film.gif"
    path.write_bytes(base64.b64decode("R0lGODlhAQABAAAAACwAAAAAAQABAAAC"))
    return path


def test_a_film_goes_to_the_run_that_the_folder_has(tmp_path: Path, film: Path) -> None:
    folder = tmp_path / "run"
    run([compose(*SETTINGS)], [folder])
    send(folder, film)
    first, second = records(folder)
    assert of("run", first)[0]["run_id"] == of("run", second)[0]["run_id"]
    (sent,) = history(second)
    assert (sent["film._type"], sent["film.size"]) == ("video-file", film.stat().st_size)


def test_what_cannot_be_sent_is_said(tmp_path: Path, film: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=r"no\.gif does not exist: python -m sparserl\.play .*--beside --video"):
        send(folder, tmp_path / "no.gif")
    run([compose("trainer=smoke", "network.hidden=[8]", "logger=disk", "lowrank.ranks=[]")], [folder])
    with pytest.raises(ValueError, match=r"W&B has no run of .*, which was trained without logger=wandb"):
        send(folder, film)
