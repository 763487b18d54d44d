"""The same runs on a CUDA device (``make test-cuda``): what a GPU changes, and what not. All other tests run on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from multiruns import begin, outcome, sweep, wait_for
from parts import environment_for, make_learner, modules, random_batches
from torch import Tensor

from sparserl.loading import load_policy
from sparserl.runs.files import read_json

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]

GATES = ("regularizer.delay_steps=5", "regularizer.ramp_steps=5", "regularizer.freeze_at_step=30")
UPDATES, MEMBERS = 40, 8


def trained(device: str, overrides: Sequence[str], members: int = MEMBERS, algorithm: str = "dqn") -> dict[str, Tensor]:
    """The weights of the first members after some gradient steps, each on the same batches as ever."""
    learner = make_learner(*overrides, f"device={device}", members=members)
    for step, batch in enumerate(random_batches(UPDATES, MEMBERS, 64, algorithm)):
        learner.begin_rollout(step)
        learner.update({name: values[:members].to(device) for name, values in batch.items()}, env_step=step)
    return {name: tensor.detach().cpu() for name, tensor in learner.weights["policy"].items()}


@pytest.mark.parametrize("algorithm", modules("algorithms"))
@pytest.mark.parametrize("regularizer", modules("regularizers"))
def test_gradient_steps_are_the_cpus(algorithm: str, regularizer: str) -> None:
    """But for the order of summation: within 1e-4 after steps of 1e-3, of which there are 40.

    Where a gradient is nearly zero its sign is a matter of rounding, and Adam makes a whole step of a sign: one weight in a
    thousand may be a few steps off (on an H100 it was one in 80,640, by a third of a step).
    """
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", f"regularizer={regularizer}"
    overrides = [*chosen, *(GATES if regularizer == "l0" else ())]
    on_cpu, on_gpu = (trained(device, overrides, algorithm=algorithm) for device in ("cpu", "cuda"))
    for name, tensor in on_cpu.items():
        difference = (on_gpu[name] - tensor).abs()
        assert difference.max() < 5e-3
        assert (difference > 1e-4).double().mean() < 1e-3


@pytest.mark.parametrize("regularizer", modules("regularizers"))
def test_a_member_does_not_depend_on_the_others(regularizer: str) -> None:
    """But for the order of summation, which the library for products of matrices chooses by the number of members."""
    overrides = [f"regularizer={regularizer}", *(GATES if regularizer == "l0" else ())]
    alone, first = trained("cuda", overrides, members=1), trained("cuda", overrides)
    for name, tensor in alone.items():
        torch.testing.assert_close(first[name][:1], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_a_sweep_trains_there_and_leaves_policies_for_the_cpu(executor: str, tmp_path: Path) -> None:
    root = sweep(tmp_path, "regularizer=none,l0,l1", "seed=0,1", "device=cuda", f"hydra.launcher.executor={executor}")
    folders = sorted(path.parent for path in root.glob("*/result.json"))
    assert len(folders) == 6
    for folder in folders:
        assert read_json(folder / "result.json")["device"] == "cuda"
        assert load_policy(folder)(torch.zeros(1, 4)).device.type == "cpu"


def test_killed_and_started_again_it_ends_as_if_untouched(tmp_path: Path) -> None:
    """Bit for bit: what runs on the device is deterministic, and a checkpoint brings it back."""
    settings = ("regularizer=l0", "seed=0,1", "device=cuda", "trainer.total_steps=6000", "trainer.log_every=250")
    every = ("trainer.checkpoint_every=1000", "regularizer.delay_steps=1500")
    whole = sweep(tmp_path / "whole", *settings, *every)
    broken = begin(tmp_path / "broken", *settings, *every)
    wait_for(tmp_path / "broken/outputs/mine", jobs=2, rows=10)
    broken.kill()
    broken.communicate()
    assert broken.returncode == -signal.SIGKILL
    assert outcome(sweep(tmp_path / "broken", *settings, *every)) == outcome(whole)


def test_a_run_moves_from_the_cpu_to_the_device(tmp_path: Path) -> None:
    """``device=auto`` does not name one, so its checkpoints go on wherever they are."""
    arguments = ("seed=0", "trainer.total_steps=6000", "trainer.log_every=250", "trainer.checkpoint_every=1000")
    command = [sys.executable, "-m", "sparserl.train", "trainer=smoke", "logger=disk", *arguments, "hydra.run.dir=mine"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    without = environment | {"CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, cwd=tmp_path, env=without, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(tmp_path, jobs=1, rows=10)
    process.kill()
    process.wait()
    done = subprocess.run(
        [sys.executable, "-m", "sparserl.train", "resume=mine"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr + done.stdout
    assert read_json(tmp_path / "mine/result.json")["device"] == "cuda"
