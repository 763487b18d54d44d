"""Removing hidden units that do nothing: worked examples, and that the function stays what it was."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparserl.lowrank.accounting import DecomposedPolicy
from sparserl.lowrank.shrinking import Shrunken, shrink, sliced
from sparserl.networks.base import Matrix, Structure
from sparserl.networks.mlp import MLP
from sparserl.types import Layers


def layers_of(*sizes: int) -> Layers:
    """Every weight and bias is 1, without the member axis."""
    layers: Layers = {}
    for index, (inputs, units) in enumerate(pairwise(sizes)):
        layers |= {f"{index}.weight": torch.ones(inputs, units), f"{index}.bias": torch.ones(1, units)}
    return layers


def structure_of(*sizes: int, activation: str = "relu") -> Structure:
    return MLP(hidden=sizes[1:-1], activation=activation).structure(sizes[:1])  # type: ignore[arg-type]


def dead(shrunken: Shrunken) -> dict[str, list[int]]:
    """Which units of each hidden layer were removed."""
    return {name: (~units).nonzero().flatten().tolist() for name, units in shrunken.alive.items()}


def test_units_are_removed_that_nothing_enters_or_leaves() -> None:
    sizes = 3, 5, 4, 2
    layers, structure = layers_of(*sizes), structure_of(*sizes)
    assert dead(shrink(layers, structure)) == {"0.weight": [], "1.weight": []}
    layers["0.weight"][:, 0] = 0  # nothing enters unit 0 of the first hidden layer
    layers["1.weight"][1] = 0  # nothing leaves its unit 1
    layers["0.weight"][:2, 2] = 0  # one weight of unit 2 is left
    layers["2.weight"][3] = 0  # nothing leaves unit 3 of the second
    layers["2.weight"][:, 1] = 0  # an output that nothing enters is not hidden
    found = shrink(layers, structure)
    assert dead(found) == {"0.weight": [0, 1], "1.weight": [3]}
    assert found.alive_units == 3 + 3
    assert found.weights == 3 * 3 + 3 * 3 + 3 * 2


def test_removing_one_unit_may_leave_others_without_any_weight() -> None:
    """Unit 0 of the second hidden layer alone is fed by unit 0 of the first, and feeds nothing: both go."""
    sizes = 2, 3, 3, 1
    layers, structure = layers_of(*sizes), structure_of(*sizes)
    layers["2.weight"][0] = 0
    layers["1.weight"][0, 1:] = 0
    assert dead(shrink(layers, structure)) == {"0.weight": [0], "1.weight": [0]}


@pytest.mark.parametrize(("activation", "value"), [("relu", 3.0), ("tanh", 0.9950547536867305)])
def test_what_a_constant_unit_adds_is_folded_into_the_next_bias(activation: str, value: float) -> None:
    """By hand: a unit of bias 3 that nothing enters gives relu(3) or tanh(3), times its weights 1 and -2."""
    sizes = 2, 2, 2
    layers, structure = layers_of(*sizes), structure_of(*sizes, activation=activation)
    layers["0.weight"][:, 0] = 0
    layers["0.bias"][0, 0] = 3.0
    layers["1.weight"][0] = torch.tensor([1.0, -2.0])
    found = shrink(layers, structure)
    torch.testing.assert_close(found.layers["1.bias"], torch.tensor([[1 + value, 1 - 2 * value]]))
    assert dead(found) == {"0.weight": [0]}


def test_units_of_a_trunk_stay_where_any_head_uses_them() -> None:
    """A trunk of 4 units feeds two heads, of 3 and 2 outputs."""
    trunk, left, right = torch.ones(5, 4), torch.ones(4, 3), torch.ones(4, 2)
    layers = {"trunk.weight": trunk, "left.weight": left, "right.weight": right}
    layers |= {"trunk.bias": torch.ones(1, 4), "left.bias": torch.zeros(1, 3), "right.bias": torch.zeros(1, 2)}
    structure = {
        "trunk.weight": Matrix("linear", ("left.weight", "right.weight"), activation="relu"),
        "left.weight": Matrix("linear"),
        "right.weight": Matrix("linear"),
    }
    left[0] = 0  # the right head still uses unit 0
    right[1] = 0  # the left head still uses unit 1
    assert dead(shrink(layers, structure)) == {"trunk.weight": []}
    right[0] = 0
    assert dead(shrink(layers, structure)) == {"trunk.weight": [0]}
    trunk[:, 3] = 0  # a constant 1 for both heads
    found = shrink(layers, structure)
    assert dead(found) == {"trunk.weight": [0, 3]}
    assert found.layers["left.bias"].tolist() == [[1.0] * 3]
    assert found.layers["right.bias"].tolist() == [[1.0] * 2]


def convolutional() -> tuple[Layers, Structure, nn.Module]:
    """Two convolutions and a linear layer on the 2 x 3 positions of 4 channels, and the same as a module."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 2 * 3, 5)
    )
    layers = {
        f"{index}.{kind}": getattr(module[place], kind).detach().clone()
        for index, place in enumerate((0, 2, 5))
        for kind in ("weight", "bias")
    }
    layers["2.weight"] = layers["2.weight"].T.contiguous()
    structure = {
        "0.weight": Matrix("kernel", ("1.weight",), 12, "relu"),
        "1.weight": Matrix("kernel", ("2.weight",), 6, "relu"),
        "2.weight": Matrix("linear"),
    }
    return layers, structure, module


