"""torch.compile changes the speed of a gradient step and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parts import random_batches

from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.training.learner import Learner

MEMBERS = 3

BROKEN_AT = 60
"""The batch in which the last member has a reward that is no number."""


def check(algorithm: str, regularizer: str) -> None:
    """Within 1e-5 after 100 updates at a learning rate of 1e-3, which move the weights by up to 0.1."""
    gates = ("regularizer.delay_steps=20", "regularizer.ramp_steps=20", "regularizer.freeze_at_step=80")
    overrides = [f"algorithm={algorithm}", f"regularizer={regularizer}", *(gates if regularizer == "l0" else ())]
    _, parts = build([compose(*overrides, f"seed={seed}") for seed in range(MEMBERS)])
    (cohort,) = parts.cohorts
    algorithm = cohort.algorithm.bind(parts.environment.spec())
    eager, compiled = (Learner(algorithm, cohort.regularizer, cohort.members, flag) for flag in (False, True))
    start = {name: tensor.detach().clone() for name, tensor in eager.weights["policy"].items()}
    for step, batch in enumerate(random_batches(100, MEMBERS, size=32)):
        if step == BROKEN_AT:
            batch["reward"][-1, 0] = batch["advantage"][-1, 0] = torch.nan
        for learner in (eager, compiled):
            if step % 20 == 0:
                learner.begin_rollout(step)
            learner.update(batch, env_step=step)
    for name, tensor in eager.weights["policy"].items():
        torch.testing.assert_close(compiled.weights["policy"][name], tensor, atol=1e-5, rtol=0)
        assert (tensor - start[name]).abs().max() > 1e-3, "a hundred times what the two may differ by"
    assert compiled.stopped() == eager.stopped()
    assert [sentence is not None for sentence in compiled.stopped()] == [False, False, True]


@pytest.mark.slow  # half a minute of compiling each
@pytest.mark.parametrize("regularizer", ["none", "l0"])
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_compiled_steps_are_eager_steps(algorithm: str, regularizer: str) -> None:
    """In a process of its own: what checks annotations in tests cannot be traced by torch.compile."""
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"}
    done = subprocess.run(
        [sys.executable, __file__, algorithm, regularizer], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    check(*sys.argv[1:])
