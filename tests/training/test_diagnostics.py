from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from parts import make_regularizer
from torch import Tensor

from sparserl.algorithms.base import Algorithm
from sparserl.population.members import Population
from sparserl.population.random import Uniforms
from sparserl.regularizers.base import Regularizer
from sparserl.schedules import Constant, Schedule
from sparserl.training.learner import Learner
from sparserl.training.metrics import observe, zero_share
from sparserl.training.warnings import CONSTANT_EVALUATIONS, EXPLODING, ROWS_BEFORE_EXPLODING, Signatures
from sparserl.types import Action, Batch, Layers, Loss, Metrics, Spec, Weights

OPEN, CLOSED, UNDECIDED = 6.0, -6.0, 1.0
"""log_alpha of gates whose z_hat is exactly 1, exactly 0 and 0.777."""


@dataclasses.dataclass(frozen=True)
class Pull(Algorithm):
    """Its loss is ``weights . pulls``, so that a component's gradient is its ``pulls`` whatever the weights are."""

    first: Weights
    pulls: Weights
    max_grad_norm: float | None = None

    actions = "discrete"

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return dict.fromkeys(self.first, Constant(0.0))

    def init(self, spec: Spec, members: Population) -> Weights:
        return {component: dict(layers) for component, layers in self.first.items()}

    def act(self, weights: Weights, observation: Tensor, step: int, uniforms: Uniforms) -> Action:
        raise AssertionError("these tests take no action")

    def greedy(self, weights: Weights, observation: Tensor) -> Tensor:
        raise AssertionError("these tests take no action")

    def losses(self, weights: Weights, quiet: Weights, batch: Batch, step: int) -> dict[str, tuple[Loss, Metrics]]:
        return {
            component: (
                sum(((weights[component][n] * pull).flatten(1).sum(1) for n, pull in pulls.items()), torch.zeros(2)),
                {},
            )
            for component, pulls in self.pulls.items()
        }


def learner(algorithm: Pull, regularizer: str = "none", **changes: Any) -> Learner:
    given: Regularizer = dataclasses.replace(make_regularizer(f"regularizer={regularizer}", members=2), **changes)
    return Learner(algorithm, given, Spec((1,), discrete_actions=2), Population((0, 1)))


def set_gates(learner: Learner, component: str, **log_alpha: list[list[list[float]]]) -> None:
    with torch.no_grad():
        for layer, values in log_alpha.items():
            learner.gates[component][f"{layer.removeprefix('layer')}.weight"].copy_(torch.tensor(values))


def two_layers() -> Layers:
    """Two members; six weights in a layer of four and one of two, and biases, which count for nothing."""
    return {
        "0.weight": torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]]),
        "0.bias": torch.zeros(2, 1, 4),
        "1.weight": torch.tensor([[[0.0, 0.5]], [[0.25, 0.5]]]),
        "1.bias": torch.zeros(2, 1, 2),
    }


# ---------------------------------------------------------------- sparsity


def test_zero_share_counts_weights_of_all_layers_together() -> None:
    # member 0: one zero of six; member 1: none. A mean of the layers' shares would be 1/4.
    assert zero_share(two_layers()).tolist() == pytest.approx([1 / 6, 0.0])
    # below 0.3: 0 and, in member 1, 0.25
    assert zero_share(two_layers(), threshold=0.3).tolist() == pytest.approx([1 / 6, 1 / 6])
    assert zero_share({name: -tensor for name, tensor in two_layers().items()}, threshold=0.3).tolist()[1] > 0


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.3, 0.5, 1.0])
def test_the_control_counts_as_zero_what_l1_sets_to_zero(threshold: float) -> None:
    """``none`` is reported at the threshold at which l1 and l2 cut, also for weights that are just as large."""
    control = observe(learner(Pull({"policy": two_layers()}, {}), "none", zero_threshold=threshold))
    cut = observe(learner(Pull({"policy": two_layers()}, {}), "l1", zero_threshold=threshold))
    assert control["sparsity/thresholded"].tolist() == cut["sparsity/exact"].tolist()


def test_sparsity_is_of_the_hardened_policy() -> None:
    given = learner(Pull({"policy": two_layers()}, {}), "l0", zero_threshold=0.6)
    o, c, u = OPEN, CLOSED, UNDECIDED
    set_gates(given, "policy", layer0=[[[o, c, c, u]], [[o, o, o, o]]], layer1=[[[o, u]], [[o, o]]])
    row = observe(given)
    # member 0: weights 1, 0 (closed), 0 (closed), 3.1 (of 4), 0 (its own), 0.39 (of 0.5)
    assert row["sparsity/exact"].tolist() == pytest.approx([3 / 6, 0.0])
    assert row["sparsity/thresholded"].tolist() == pytest.approx([4 / 6, 2 / 6])
    p = torch.stack(
        [given.regularizer.open_probability(given.gates["policy"])[f"{i}.weight"].flatten(1).sum(1) for i in (0, 1)]
    )
    torch.testing.assert_close(row["sparsity/expected"], 1 - p.sum(dim=0).double() / 6)


def test_expected_sparsity_is_not_known_without_gates() -> None:
    row = observe(learner(Pull({"policy": two_layers()}, {}), "l1"))
    assert not any(name.startswith("gates") or name == "sparsity/expected" for name in row)


