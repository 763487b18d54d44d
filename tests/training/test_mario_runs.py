"""Runs in Super Mario Bros: as exact as others, though its consoles step in threads; and checkpoints end no episodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import stopping_at_checkpoints

from sparserl.config.schema import Config
from sparserl.config.validation import compose
from sparserl.environments.mario_console import check_installed
from sparserl.sweeps.loop import run

try:
    check_installed()
except ModuleNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

SMOKE = ("trainer=smoke", "logger=disk", "trainer.num_envs=2", "lowrank.ranks=[]")
EXACT = ("metrics.jsonl", "policy.safetensors")


def smoke(algorithm: str, seed: int = 0, environment: str = "super_mario_bros_tiles") -> Config:
    """Episodes are short, so that some end, and actions stick, so that each step draws from the member's generator."""
    random = "environment.patience=8", "environment.sticky_probability=0.25"
    chosen = f"environment={environment}", f"algorithm={algorithm}", f"seed={seed}"
    return compose(*SMOKE, *random, *chosen, "trainer.checkpoint_every=100")


@pytest.mark.parametrize(
    ("algorithm", "environment"),
    [("ppo", "super_mario_bros_tiles"), ("dqn", "super_mario_bros_tiles"), ("dqn", "super_mario_bros")],  # the last: frames
)
def test_a_run_goes_on_after_an_interruption_as_if_there_had_been_none(
    algorithm: str, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smoke(algorithm, environment=environment)
    run([config], [tmp_path / "whole"])
    with stopping_at_checkpoints(monkeypatch) as steps:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                run([config], [tmp_path / "resumed"])
    (result,) = run([config], [tmp_path / "resumed"])
    assert steps == [100, 200, 300]
    for name in EXACT:
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert any(row["train/x_pos"] is not None for row in rows), "some episodes ended"
    assert all(row["train/episodes_cut"] == 0 for row in rows), "and none of them by a checkpoint"
    assert result.x_pos == rows[-1]["eval/x_pos"] >= 40, "where he starts"
    assert result.flag_rate == rows[-1]["eval/flag_rate"] == 0


def test_a_member_equals_its_solo_run(tmp_path: Path) -> None:
    results = run([smoke("ppo", seed) for seed in (3, 1)], [tmp_path / str(seed) for seed in (3, 1)])
    results += run([smoke("ppo", 1)], [tmp_path / "alone"])
    assert [result.status for result in results] == ["done"] * 3
    for name in EXACT:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
