"""The group lasso: by hand, against closed forms, and units that a learner sets to zero as a whole."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from parts import make_learner, make_regularizer, random_batches

from sparserl.networks.base import Matrix, Structure
from sparserl.regularizers.base import Regularizer
from sparserl.regularizers.l1 import L1
from sparserl.types import is_weight

STRUCTURE = {"0.weight": Matrix("linear", ("1.weight",), activation="relu"), "1.weight": Matrix("linear")}

# two units of two inputs each: (3, 4) and (0, 0); the second member's are a tenth. Biases and outputs cost nothing.
BY_HAND = {
    "0.weight": torch.tensor([[[3.0, 0.0], [4.0, 0.0]], [[0.3, 0.0], [0.4, 0.0]]]),
    "0.bias": torch.tensor([[[10.0, -20.0]], [[10.0, 20.0]]]),
    "1.weight": torch.tensor([[[7.0], [8.0]], [[7.0], [8.0]]]),
}


def made(structure: Structure = STRUCTURE, name: str = "group_lasso", **changes: Any) -> Regularizer:
    return dataclasses.replace(make_regularizer(f"regularizer={name}"), **changes).bind(structure)


def test_the_penalty_by_hand() -> None:
    """sqrt(2) * |(3, 4)| = 5 sqrt(2), and 0 for the other unit; a quarter of it on the average of four weights."""
    expected = 5 * math.sqrt(2) * torch.tensor([1.0, 0.1])
    torch.testing.assert_close(made(reduction="sum").penalty(BY_HAND, {}), expected)
    torch.testing.assert_close(made(reduction="mean").penalty(BY_HAND, {}), expected / 4)


def test_the_gradient_by_hand_is_0_at_a_unit_of_zeros() -> None:
    """sqrt(2) * (3, 4) / 5, for both members: the size of a unit does not matter."""
    layers = {name: tensor.clone().requires_grad_() for name, tensor in BY_HAND.items()}
    penalty = made(reduction="sum").penalty(layers, {}).sum()
    gradient, others = torch.autograd.grad(penalty, [layers["0.weight"], layers["1.weight"]], materialize_grads=True)
    torch.testing.assert_close(gradient[:, :, 0], math.sqrt(2) * torch.tensor([[0.6, 0.8], [0.6, 0.8]]))
    assert (gradient[:, :, 1] == 0).all()
    assert (others == 0).all()


def test_channels_are_units_and_weights_of_one_size_cost_what_they_cost_under_l1() -> None:
    """Of others it costs more than L1, by the inequality of Cauchy and Schwarz."""
    structure = {"0.weight": Matrix("kernel", ("1.weight",), activation="relu"), "1.weight": Matrix("linear")}
    shape = 2, 3, 2, 3, 3
    signs = torch.rand(shape, generator=torch.Generator().manual_seed(0)).sub(0.5).sign()
    layers = {"0.weight": 0.3 * signs, "1.weight": torch.zeros(2, 12, 1)}
    by_group, by_weight = (made(structure, name, reduction="sum") for name in ("group_lasso", "l1"))
    torch.testing.assert_close(by_group.penalty(layers, {}), by_weight.penalty(layers, {}))
    layers["0.weight"][0, 0, 0, 0, 0] *= 10  # one weight of a channel
    assert by_group.penalty(layers, {})[0] > by_weight.penalty(layers, {})[0]


def test_a_network_without_hidden_units_costs_nothing() -> None:
    layers, structure = {"0.weight": torch.ones(2, 3, 4)}, {"0.weight": Matrix("linear")}
    assert made(structure).penalty(layers, {}).tolist() == [0.0, 0.0]
    assert made(structure, proximal=True).project(layers, {}, 0, 1.0)[0]["0.weight"] is layers["0.weight"]


# ---------------------------------------------------------------- proximal steps


def test_the_proximal_step_by_hand() -> None:
    """A limit of 0.1 times sqrt(2) shortens 5 by 0.1414 and 0.5 too; one of 1 shortens 0.5 to exactly 0."""
    short = {limit: made(proximal=True, reduction="sum").project(BY_HAND, {}, 0, limit)[0] for limit in (0.0, 0.1, 1.0)}
    left = 1 - 0.1 * math.sqrt(2) / torch.tensor([5.0, 0.5])
    torch.testing.assert_close(short[0.1]["0.weight"], BY_HAND["0.weight"] * left.view(2, 1, 1))
    assert (short[1.0]["0.weight"][1] == 0).all()
    assert (short[1.0]["0.weight"][0, :, 0] != 0).all()
    for name, tensor in BY_HAND.items():
        assert torch.equal(short[0.0][name], tensor), "without a penalty nothing moves, zeros neither"
        assert name == "0.weight" or short[1.0][name] is tensor
    by_mean = made(proximal=True, reduction="mean").project(BY_HAND, {}, 0, torch.tensor([0.4, 0.4]))[0]
    torch.testing.assert_close(by_mean["0.weight"], short[0.1]["0.weight"])


def test_proximal_steps_find_the_solution_of_a_quadratic() -> None:
    """Of |w - a|^2 / 2 + lambda sqrt(n) |w| in each unit: a, shortened by lambda sqrt(n) (Yuan and Lin 2006, equation 2.4).

    By plain gradient steps the distance becomes 0.9 of itself at each, so 3e-5 of itself in 100.
    """
    a, rate, lambda_c = torch.tensor([[[3.0, 0.3, -1.0], [4.0, 0.4, 0.1]]]), 0.1, 0.5
    force = lambda_c * math.sqrt(2)
    solution = a * (1 - force / torch.tensor([5.0, 0.5, math.sqrt(1.01)])).clamp_min(0)
    regularizer, layers = (
        made(proximal=True, reduction="sum"),
        {"0.weight": torch.ones_like(a), "1.weight": torch.ones(1, 3, 1)},
    )
    for _ in range(100):
        stepped = layers | {"0.weight": layers["0.weight"] - rate * (layers["0.weight"] - a)}
        layers, _ = regularizer.project(stepped, {}, 0, rate * lambda_c)
    torch.testing.assert_close(layers["0.weight"], solution, atol=1e-4, rtol=0)
    assert ((layers["0.weight"] == 0) == (solution == 0)).all()
    assert (solution == 0).any()


def test_a_learner_sets_units_to_zero_as_a_whole() -> None:
    """The negative control is L1: of a unit it leaves some weights."""
    strong = "algorithm.learning_rate=0.01", "regularizer.proximal=true", "regularizer.reduction=sum", "network.hidden=[13,7]"
    for name, whole in (("group_lasso", True), ("l1", False)):
        learner = make_learner(f"regularizer={name}", *strong, "regularizer.lambda_c=0.3")
        for step, batch in enumerate(random_batches(40, 1, 16)):
            learner.update(batch, env_step=step)
        assert isinstance(learner.regularizer, L1) != whole
        hidden = [w for n, w in learner.weights["policy"].items() if is_weight(n)][:-1]
        zeros = torch.cat([(weight == 0).float().mean(dim=1).flatten() for weight in hidden])
        assert (zeros > 0).any()
        assert ((zeros == 0) | (zeros == 1)).all() == whole
