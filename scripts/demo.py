"""The main job on CartPole: dense and L0 policies, trained for real and cut to every rank. What `make demo` runs.

A sweep as one types it, of two populations at once, and its report. Stopped and started again, it goes on; started once more,
there is nothing left to train. More overrides may be given.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from sparserl import load_policy
from sparserl.terminal import print_line

FOLDER = Path("outputs/demo")
TRAIN = (
    *("-m", "sparserl.train", "-m", f"sweep_name={FOLDER.name}", "regularizer=none,l0", "seed=0,1", "logger=disk"),
    "hydra.launcher.executor=processes",
    "trainer.compile=false",  # a new machine has no programs yet, and two seeds would not earn back the time to compile them
)
REPORT = "-m", "sparserl.report", str(FOLDER)


def type_in(*arguments: str) -> None:
    """Show a command, and run it; whatever stops it stops the demo."""
    print_line(f"$ python {shlex.join(arguments)}")
    done = subprocess.run([sys.executable, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main(overrides: list[str]) -> None:
    """Train, report, and use a trained policy."""
    started = time.perf_counter()
    type_in(*TRAIN, *overrides)
    type_in(*REPORT)
    sparse = min(FOLDER.glob("dqn-cartpole-l0-*"))
    values = load_policy(sparse)(torch.zeros(1, 4))[0].tolist()
    print_line(
        f"sparserl.load_policy({str(sparse)!r}) at the origin: action values {values[0]:.2f} (left), {values[1]:.2f} (right)"
    )
    print_line(f"watch it where there is a display: python -m sparserl.play {sparse}")
    print_line(f"all of it took {time.perf_counter() - started:.0f} s; figure: {FOLDER / 'figures' / 'comparison.png'}")


if __name__ == "__main__":
    main(sys.argv[1:])
