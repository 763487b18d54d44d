"""Whole trainings of the size of CartPole and Pendulum, with the shipped settings; those of CartPole are shorter."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparserl.config.validation import compose
from sparserl.sweeps.loop import run

SETTINGS = "logger=disk", "lowrank.ranks=[]", "trainer.eval_episodes=20"

SOLVED = 195.0
"""What CartPole-v0 counted as solved; a random policy balances for 22 steps."""

SWINGS_UP = -300.0
"""From a random start Pendulum costs about 150 at best and 1,200 under a random policy; 300 are two swings."""


def last_returns(folder: Path, *overrides: str) -> list[float]:
    configs = [compose(*overrides, *SETTINGS, f"seed={seed}") for seed in (0, 1)]
    results = run(configs, [folder / str(seed) for seed in (0, 1)], live=False)
    assert all(result.return_mean is not None and result.return_random is not None for result in results)
    return [result.return_mean or 0.0 for result in results]


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["none", "l0_units"])
@pytest.mark.parametrize("algorithm", ["dqn", "double_dqn", "ppo", "a2c"])
def test_cartpole_is_solved(algorithm: str, regularizer: str, tmp_path: Path) -> None:
    steps = 200_000 if "dqn" in algorithm else 100_000
    chosen = f"algorithm={algorithm}", "environment=cartpole", f"regularizer={regularizer}", f"trainer.total_steps={steps}"
    assert min(last_returns(tmp_path, *chosen)) >= SOLVED


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ddpg", "td3", "sac"])
def test_pendulum_swings_up(algorithm: str, tmp_path: Path) -> None:
    chosen = f"algorithm={algorithm}", "environment=pendulum", "regularizer=none"
    assert min(last_returns(tmp_path, *chosen)) >= SWINGS_UP
