"""The failure signatures in a member's rows, each reported once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from sparserl.training.warnings import (
    CONSTANT_EVALUATIONS,
    EXPLODING,
    ROWS_BEFORE_EXPLODING,
    SWING,
    TURNS,
    WarningDetector,
    lost_in_ranks,
    stayed_dense,
)

STRENGTHS = "lambda_c", "target_sparsity"


def new_detector() -> WarningDetector:
    return WarningDetector("", STRENGTHS)


def warnings_in(*rows: Mapping[str, Any], after: WarningDetector | None = None) -> list[list[str]]:
    detector = after or new_detector()
    return [detector.read(row) for row in rows]


def test_a_run_that_goes_well_gives_no_warning() -> None:
    row = {
        "sparsity/exact/policy.0.weight": 0.99,
        "sparsity/exact": 0.99,
        "gates/closed": 0.99,
        "gates/moved": 0.5,
        "penalty/policy": 0.1,
        "eval/constant_action": 0.0,
        "gradient/weights/policy": 1.0,
        "gradient/weights/policy.0.weight": 1.0,
        "loss/policy": 3.0,
    }
    detector = new_detector()
    assert warnings_in(*[row] * 30, after=detector) == [[]] * 30
    assert detector.reported == []


def test_a_layer_of_which_nothing_is_left_is_named_once() -> None:
    rows = [{"sparsity/exact/policy.0.weight": share, "sparsity/exact/policy.1.weight": 0.5} for share in (0.9, 1.0, 1.0)]
    first, second, third = warnings_in(*rows)
    assert first == third == []
    assert len(second) == 1
    assert "policy.0.weight" in second[0]
    assert "lambda_c" in second[0]


def test_two_empty_layers_are_two_warnings() -> None:
    (warnings,) = warnings_in({"sparsity/exact/policy.0.weight": 1.0, "sparsity/exact/critic.0.weight": 1.0})
    assert sorted("policy.0.weight" in warning for warning in warnings) == [False, True]
    assert sorted("critic.0.weight" in warning for warning in warnings) == [False, True]


def test_a_policy_of_which_most_is_zero_is_not_empty() -> None:
    assert warnings_in({"sparsity/exact/policy.0.weight": 0.999, "sparsity/exact": 0.999, "gates/closed": 0.999}) == [[]]


LEARNED = {"gradient/gates/policy": 0.1}
"""In rows in which gates had gradients."""


@pytest.mark.parametrize(
    ("moved", "penalty", "gradient", "warned"),
    [
        (0.0, 0.5, LEARNED, True),
        (0.0009, 0.5, LEARNED, True),
        (0.002, 0.5, LEARNED, False),
        (0.0, 0.0, LEARNED, False),
        # a rollout of PPO in which the delay ends: the coefficient is above 0, and gates are fixed until the next one
        (0.0, 0.5, {}, False),
    ],
)
def test_gates_that_do_not_move_under_a_penalty(moved: float, penalty: float, gradient: dict[str, float], warned: bool) -> None:
    rows = [{"gates/moved": moved, "penalty/policy": penalty} | gradient] * 2
    first, second = warnings_in(*rows)
    assert len(first) == warned
    assert all("gate_learning_rate" in warning for warning in first)
    assert second == []


def test_gates_of_critics_are_watched_too() -> None:
    (warnings,) = warnings_in({"gates/moved": 1.0, "gates/critic/moved": 0.0, "penalty/critic": 0.1} | LEARNED)
    assert len(warnings) == 1


def test_a_policy_that_is_constant_in_evaluations_running() -> None:
    assert CONSTANT_EVALUATIONS == 2
    constant, looks, row = {"eval/constant_action": 1.0}, {"eval/constant_action": 0.0}, {"loss/policy": 1.0}
    # rows without an evaluation neither count nor break the series; one evaluation that looks does
    given = warnings_in(constant, row, looks, constant, row, row, constant, constant)
    assert [bool(warnings) for warnings in given] == [False] * 6 + [True, False]
    assert "same action" in given[6][0]


def test_an_exploding_gradient() -> None:
    usual = [{"gradient/weights/policy": 0.5 + 0.1 * (index % 3)} for index in range(ROWS_BEFORE_EXPLODING)]  # median 0.6
    high, exploding = {"gradient/weights/policy": 0.59 * EXPLODING}, {"gradient/weights/policy": 0.61 * EXPLODING}
    given = warnings_in(*usual, high, exploding, exploding)
    assert given[:-2] == [[]] * (len(usual) + 1)
    assert len(given[-2]) == 1
    assert "gradient/weights/policy" in given[-2][0]
    assert given[-1] == []


def test_a_gradient_cannot_explode_before_there_is_a_usual_one() -> None:
    usual = [{"gradient/weights/policy": 0.5}] * (ROWS_BEFORE_EXPLODING - 1)
    assert warnings_in(*usual, {"gradient/weights/policy": 1e9})[-1] == []


def test_components_and_gates_are_compared_with_themselves() -> None:
    usual = [{"gradient/weights/policy": 1.0, "gradient/gates/policy": 1e4}] * ROWS_BEFORE_EXPLODING
    assert warnings_in(*usual, {"gradient/weights/policy": 1.0, "gradient/gates/policy": 1e4})[-1] == []
    (warning,) = warnings_in(*usual, {"gradient/weights/policy": 1e4, "gradient/gates/policy": 1.0})[-1]
    assert "weights" in warning


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_none_to_compare_with(value: float | None) -> None:
    usual = [{"gradient/weights/policy": 1.0}] * ROWS_BEFORE_EXPLODING
    detector = new_detector()
    assert warnings_in(*usual, {"gradient/weights/policy": value}, after=detector)[-1] == []
    high, exploding = {"gradient/weights/policy": 0.9 * EXPLODING}, {"gradient/weights/policy": 1.1 * EXPLODING}
    below, above = warnings_in(high, exploding, after=detector)
    assert below == []
    assert len(above) == 1
    assert "exploded" in above[0]


def shares(*closed: float, key: str = "gates/closed") -> list[dict[str, float]]:
    return [{key: value} for value in closed]


def test_gates_that_swing_are_said_when_they_have_turned_twice() -> None:
    assert TURNS == 2
    # up, down, hardly at all, up again: the second turn
    given = warnings_in(*shares(0.0, 0.9, 0.1, 0.1 + SWING / 2, 0.9, 0.1))
    assert [bool(warnings) for warnings in given] == [False] * 4 + [True, False]
    assert "gate_learning_rate" in given[4][0]
    (*_, of_critic) = warnings_in(*shares(0.0, 0.9, 0.1, 0.9, key="gates/critic/closed"))
    assert "gates of critic" in of_critic[0]


@pytest.mark.parametrize(
    "closed",
    [
        (0.0, 0.3, 0.6, 0.9, 0.93, 0.92, 0.9, 0.88),  # as L0 closes them
        (0.0, 0.99, 0.74, 0.55, 0.51, 0.51),  # an overshoot: it turns once
        tuple(0.5 + 0.4 * SWING * (-1) ** index for index in range(20)),  # trembling
    ],
)
def test_gates_that_come_to_rest_are_no_warning(closed: tuple[float, ...]) -> None:
    assert warnings_in(*shares(*closed)) == [[]] * len(closed)


def test_a_swing_goes_on_from_its_state() -> None:
    detector = new_detector()
    assert warnings_in(*shares(0.0, 0.9, 0.1), after=detector) == [[]] * 3
    state = json.loads(json.dumps(detector.state_dict()))
    detector.read({"gates/closed": 0.9})
    resumed = new_detector()
    resumed.load_state_dict(state)
    assert warnings_in(*shares(0.15), after=resumed) == [[]], "no move of a tenth"
    assert len(warnings_in(*shares(0.9), after=resumed)[0]) == 1


# ---------------------------------------------------------------- what can be told at the end only


@pytest.mark.parametrize(
    ("last", "warned"),
    [
        ({"sparsity/exact": 0.0}, "no weight"),
        ({"sparsity/exact": 0.001}, None),
        ({"sparsity/exact": 0.0, "gates/open": 1.0}, "every gate"),
        ({"sparsity/exact": 0.3, "gates/open": 0.7}, None),
        # gates on the rank make no zeros
        ({"sparsity/exact": 0.0, "gates/open": 0.7}, None),
        # all gates of a sum are open, but its L1 made zeros
        ({"sparsity/exact": 0.3, "gates/open": 1.0}, None),
        # a trunk and a head: not both are open; and a critic's gates are not the policy's
        ({"sparsity/exact": 0.1, "gates/encoder/open": 0.9, "gates/policy/open": 1.0}, None),
        ({"sparsity/exact": 0.0, "gates/encoder/open": 1.0, "gates/policy/open": 1.0, "gates/critic/open": 0.2}, "every gate"),
    ],
)
def test_a_policy_that_stayed_dense(last: dict[str, float], warned: str | None) -> None:
    found = stayed_dense(last, ("encoder", "policy"), True, "", STRENGTHS)
    assert len(found) == (warned is not None)
    assert all(sentence.startswith(warned or "") for sentence in found)
    assert stayed_dense(last, ("encoder", "policy"), False, "", STRENGTHS) == []


@pytest.mark.parametrize(
    ("rank", "measured", "retention", "words"),
    [
        ("full", 8, 1.0, "no rank below full keeps 95%"),
        ("full", 1, 1.0, None),  # no other was measured
        (4, 8, 0.949, "rank 4 was selected to keep 95% of what was learned, and keeps 94.9%"),
        (4, 8, 0.95, None),
        (4, 8, 1.02, None),
        (4, 8, None, None),  # the other seeds tell nothing
    ],
)
def test_a_return_that_is_lost_in_ranks(rank: Any, measured: int, retention: float | None, words: str | None) -> None:
    found = lost_in_ranks(rank, measured, retention, 0.95)
    assert len(found) == (words is not None)
    assert all(sentence.startswith(words or "") for sentence in found)


def test_of_a_stopped_member_only_that_is_said_and_once() -> None:
    detector = new_detector()
    constant = {"eval/constant_action": 1.0, "sparsity/exact/policy.0.weight": 1.0}
    assert detector.read(constant, "stopped") == ["stopped"]
    assert detector.read(constant, "stopped") == []
    resumed = new_detector()
    resumed.load_state_dict(json.loads(json.dumps(detector.state_dict())))
    assert resumed.read(constant, "stopped") == []
    assert resumed.reported == ["stopped"]


def test_a_layers_own_norm_gives_no_second_warning() -> None:
    usual = [{"gradient/weights/policy.0.weight": 1.0}] * ROWS_BEFORE_EXPLODING
    assert warnings_in(*usual, {"gradient/weights/policy.0.weight": 1e9})[-1] == []


def test_signatures_go_on_from_their_state() -> None:
    """Nothing is said twice, a series of evaluations goes on, and a median is remembered."""
    detector = new_detector()
    usual = [{"gradient/weights/policy": 1.0}] * ROWS_BEFORE_EXPLODING
    warnings_in(*usual, {"sparsity/exact/policy.0.weight": 1.0}, {"eval/constant_action": 1.0}, after=detector)
    state = json.loads(json.dumps(detector.state_dict()))  # a checkpoint keeps it, and shares nothing with it
    detector.read({"eval/constant_action": 0.0, "gradient/weights/policy": 2.0})

    resumed = new_detector()
    resumed.load_state_dict(state)
    assert len(resumed.reported) == 1
    assert "is zero" in resumed.reported[0]
    empty, constant, exploding = warnings_in(
        {"sparsity/exact/policy.0.weight": 1.0},
        {"eval/constant_action": 1.0},
        {"gradient/weights/policy": 2 * EXPLODING},
        after=resumed,
    )
    assert empty == []
    assert len(constant) == len(exploding) == 1
    assert len(resumed.reported) == 3


def test_a_state_is_not_changed_by_what_is_read_later() -> None:
    detector = new_detector()
    detector.read({"gradient/weights/policy": 1.0})
    state = detector.state_dict()
    before = json.dumps(state)
    detector.read({"gradient/weights/policy": 1.0, "sparsity/exact/policy.0.weight": 1.0})
    assert json.dumps(state) == before
