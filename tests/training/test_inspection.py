"""Dormant units, ranks and norms against closed forms; that evaluations have them, and that training does not notice."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import environment_for, make_learner
from torch import Tensor, nn

from sparserl.config.validation import compose
from sparserl.networks.base import Matrix
from sparserl.sweeps.loop import run
from sparserl.training import rows
from sparserl.training.evaluation import _is_kept
from sparserl.training.inspection import TAU, dormant, hidden_features, inspect, srank

# ---------------------------------------------------------------- closed forms


def test_dormant_units_by_hand() -> None:
    """Mean activities 4, 0, 0.04 and 3.96, whose mean is 2: scores 2, 0, 0.02 and 1.98, so two are at most 0.025."""
    features = torch.tensor([[3.0, 0.0, 0.0, -3.96], [-5.0, 0.0, 0.08, 3.96]])
    assert dormant(features) == 0.5
    assert dormant(features[:, :2]) == 0.5
    assert dormant(torch.ones(3, 5)) == 0.0
    assert dormant(torch.zeros(3, 5)) == 1.0
    assert math.isnan(dormant(torch.tensor([[torch.nan, 1.0]])))


def test_a_channel_is_one_dormant_unit() -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[:, 0] = 1.0
    images[1, 1, 2, 2] = 1.0  # one position of 32: a score of 3 * (1/32) / (33/32) = 0.09
    assert dormant(images) == pytest.approx(1 / 3)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=8), st.floats(0.1, 100))
def test_dormancy_does_not_depend_on_the_scale(activity: list[float], scale: float) -> None:
    features = torch.tensor([activity], dtype=torch.float64)
    mean = features.mean()
    if ((features - TAU * mean).abs() < 1e-6).any():
        return  # rounding would decide
    assert dormant(features) == dormant(features * scale)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4),  # three of four are 75 %
        ([99.1, 0.4, 0.4, 0.1], 1),  # 99.1 %
        ([98.0, 1.5, 0.4, 0.1], 2),  # 98 % are not enough
        ([0.0, 0.0, 0.0, 0.0], 0),
        ([5.0, 0.0, 0.0, 0.0], 1),
    ],
)
@pytest.mark.parametrize("states", [4, 6])
def test_srank_counts_singular_values_to_99_percent(values: list[float], expected: int, states: int) -> None:
    """Of matrices with these singular values, also behind rotations, and with more states than units."""
    draw = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(states, states, generator=draw, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64))
    matrix = left[:, :4] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right
    assert srank(matrix) == expected
    assert srank(matrix.T) == expected


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_srank_is_that_of_a_decomposition(states: int, units: int, seed: int) -> None:
    matrix = torch.randn(states, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = torch.linalg.svdvals(matrix)
    share = values.cumsum(0) / values.sum()
    if ((share - 0.99).abs() < 1e-9).any():
        return
    assert srank(matrix) == int((share < 0.99).sum()) + 1


def test_srank_of_what_is_not_finite_is_unknown() -> None:
    assert math.isnan(srank(torch.tensor([[torch.inf, 1.0]])))


def test_features_are_those_behind_activations() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    structure = {"0.weight": Matrix("linear", ("1.weight",), activation="relu"), "1.weight": Matrix("linear")}
    seen = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    found = hidden_features(module, structure, seen)
    assert list(found) == ["0.weight"]
    assert torch.equal(found["0.weight"], module[:2](seen))
    assert not module[0]._forward_hooks, "what was looked at stays as it was"


# ---------------------------------------------------------------- of learners


def test_norms_and_sizes_of_actor_and_critics_by_hand() -> None:
    learner = make_learner("algorithm=td3", "environment=pendulum", "regularizer=none", "network.hidden=[6,5]", members=2)
    states = [torch.randn(7, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    weights = learner.deterministic()
    weights["policy"]["1.weight"][0] = 0.0  # of the first member
    row = inspect(learner, states)
    for name in ("policy.0", "policy.1", "critic_1.0", "critic_2.1"):
        assert {f"dormant/{name}", f"srank/{name}", f"feature_norm/{name}"} <= row.keys()
    assert "srank/policy.2" not in row, "outputs are no hidden layer"
    component, layer = weights["critic_2"], "1.weight"
    assert row["weight_norm/critic_2.1"].tolist() == pytest.approx(component[layer].flatten(1).norm(dim=1).tolist())
    hidden = torch.relu(states[1] @ weights["policy"]["0.weight"][1] + weights["policy"]["0.bias"][1])
    assert row["feature_norm/policy.0"][1].item() == pytest.approx(hidden.norm(dim=1).mean().item(), rel=1e-5)
    actor, critic = 3 * 6 + 6 * 5 + 5 * 1, 4 * 6 + 6 * 5 + 5 * 1
    assert row["policy_size/parameters"].tolist() == [actor + 12, actor + 12]
    assert row["policy_size/macs"].tolist() == [actor, actor]
    assert row["policy_size/nonzero_macs"].tolist() == [actor - 30, actor]
    assert row["critics_size/parameters"].tolist() == [2 * (critic + 12)] * 2
    assert row["critics_size/macs"].tolist() == row["critics_size/nonzero_macs"].tolist() == [2 * critic] * 2


def test_the_deviation_of_a_gaussian_policy_is_not_among_what_is_deployed() -> None:
    learner = make_learner("algorithm=ppo", "environment=pendulum", "regularizer=none", "network.hidden=[6,5]", members=1)
    row = inspect(learner, [torch.zeros(7, 3)])
    module = learner.algorithm.policy_module({c: {n: t[0] for n, t in its.items()} for c, its in learner.weights.items()})
    assert row["policy_size/parameters"].item() == sum(its.numel() for its in module.parameters()) == 65


def test_what_a_critic_is_given_is_the_policys_action() -> None:
    learner = make_learner("algorithm=sac", "environment=pendulum", "regularizer=none", "network.hidden=[6,5]")
    weights, seen = learner.deterministic(), torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(0))
    given_ = learner.algorithm.network_inputs(weights, seen)["critic_2"]
    action = learner.algorithm.deterministic_action(weights, seen)
    assert torch.equal(given_[..., :3], seen)
    torch.testing.assert_close(learner.algorithm.spec.scale_action(given_[..., 3:]), action)


@pytest.mark.parametrize("algorithm", ["dqn", "ppo", "sac"])
def test_a_member_has_the_numbers_that_it_would_have_alone(algorithm: str) -> None:
    given_ = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", "network.hidden=[6,5]"
    learner, alone = make_learner(*given_, members=3), make_learner(*given_)
    states: list[Tensor] = [
        torch.randn(5 + member, *learner.algorithm.spec.observation_shape, generator=torch.Generator().manual_seed(member))
        for member in range(3)
    ]
    row, own = inspect(learner, states), inspect(alone, states[:1])
    assert {name: value[:1].tolist() for name, value in row.items()} == {name: value.tolist() for name, value in own.items()}
    assert row["feature_norm/policy.0"].unique().numel() == 3


# ---------------------------------------------------------------- while training


def test_the_steps_that_are_kept() -> None:
    assert [step for step in range(50) if _is_kept(step)] == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]


@pytest.mark.usefixtures("undrawn")
def test_rows_of_evaluations_have_them_and_training_does_not_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("trainer=smoke", "logger=disk", "network.hidden=[8]", "trainer.log_every=100", "lowrank.ranks=[]")
    run([config], [tmp_path / "with"], live=False)
    monkeypatch.setattr(rows, "inspect", lambda learner, states: {})
    run([config], [tmp_path / "without"], live=False)
    found, plain = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("with", "without")
    )
    own = [{key for key in row if key.startswith(("dormant/", "srank/", "policy_size/"))} for row in found]
    assert own[-1] >= {"dormant/policy.0", "srank/policy.0", "policy_size/macs"}
    assert all(bool(keys) == ("eval/return_mean" in row) for keys, row in zip(own, found, strict=True))
    assert not all(own), "rows between evaluations have none"
    assert [{key: row[key] for key in without} for row, without in zip(found, plain, strict=True)] == plain
    policies = {(tmp_path / name / "policy.safetensors").read_bytes() for name in ("with", "without")}
    assert len(policies) == 1
