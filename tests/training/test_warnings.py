"""The failure signatures in a member's rows, each reported once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from sparserl.training.warnings import CONSTANT_EVALUATIONS, EXPLODING, ROWS_BEFORE_EXPLODING, Signatures


def said(*rows: Mapping[str, Any], after: Signatures | None = None) -> list[list[str]]:
    signatures = after or Signatures()
    return [signatures.read(row) for row in rows]


def test_a_run_that_goes_well_gives_no_warning() -> None:
    row = {
        "gates/closed/policy.0.weight": 0.99,
        "gates/closed": 0.99,
        "gates/moved": 0.5,
        "penalty/policy": 0.1,
        "eval/constant_action": 0.0,
        "gradient/weights/policy": 1.0,
        "gradient/weights/policy.0.weight": 1.0,
        "loss/policy": 3.0,
    }
    signatures = Signatures()
    assert said(*[row] * 30, after=signatures) == [[]] * 30
    assert signatures.said == []


def test_a_layer_whose_gates_are_all_closed_is_named_once() -> None:
    rows = [{"gates/closed/policy.0.weight": share, "gates/closed/policy.1.weight": 0.5} for share in (0.9, 1.0, 1.0)]
    first, second, third = said(*rows)
    assert first == third == []
    assert len(second) == 1
    assert "policy.0.weight" in second[0]
    assert "lambda_c" in second[0]


def test_two_closed_layers_are_two_warnings() -> None:
    (warnings,) = said({"gates/closed/policy.0.weight": 1.0, "gates/critic/closed/critic.0.weight": 1.0})
    assert sorted("policy.0.weight" in warning for warning in warnings) == [False, True]
    assert sorted("critic.0.weight" in warning for warning in warnings) == [False, True]


def test_open_and_undecided_layers_are_not_closed() -> None:
    assert said({"gates/open/policy.0.weight": 1.0, "gates/undecided/policy.0.weight": 1.0, "gates/closed": 1.0}) == [[]]


@pytest.mark.parametrize(
    ("moved", "penalty", "warned"), [(0.0, 0.5, True), (0.0009, 0.5, True), (0.002, 0.5, False), (0.0, 0.0, False)]
)
def test_gates_that_do_not_move_under_a_penalty(moved: float, penalty: float, warned: bool) -> None:
    rows = [{"gates/moved": moved, "penalty/policy": penalty}] * 2
    first, second = said(*rows)
    assert len(first) == warned
    assert all("gate_learning_rate" in warning for warning in first)
    assert second == []


def test_gates_of_critics_are_watched_too() -> None:
    (warnings,) = said({"gates/moved": 1.0, "gates/critic/moved": 0.0, "penalty/critic": 0.1})
    assert len(warnings) == 1


def test_a_policy_that_is_constant_in_evaluations_running() -> None:
    assert CONSTANT_EVALUATIONS == 2
    constant, looks, row = {"eval/constant_action": 1.0}, {"eval/constant_action": 0.0}, {"loss/policy": 1.0}
    # rows without an evaluation neither count nor break the series; one evaluation that looks does
    given = said(constant, row, looks, constant, row, row, constant, constant)
    assert [bool(warnings) for warnings in given] == [False] * 6 + [True, False]
    assert "same action" in given[6][0]


def test_an_exploding_gradient() -> None:
    usual = [{"gradient/weights/policy": 0.5 + 0.1 * (index % 3)} for index in range(ROWS_BEFORE_EXPLODING)]  # median 0.6
    high, exploding = {"gradient/weights/policy": 0.59 * EXPLODING}, {"gradient/weights/policy": 0.61 * EXPLODING}
    given = said(*usual, high, exploding, exploding)
    assert given[:-2] == [[]] * (len(usual) + 1)
    assert len(given[-2]) == 1
    assert "gradient/weights/policy" in given[-2][0]
    assert given[-1] == []


def test_a_gradient_cannot_explode_before_there_is_a_usual_one() -> None:
    usual = [{"gradient/weights/policy": 0.5}] * (ROWS_BEFORE_EXPLODING - 1)
    assert said(*usual, {"gradient/weights/policy": 1e9})[-1] == []


def test_components_and_gates_are_compared_with_themselves() -> None:
    usual = [{"gradient/weights/policy": 1.0, "gradient/gates/policy": 1e4}] * ROWS_BEFORE_EXPLODING
    assert said(*usual, {"gradient/weights/policy": 1.0, "gradient/gates/policy": 1e4})[-1] == []
    (warning,) = said(*usual, {"gradient/weights/policy": 1e4, "gradient/gates/policy": 1.0})[-1]
    assert "weights" in warning


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_none_to_compare_with(value: float | None) -> None:
    usual = [{"gradient/weights/policy": 1.0}] * ROWS_BEFORE_EXPLODING
    signatures = Signatures()
    assert said(*usual, {"gradient/weights/policy": value}, after=signatures)[-1] == []
    high, exploding = {"gradient/weights/policy": 0.9 * EXPLODING}, {"gradient/weights/policy": 1.1 * EXPLODING}
    below, above = said(high, exploding, after=signatures)
    assert below == []
    assert len(above) == 1
    assert "exploded" in above[0]


def test_of_a_stopped_member_only_that_is_said_and_once() -> None:
    signatures = Signatures()
    constant = {"eval/constant_action": 1.0, "gates/closed/policy.0.weight": 1.0}
    assert signatures.read(constant, "stopped") == ["stopped"]
    assert signatures.read(constant, "stopped") == []
    resumed = Signatures()
    resumed.load_state_dict(json.loads(json.dumps(signatures.state_dict())))
    assert resumed.read(constant, "stopped") == []
    assert resumed.said == ["stopped"]


def test_a_layers_own_norm_gives_no_second_warning() -> None:
    usual = [{"gradient/weights/policy.0.weight": 1.0}] * ROWS_BEFORE_EXPLODING
    assert said(*usual, {"gradient/weights/policy.0.weight": 1e9})[-1] == []


def test_signatures_go_on_from_their_state() -> None:
    """Nothing is said twice, a series of evaluations goes on, and a median is remembered."""
    signatures = Signatures()
    usual = [{"gradient/weights/policy": 1.0}] * ROWS_BEFORE_EXPLODING
    said(*usual, {"gates/closed/policy.0.weight": 1.0}, {"eval/constant_action": 1.0}, after=signatures)
    state = json.loads(json.dumps(signatures.state_dict()))  # a checkpoint keeps it, and shares nothing with it
    signatures.read({"eval/constant_action": 0.0, "gradient/weights/policy": 2.0})

    resumed = Signatures()
    resumed.load_state_dict(state)
    assert len(resumed.said) == 1
    assert "closed" in resumed.said[0]
    closed, constant, exploding = said(
        {"gates/closed/policy.0.weight": 1.0},
        {"eval/constant_action": 1.0},
        {"gradient/weights/policy": 2 * EXPLODING},
        after=resumed,
    )
    assert closed == []
    assert len(constant) == len(exploding) == 1
    assert len(resumed.said) == 3


def test_a_state_is_not_changed_by_what_is_read_later() -> None:
    signatures = Signatures()
    signatures.read({"gradient/weights/policy": 1.0})
    state = signatures.state_dict()
    before = json.dumps(state)
    signatures.read({"gradient/weights/policy": 1.0, "gates/closed/policy.0.weight": 1.0})
    assert json.dumps(state) == before