def load(module: nn.Module, layers: Layers) -> nn.Module:
    for index, place in enumerate((0, 2, 5)):
        weight = layers[f"{index}.weight"]
        with torch.no_grad():
            module[place].weight.copy_(weight.T if place == 5 else weight)  # type: ignore[index]
            module[place].bias.copy_(layers[f"{index}.bias"].view(-1))  # type: ignore[index]
    return module


def test_a_channel_is_removed_with_all_its_positions_and_a_constant_one_is_folded() -> None:
    layers, structure, module = convolutional()
    layers["2.weight"][6:12] = 0  # nothing leaves channel 1 of the second convolution
    layers["0.weight"][2] = 0  # nothing enters channel 2 of the first
    layers["0.bias"][2] = 0.7
    image = torch.rand(7, 2, 7, 9, generator=torch.Generator().manual_seed(1))
    expected = load(module, layers)(image)
    found = shrink(layers, structure)
    assert dead(found) == {"0.weight": [2], "1.weight": [1]}
    assert found.weights == 2 * 2 * 9 + 2 * 3 * 4 + 3 * 6 * 5
    smaller = sliced(load(module, found.layers), found)
    assert [tuple(p.shape) for name, p in smaller.named_parameters() if name.endswith("weight")] == [
        (2, 2, 3, 3),
        (3, 2, 2, 2),
        (5, 18),
    ]
    torch.testing.assert_close(smaller(image), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=3, max_size=5),
    density=st.floats(0.05, 0.9),
    activation=st.sampled_from(["relu", "tanh"]),
    seed=st.integers(0, 1000),
)
def test_the_function_of_a_sparse_perceptron_stays_the_same(
    sizes: list[int], density: float, activation: str, seed: int
) -> None:
    """In the sizes of before, in smaller layers, and cut at a rank that keeps all."""
    draw = torch.Generator().manual_seed(seed)
    layers, structure = layers_of(*sizes), structure_of(*sizes, activation=activation)
    for name, tensor in layers.items():
        values = torch.randn(tensor.shape, generator=draw)
        layers[name] = values * (torch.rand(tensor.shape, generator=draw) < density) if name in structure else values
    network = MLP(hidden=sizes[1:-1], activation=activation)  # type: ignore[arg-type]
    observation = torch.randn(1, 16, sizes[0], generator=draw)

    def run(its: Layers) -> Tensor:
        return network({name: tensor.unsqueeze(0) for name, tensor in its.items()}, observation)[0]

    expected, found = run(layers), shrink(layers, structure)
    policy = DecomposedPolicy(found)
    for same in (run(found.layers), run(policy.layers(policy.cut(10))), run(policy.layers(policy.cut("full")))):
        torch.testing.assert_close(same, expected, rtol=1e-4, atol=1e-4)
    module = sliced(network.module(found.layers), found)
    torch.testing.assert_close(module(observation[0]), expected, rtol=1e-4, atol=1e-4)
    held = sum(parameter.numel() for name, parameter in module.named_parameters() if name.endswith("weight"))
    assert held == found.weights == policy.cost(policy.cut("full")).parameters
    whole = sum(layers[name].numel() for name in structure)
    for rank in (1, 2, "full"):
        assert policy.cost(policy.cut(rank)).parameters <= whole
    for name, matrix in structure.items():  # nothing is left that could be removed
        if matrix.feeds:
            rows, columns = found.left(name)
            following = found.layers[matrix.feeds[0]][rows]
            entering = found.layers[name][columns][:, rows]
            assert (entering != 0).any(dim=0).all()
            assert (following != 0).any(dim=1).all()
