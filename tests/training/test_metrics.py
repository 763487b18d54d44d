"""What a row says of weights, gates and gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from parts import make_learner, make_regularizer
from torch import Tensor

from sparserl.algorithms.base import Algorithm, Objective
from sparserl.networks.base import Network
from sparserl.networks.mlp import MLP
from sparserl.optimizers import Adam
from sparserl.population.members import Population
from sparserl.population.random import MemberRng
from sparserl.regularizers.base import Regularizer, gated
from sparserl.regularizers.hard_concrete import log_alphas
from sparserl.schedules import Constant, Schedule
from sparserl.training.learner import Learner
from sparserl.training.metrics import observe, zero_share
from sparserl.types import Action, Batch, Layers, Spec, Time, Weights

OPEN, CLOSED, UNDECIDED = 6.0, -6.0, 1.0
"""log_alpha of gates whose z_hat is exactly 1, exactly 0 and 0.777."""


@dataclasses.dataclass(frozen=True)
class Pull(Algorithm):
    """Its loss is ``weights . pulls``, so that a component's gradient is its ``pulls`` whatever the weights are."""

    first: Weights
    pulls: Weights

    actions = ("discrete",)

    @property
    def networks(self) -> Mapping[str, Network]:
        return {c: MLP([1] * (sum(name.endswith("weight") for name in its) - 1), "relu") for c, its in self.first.items()}

    @property
    def learning_rates(self) -> dict[str, Schedule]:
        return dict.fromkeys(self.first, Constant(0.0))

    def init(self, members: Population) -> Weights:
        return {component: dict(layers) for component, layers in self.first.items()}

    def act(self, weights: Weights, observation: Tensor, step: int, rng: MemberRng) -> Action:
        raise AssertionError("these tests take no action")

    def deterministic_action(self, weights: Weights, observation: Tensor) -> Tensor:
        raise AssertionError("these tests take no action")

    def losses(self, weights: Weights, noise_free: Weights, batch: Batch, time: Time, rng: MemberRng) -> dict[str, Objective]:
        return {
            component: Objective(
                sum(((weights[component][n] * pull).flatten(1).sum(1) for n, pull in pulls.items()), torch.zeros(2)),
                (component,),
            )
            for component, pulls in self.pulls.items()
        }


def pull(first: Weights, pulls: Weights, max_grad_norm: float | None = None) -> Pull:
    return Pull(first, pulls, gamma=0.99, max_grad_norm=max_grad_norm, optimizer=Adam())


def learner(algorithm: Pull, regularizer: str = "none", **changes: Any) -> Learner:
    given: Regularizer = dataclasses.replace(make_regularizer(f"regularizer={regularizer}", members=2), **changes)
    return Learner(algorithm.bind(Spec((1,), discrete_actions=2)), given, Population((0, 1)))


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
    control = observe(learner(pull({"policy": two_layers()}, {}), "none", zero_threshold=threshold))
    cut = observe(learner(pull({"policy": two_layers()}, {}), "l1", zero_threshold=threshold))
    assert control["sparsity/thresholded"].tolist() == cut["sparsity/exact"].tolist()


def test_sparsity_is_of_the_policy_without_noise() -> None:
    given = learner(pull({"policy": two_layers()}, {}), "l0", zero_threshold=0.6)
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


def test_a_component_without_gates_counts_as_dense_in_what_is_expected() -> None:
    """A head behind a shared trunk has no units of its own: of 4 * 64 + 64 * 2 weights half of the first are expected to go."""
    given = make_learner(
        "algorithm=ppo", "algorithm.share_trunk=true", "network.hidden=[64]", "regularizer=l0_units", members=1
    )
    with torch.no_grad():
        for gate in log_alphas(given.gates["encoder"]).values():
            gate[:, :32], gate[:, 32:] = 50.0, -50.0
    assert observe(given)["sparsity/expected"].item() == pytest.approx(128 / 384, abs=1e-6)


def test_expected_sparsity_is_not_known_without_gates() -> None:
    row = observe(learner(pull({"policy": two_layers()}, {}), "l1"))
    assert not any(name.startswith("gates") or name == "sparsity/expected" for name in row)


