"""The scripts of Super Mario Bros: the same runs, in pieces that go on, their table, and the speed of the environments."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/mario_on_gpu.sh"
sys.path.insert(0, str(ROOT / "scripts"))

import bench_mario  # noqa: E402
import evaluate_mario  # noqa: E402
import reproduce_mario  # noqa: E402

TABLES = {table.name: table for table in reproduce_mario.TABLES}


def test_policies_that_are_trained_on_begin_from_the_dense_table() -> None:
    """Those of the smoke form from the dense ones of the smoke form."""
    tiles, smoke = "results/mario_7_1_tiles_dense/policies", "outputs/smoke-results/mario_7_1_tiles_dense/policies"
    pixels = "outputs/${sweep_name}_dense"
    assert TABLES["mario_7_1_tiles_dense"].keeps_policies
    for name, folder, of_smoke in (
        ("mario_7_1_tiles", tiles, smoke),
        ("mario_7_1_tiles_93", tiles, smoke),
        ("mario_7_1", pixels, pixels),
    ):
        (dense,), cells = TABLES[f"{name.removesuffix('_93')}_dense"].cells, TABLES[name].cells
        start = f"ppo-{dense.environment}-{dense.regularizers}-seed${{seed}}-*"
        for cell in cells:
            assert f"init_from={folder}/{start}" in cell.choices(is_smoke=False)
            assert f"init_from={of_smoke}/{start}" in cell.choices(is_smoke=True)
            assert (cell.environment, cell.seeds, cell.first_seed) == (dense.environment, dense.seeds, dense.first_seed)
            assert cell.overrides[0] == dense.overrides[0], "a policy begins in the environment that it was trained in"
        assert cells[0].regularizers == "none", "the control of the steps that the others are trained on"


# ---------------------------------------------------------------- on a GPU


def test_a_dry_run_prints_the_runs_of_the_tables() -> None:
    environment = os.environ | {"DRY_RUN": "1"}
    told = subprocess.run([SCRIPT, "seed=3"], env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == 2
    for line, name in zip(told, ("mario_7_1_dense", "mario_7_1"), strict=True):
        given = dict(word.split("=", 1) for word in line.split()[4:])
        assert given.pop("sweep_name") == name
        assert given.pop("seed") == "3", "what is given wins"
        cells = TABLES[name].cells
        assert given.pop("regularizer") == ",".join(cell.regularizers for cell in cells), "one population"
        expected = dict(word.split("=", 1) for cell in cells for word in cell.command(name)[3:])
        for key in ("sweep_name", "seed", "regularizer"):
            del expected[key]
        assert given == expected


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", SCRIPT], check=True)


TIMEOUT = """#!/bin/sh
# stands in for `timeout PYTHON ...`: notes the sweep, and does what the plan's next line says: a file, an exit status
for word; do case $word in sweep_name=*) sweep=${word#*=}; esac; done
echo "$sweep" >> calls
read -r file status < plan
sed -i 1d plan
mkdir -p "outputs/$sweep"
[ "$file" = - ] || : > "outputs/$sweep/$file"
exit "$status"
"""


def pieces(folder: Path, plan: str, **settings: str) -> tuple[int, list[str], str]:
    """The exit status of the script, the sweeps of its pieces, and what it said, where pieces go as planned."""
    (folder / "scripts").mkdir()
    script = shutil.copy(SCRIPT, folder / "scripts")
    (folder / "bin").mkdir()
    stand_in = folder / "bin/timeout"
    stand_in.write_text(TIMEOUT)
    stand_in.chmod(0o755)
    (folder / "plan").write_text(plan)
    environment = os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"} | settings
    ended = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    return ended.returncode, (folder / "calls").read_text().split(), ended.stderr


def test_pieces_follow_each_other_until_all_is_trained(tmp_path: Path) -> None:
    plan = "checkpoint-1.pt 124\nresult.json 0\ncheckpoint-1.pt 137\nresult.json 0\n"
    status, calls, _ = pieces(tmp_path, plan)
    assert (status, calls) == (0, ["mario_7_1_dense"] * 2 + ["mario_7_1"] * 2)


def test_one_piece_is_what_was_asked_for(tmp_path: Path) -> None:
    """The dense policy was trained before, which is no piece."""
    status, calls, said = pieces(tmp_path, "- 0\ncheckpoint-1.pt 124\n", PIECES="1")
    assert (status, calls) == (75, ["mario_7_1_dense", "mario_7_1"])
    assert "the same command goes on" in said


def test_a_piece_that_comes_to_no_checkpoint_is_said_and_an_error_is_passed_on(tmp_path: Path) -> None:
    for name, plan, expected in (("stuck", "- 124\n", 1), ("failed", "checkpoint-1.pt 3\n", 3)):
        (tmp_path / name).mkdir()
        status, calls, said = pieces(tmp_path / name, plan)
        assert (status, calls) == (expected, ["mario_7_1_dense"])
        assert ("no checkpoint was made in 570 s" in said) == (name == "stuck")


# ---------------------------------------------------------------- speed


@pytest.mark.slow  # sixteen consoles, each of which takes a second to start
def test_environments_whose_speed_is_compared_play_the_same_games() -> None:
    """Gymnasium's wrappers and ours, in one thread, several and processes, give the same points for the same actions."""
    pytest.importorskip("gym_super_mario_bros")
    measured = {case: bench_mario.measure(case, 2, 0.0) for case in bench_mario.CASES}
    (points,) = {its["points"] for case, its in measured.items() if case.draw}
    assert points > 0, "nobody moved, so this shows nothing"
    assert all(its[name] > 0 for its in measured.values() for name in bench_mario.RATES)


def test_a_rate_is_the_mean_of_both_measurements_and_compared_with_the_first_of_its_view() -> None:
    """The clock goes on by 1 with each measurement: a case has the same sum of both, whenever it comes."""
    clock = itertools.count(1)

    def measured(case: bench_mario.Case) -> dict[str, float]:
        factor = 2.0 if case.by == "sparserl" else 1.0
        return {"wall": factor * next(clock), "cpu": factor * 10, "points": 7.0}

    rows = bench_mario.rows(measured, cores=2, envs=8)
    number = len(bench_mario.CASES)
    assert [(row["wall_first"], row["wall_last"]) for row in rows[:2]] == [(1, 2 * number), (2, 2 * number - 1)]
    assert [row["wall"] for row in rows[:3]] == [(2 * number + 1) / 2, (2 * number + 1) / 2, 2 * number + 1]
    assert [(row["view"], row["cpu_times"]) for row in rows[2:5]] == [("pixels", 2.0), ("pixels", 2.0), ("tiles", 1.0)]


# ---------------------------------------------------------------- what is written


def test_rows_are_written_as_a_table(tmp_path: Path) -> None:
    rows = [{"regularizer": "none", "lambda_c": None, "x_pos": 40.5}, {"regularizer": "l0", "lambda_c": 1.0, "x_pos": 41.0}]
    evaluate_mario.write(tmp_path / "play.csv", rows)
    assert (tmp_path / "play.csv").read_text() == "regularizer,lambda_c,x_pos\nnone,,40.5\nl0,1.0,41.0\n"


def test_sampled_actions_have_the_probabilities_of_the_softmax() -> None:
    """Of 4,000 draws at logits 0 and log 3 three quarters are the second action: six standard errors are 0.041."""
    policy = nn.Linear(1, 2)
    with torch.no_grad():
        policy.weight.zero_()
        policy.bias.copy_(torch.tensor([0.0, math.log(3)]))
        seen = torch.zeros(4000, 1)
        assert evaluate_mario.sampled(policy)(seen).double().mean().item() == pytest.approx(0.75, abs=0.041)
        assert (evaluate_mario.greedy(policy)(seen) == 1).all()