def test_critics_are_counted_apart_and_only_where_they_are_regularised() -> None:
    weights = {"policy": two_layers(), "critic": {"0.weight": torch.tensor([[[0.0, 0.0, 0.0, 1.0]]] * 2)}}
    both = observe(learner(Pull(weights, {}), "l1", scope="all"))
    assert both["sparsity/critic"].tolist() == [0.75, 0.75]
    assert both["sparsity/exact"].tolist() == pytest.approx([1 / 6, 0.0])
    assert "sparsity/critic" not in observe(learner(Pull(weights, {}), "l1", scope="policy"))


# ---------------------------------------------------------------- gates


def test_shares_of_open_closed_and_undecided_gates_by_layer_and_in_all() -> None:
    given = learner(Pull({"policy": two_layers()}, {}), "l0", initial_open=0.5)
    o, c, u = OPEN, CLOSED, UNDECIDED
    set_gates(given, "policy", layer0=[[[o, c, c, u]], [[o, o, o, o]]], layer1=[[[o, -u]], [[c, c]]])
    row = observe(given)
    expected = {
        "": ([2 / 6, 2 / 6, 2 / 6], [4 / 6, 2 / 6, 0.0]),
        "/policy.0.weight": ([1 / 4, 2 / 4, 1 / 4], [1.0, 0.0, 0.0]),
        "/policy.1.weight": ([1 / 2, 0.0, 1 / 2], [0.0, 1.0, 0.0]),
    }
    for suffix, members in expected.items():
        for member, shares in enumerate(members):
            found = [float(row[f"gates/{kind}{suffix}"][member]) for kind in ("open", "closed", "undecided")]
            assert found == pytest.approx(shares)
    # from log_alpha 0: four gates by 6 and two by 1 for member 0, all by 6 for member 1
    assert row["gates/moved"].tolist() == pytest.approx([26 / 6, 6.0])


def test_gates_of_critics_have_names_of_their_own() -> None:
    weights = {"policy": two_layers(), "critic": {"0.weight": torch.ones(2, 1, 4)}}
    given = learner(Pull(weights, {}), "l0", scope="all", initial_open=0.5)
    o, c, u = OPEN, CLOSED, UNDECIDED
    set_gates(given, "policy", layer0=[[[o, o, o, o]]] * 2, layer1=[[[o, o]]] * 2)
    set_gates(given, "critic", layer0=[[[c, c, c, u]]] * 2)
    row = observe(given)
    assert row["gates/open"].tolist() == [1.0, 1.0]
    assert row["gates/critic/closed"].tolist() == row["gates/critic/closed/critic.0.weight"].tolist() == [0.75, 0.75]
    assert row["gates/critic/moved"].tolist() == [4.75, 4.75]


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("max_grad_norm", [None, 1.0, 1e3])
def test_gradient_norms_are_those_before_clipping(max_grad_norm: float | None) -> None:
    # member 0: (3, 0) and (4,), so 3, 4 and 5 together; member 1: (0, 0.3) and (0.4,)
    first = {"0.weight": torch.ones(2, 1, 2), "0.bias": torch.ones(2, 1, 1)}
    pulls = {"0.weight": torch.tensor([[[3.0, 0.0]], [[0.0, 0.3]]]), "0.bias": torch.tensor([[[4.0]], [[0.4]]])}
    given = learner(Pull({"policy": first}, {"policy": pulls}, max_grad_norm))
    given.update({}, env_step=0)
    row = observe(given)
    for name, expected in {"": [5.0, 0.5], ".0.weight": [3.0, 0.3], ".0.bias": [4.0, 0.4]}.items():
        assert row[f"gradient/weights/policy{name}"].tolist() == pytest.approx(expected, rel=1e-5)
    assert "gradient/gates/policy" not in row


@pytest.mark.parametrize("max_gate_grad_norm", [None, 1e-3])
def test_weights_and_gates_are_measured_apart_whatever_clips_either(max_gate_grad_norm: float | None) -> None:
    first, pulls = {"0.weight": torch.ones(2, 1, 3)}, {"0.weight": torch.tensor([[[3.0, 0.0, 4.0]], [[0.3, 0.0, 0.4]]])}
    algorithm = Pull({"policy": first}, {"policy": pulls}, max_grad_norm=1e-3)
    given = learner(algorithm, "l0", initial_open=0.5, delay_steps=0, ramp_steps=10, max_gate_grad_norm=max_gate_grad_norm)
    given.update({}, env_step=0)
    row = observe(given)

    noise = given.regularizer.noise(given.gates["policy"], Population((0, 1)).generators("gates"), 0)
    weights = {"0.weight": first["0.weight"].clone().requires_grad_()}
    gates = {"0.weight": torch.zeros(2, 1, 3, requires_grad=True)}
    loss = (given.regularizer.sample([weights], gates, noise)[0]["0.weight"] * pulls["0.weight"]).sum()
    expected = torch.autograd.grad(loss, [*weights.values(), *gates.values()])
    for kind, gradient in zip(("weights", "gates"), expected, strict=True):
        for name in ("policy", "policy.0.weight"):
            torch.testing.assert_close(row[f"gradient/{kind}/{name}"], gradient.flatten(1).norm(dim=1), rtol=1e-4, atol=0)


# ---------------------------------------------------------------- failure signatures


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


def test_of_a_frozen_member_only_that_is_said_and_once() -> None:
    signatures = Signatures()
    constant = {"eval/constant_action": 1.0, "gates/closed/policy.0.weight": 1.0}
    assert signatures.read(constant, "frozen") == ["frozen"]
    assert signatures.read(constant, "frozen") == []
    resumed = Signatures()
    resumed.load_state_dict(json.loads(json.dumps(signatures.state_dict())))
    assert resumed.read(constant, "frozen") == []
    assert resumed.said == ["frozen"]


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