def test_critics_are_counted_apart_and_only_where_they_are_regularised() -> None:
    weights = {"policy": two_layers(), "critic": {"0.weight": torch.tensor([[[0.0, 0.0, 0.0, 1.0]]] * 2)}}
    both = observe(learner(pull(weights, {}), "l1", scope="all"))
    assert both["sparsity/critic"].tolist() == [0.75, 0.75]
    assert both["sparsity/exact"].tolist() == pytest.approx([1 / 6, 0.0])
    assert "sparsity/critic" not in observe(learner(pull(weights, {}), "l1", scope="policy"))


# ---------------------------------------------------------------- gates


def test_shares_of_open_closed_and_undecided_gates_by_layer_and_in_all() -> None:
    given = learner(pull({"policy": two_layers()}, {}), "l0", initial_open=0.5)
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
            found = [float(row[f"gates/{state}{suffix}"][member]) for state in ("open", "closed", "undecided")]
            assert found == pytest.approx(shares)
    # from log_alpha 0: four gates by 6 and two by 1 for member 0, all by 6 for member 1
    assert row["gates/moved"].tolist() == pytest.approx([26 / 6, 6.0])


def test_gates_of_critics_have_names_of_their_own() -> None:
    weights = {"policy": two_layers(), "critic": {"0.weight": torch.ones(2, 1, 4)}}
    given = learner(pull(weights, {}), "l0", scope="all", initial_open=0.5)
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
    # member 0: (3, 0) and (4,), so 5 together; member 1: (0, 0.3) and (0.4,)
    first = {"0.weight": torch.ones(2, 1, 2), "0.bias": torch.ones(2, 1, 1)}
    pulls = {"0.weight": torch.tensor([[[3.0, 0.0]], [[0.0, 0.3]]]), "0.bias": torch.tensor([[[4.0]], [[0.4]]])}
    row = learner(pull({"policy": first}, {"policy": pulls}, max_grad_norm)).update({}, env_step=0)
    assert row["gradient/weights/policy"].tolist() == pytest.approx([5.0, 0.5], rel=1e-5)
    assert "gradient/gates/policy" not in row


def test_norms_of_one_step_are_not_those_of_the_next() -> None:
    """A row averages them, so those of an earlier step must stay what they were."""
    first, pulls = {"0.weight": torch.ones(2, 1, 1)}, {"0.weight": torch.tensor([[[3.0]], [[0.3]]])}
    given = learner(pull({"policy": first}, {"policy": pulls}))
    one = given.update({}, env_step=0)
    pulls["0.weight"] *= 2
    other = given.update({}, env_step=1)
    assert one["gradient/weights/policy"].tolist() == pytest.approx([3.0, 0.3])
    assert other["gradient/weights/policy"].tolist() == pytest.approx([6.0, 0.6])


@pytest.mark.parametrize("max_gate_grad_norm", [None, 1e-3])
def test_weights_and_gates_are_measured_apart_whatever_clips_either(max_gate_grad_norm: float | None) -> None:
    first, pulls = {"0.weight": torch.ones(2, 1, 3)}, {"0.weight": torch.tensor([[[3.0, 0.0, 4.0]], [[0.3, 0.0, 0.4]]])}
    algorithm = pull({"policy": first}, {"policy": pulls}, max_grad_norm=1e-3)
    given = learner(algorithm, "l0", initial_open=0.5, delay_steps=0, ramp_steps=10, max_gate_grad_norm=max_gate_grad_norm)
    row = given.update({}, env_step=0)

    noise = given.regularizer.noise(given.gates["policy"], Population((0, 1)).generators("gates"), 0)
    weights = {"0.weight": first["0.weight"].clone().requires_grad_()}
    gates = {"0.weight": torch.zeros(2, 1, 3, requires_grad=True)}
    regularizer = given.bound["policy"]
    running = gated(weights, regularizer.multipliers(regularizer.sample(gates, noise), gates, weights))
    expected = torch.autograd.grad((running["0.weight"] * pulls["0.weight"]).sum(), [*weights.values(), *gates.values()])
    for group, gradient in zip(("weights", "gates"), expected, strict=True):
        torch.testing.assert_close(row[f"gradient/{group}/policy"], gradient.flatten(1).norm(dim=1), rtol=1e-4, atol=0)
