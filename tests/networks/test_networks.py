from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparserl.networks.mlp import MLP
from sparserl.population.members import Population
from sparserl.types import Layers

Activation = Literal["relu", "tanh"]
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
units = st.lists(st.integers(1, 9), max_size=3)
activations = st.sampled_from(["relu", "tanh"])


def fresh(network: MLP, observation_shape: tuple[int, ...], outputs: int, seeds: tuple[int, ...]) -> Layers:
    return network.init(observation_shape, outputs, Population(seeds).generators("init"))


def one(layers: Layers, member: int) -> Layers:
    return {name: tensor[member] for name, tensor in layers.items()}


@given(
    members=st.integers(1, 3),
    batch=st.integers(1, 5),
    shape=shapes,
    hidden=units,
    outputs=st.integers(1, 4),
    activation=activations,
)
@settings(deadline=None, max_examples=50)
def test_each_member_is_the_module_that_it_exports(
    members: int, batch: int, shape: tuple[int, ...], hidden: list[int], outputs: int, activation: Activation
) -> None:
    network = MLP(hidden=hidden, activation=activation)
    layers = fresh(network, shape, outputs, tuple(range(members)))
    observation = torch.randn(members, batch, *shape, generator=torch.Generator().manual_seed(0))
    output = network(layers, observation)
    assert output.shape == (members, batch, outputs)
    for member in range(members):
        module = network.module(one(layers, member))
        torch.testing.assert_close(output[member], module(observation[member]))
        # only linear layers hold weights, and as many as the layers have
        linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
        assert [part.out_features for part in linear] == [*hidden, outputs]
        count = sum(tensor[member].numel() for tensor in layers.values())
        assert sum(p.numel() for part in linear for p in part.parameters()) == count
        assert sum(p.numel() for p in module.parameters()) == count


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("outputs", [1, 2, 15, 16])
def test_the_gradient_that_is_written_out_is_the_gradient(outputs: int, activation: Activation) -> None:
    """Few outputs of a large batch take a way of their own; gradcheck compares with differences, so it needs float64."""
    network = MLP(hidden=[7, 6], activation=activation)
    layers = {name: tensor.double() for name, tensor in fresh(network, (5,), outputs, (0, 1, 2)).items()}
    names = list(layers)

    def run(observation: Tensor, *parameters: Tensor) -> Tensor:
        return network(dict(zip(names, parameters, strict=True)), observation)

    observation = torch.randn(3, 16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = [observation, *layers.values()]
    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in inputs])
    with torch.no_grad():
        without = run(*inputs)
    assert torch.equal(run(*inputs), without)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        # hidden units: 1*2 + 2*(-1) + 0.5 = 0.5 and 1*(-3) + 2*0 + 1 = -2
        # relu lets (0.5, 0) through: -4*0.5 + 5*0 + 1 = -1, which must not go through another relu
        ("relu", -1.0),
        ("tanh", -4 * math.tanh(0.5) + 5 * math.tanh(-2) + 1),
    ],
)
def test_a_network_worked_by_hand(activation: Activation, expected: float) -> None:
    network = MLP(hidden=[2], activation=activation)
    layers = {
        "0.weight": torch.tensor([[[2.0, -3.0], [-1.0, 0.0]]]),
        "0.bias": torch.tensor([[[0.5, 1.0]]]),
        "1.weight": torch.tensor([[[-4.0], [5.0]]]),
        "1.bias": torch.tensor([[[1.0]]]),
    }
    observation = torch.tensor([[[1.0, 2.0]]])
    torch.testing.assert_close(network(layers, observation), torch.tensor([[[expected]]]))
    torch.testing.assert_close(network.module(one(layers, 0))(observation[0]), torch.tensor([[expected]]))


def test_bytes_are_numbers_also_for_the_module() -> None:
    """A run that learned from bytes could not be played: nn.Linear takes no bytes."""
    network = MLP(hidden=[3], activation="tanh")
    layers = {name: tensor / 100 for name, tensor in fresh(network, (2, 3), 2, (0,)).items()}
    bytes_ = torch.tensor([[[[0, 255, 7], [1, 2, 3]]]], dtype=torch.uint8)
    output = network(layers, bytes_)
    torch.testing.assert_close(output, network(layers, bytes_.float()))
    torch.testing.assert_close(network.module(one(layers, 0))(bytes_[0]), output[0])


def test_an_exported_module_keeps_copies() -> None:
    network = MLP(hidden=[3], activation="relu")
    layers = fresh(network, (2,), 2, (0,))
    module, observation = network.module(one(layers, 0)), torch.ones(1, 2)
    before = module(observation)
    for tensor in layers.values():
        tensor.zero_()
    assert torch.equal(module(observation), before)


def test_members_see_their_own_observations_only() -> None:
    network = MLP(hidden=[5], activation="tanh")
    layers = fresh(network, (3,), 2, (0, 1))
    observation = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(layers, observation)[0].sum(), observation)
    assert (gradient[0] != 0).any()
    assert (gradient[1] == 0).all()


def test_weights_start_uniform_within_one_over_the_root_of_the_inputs() -> None:
    layers = fresh(MLP(hidden=[100, 50], activation="relu"), (8, 8), 3, (0, 1))
    assert {name: tuple(tensor.shape) for name, tensor in layers.items()} == {
        "0.weight": (2, 64, 100),
        "0.bias": (2, 1, 100),
        "1.weight": (2, 100, 50),
        "1.bias": (2, 1, 50),
        "2.weight": (2, 50, 3),
        "2.bias": (2, 1, 3),
    }
    for name, inputs in (("0", 64), ("1", 100), ("2", 50)):
        for tensor in (layers[f"{name}.weight"], layers[f"{name}.bias"]):
            assert tensor.abs().max() <= 1 / math.sqrt(inputs)
    for name, inputs, count in (("0", 64, 6400), ("1", 100, 5000)):
        weight = layers[f"{name}.weight"].flatten(1) * math.sqrt(inputs)
        # uniform in [-1, 1]: mean 0 +- 0.577 / sqrt(n), variance 1/3 +- sqrt(4/45 / n); five of them
        assert weight.mean(dim=1).abs().max() < 5 * 0.577 / math.sqrt(count)
        assert (weight.var(dim=1) - 1 / 3).abs().max() < 5 * math.sqrt(4 / 45 / count)


def test_a_members_first_weights_are_those_of_its_seed_whatever_the_others_are() -> None:
    network = MLP(hidden=[6, 5], activation="relu")
    together, alone = fresh(network, (4,), 2, (7, 8, 9)), fresh(network, (4,), 2, (8,))
    for name, tensor in alone.items():
        assert torch.equal(together[name][1:2], tensor)
        assert not torch.equal(together[name][0], together[name][1])


def test_layers_of_one_shape_start_differently() -> None:
    layers = fresh(MLP(hidden=[4, 4, 4], activation="relu"), (4,), 4, (0,))
    weights = [layers[f"{index}.weight"] for index in range(4)]
    assert not any(torch.equal(weights[i], weights[j]) for i in range(4) for j in range(i))


def test_the_structure_names_the_weights_in_order_and_what_each_feeds() -> None:
    network = MLP(hidden=[6, 5], activation="relu")
    structure = network.structure((4,))
    assert list(structure) == [name for name in fresh(network, (4,), 2, (0,)) if name.endswith("weight")]
    assert [matrix.feeds for matrix in structure.values()] == [("1.weight",), ("2.weight",), ()]
    assert all(matrix.layout == "linear" and matrix.positions == 1 for matrix in structure.values())


# ---------------------------------------------------------------- orthogonal weights


def test_orthogonal_weights_have_the_norms_of_their_gains_and_no_biases() -> None:
    network = MLP(hidden=[6, 9], activation="tanh", initialization="orthogonal")
    layers = network.init((4,), 2, Population((0, 1, 2)).generators("init"), gain=0.01)
    for index, (rows, columns, norm) in enumerate(((4, 6, math.sqrt(2)), (6, 9, math.sqrt(2)), (9, 2, 0.01))):
        weight = layers[f"{index}.weight"]
        assert weight.shape == (3, rows, columns)
        fewer = weight if rows < columns else weight.mT
        identity = torch.eye(min(rows, columns)).expand(3, -1, -1)
        torch.testing.assert_close(fewer @ fewer.mT, norm**2 * identity, atol=1e-6, rtol=1e-5)
        assert (layers[f"{index}.bias"] == 0).all()
        assert layers[f"{index}.bias"].shape == (3, 1, columns)


def test_orthogonal_matrices_are_uniformly_distributed() -> None:
    """Of a rotation in the plane, or one with a reflection, each entry has mean 0 and variance 1/2 (five standard errors).

    Without the signs of R's diagonal the first entry would never be above 0.
    """
    network, number = MLP(hidden=[], activation="tanh", initialization="orthogonal"), 2000
    weight = network.init((2,), 2, Population(tuple(range(number))).generators("init"), gain=1.0)["0.weight"]
    assert weight.mean(dim=0).abs().max() < 5 * math.sqrt(0.5 / number)
    # the square of a cosine has variance 1/8
    assert (weight.square().mean(dim=0) - 0.5).abs().max() < 5 * math.sqrt(0.125 / number)


def test_a_members_orthogonal_weights_are_those_of_its_seed_whatever_the_others_are() -> None:
    network = MLP(hidden=[13, 7], activation="relu", initialization="orthogonal")
    together, alone = fresh(network, (4,), 2, (7, 8, 9)), fresh(network, (4,), 2, (8,))
    for name, tensor in alone.items():
        assert torch.equal(together[name][1:2], tensor)
    assert not torch.equal(together["0.weight"][0], together["0.weight"][1])


# ---------------------------------------------------------------- trunk and head


@pytest.mark.parametrize("hidden", [[5], [5, 7], [60, 50, 7]])
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_trunk_and_a_head_are_the_whole_network(hidden: list[int], batch: int, activation: Activation) -> None:
    """What they give, their gradients and their modules, to rounding: a wide batch lies otherwise in memory in between."""
    network = MLP(hidden=hidden, activation=activation)
    trunk, head, last = network.trunk(), network.head(), len(hidden)
    assert network.features == hidden[-1]
    layers = {name: tensor.requires_grad_() for name, tensor in fresh(network, (4,), 3, (0, 1)).items()}
    split = {name: tensor for name, tensor in layers.items() if not name.startswith(f"{last}.")}
    final = {name.replace(f"{last}.", "0."): tensor for name, tensor in layers.items() if name.startswith(f"{last}.")}
    assert {n: t.shape for n, t in trunk.init((4,), hidden[-1], Population((0, 1)).generators("init")).items()} == {
        n: t.shape for n, t in split.items()
    }
    observation = torch.randn(2, batch, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    whole, parts = network(layers, observation), head(final, trunk(split, observation))
    torch.testing.assert_close(whole, parts)
    with torch.no_grad():
        assert torch.equal(head(final, trunk(split, observation)), parts)
    inputs = [observation, *layers.values()]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (whole, parts)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    module = nn.Sequential(trunk.module(one_of(split, 1)), head.module(one_of(final, 1)))
    torch.testing.assert_close(module(observation[1]), whole[1])
    assert list(trunk.structure((4,))) == [name for name in split if name.endswith("weight")]


def one_of(layers: Layers, member: int) -> Layers:
    return {name: tensor[member].detach() for name, tensor in layers.items()}


def test_the_gradient_of_a_trunk_is_the_gradient() -> None:
    network = MLP(hidden=[7, 6, 5], activation="tanh").trunk()
    layers = {n: t.double() for n, t in network.init((5,), 5, Population((0, 1, 2)).generators("init")).items()}
    names = list(layers)
    for batch in (3, 50):
        observation = torch.randn(3, batch, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        inputs = [tensor.requires_grad_() for tensor in (observation, *layers.values())]
        assert torch.autograd.gradcheck(lambda x, *p: network(dict(zip(names, p, strict=True)), x), inputs, fast_mode=True)


def test_without_a_hidden_layer_there_is_no_trunk() -> None:
    with pytest.raises(ValueError, match=r"network\.hidden is \[\]"):
        _ = MLP(hidden=[], activation="tanh").features


# ---------------------------------------------------------------- a member alone


@pytest.mark.parametrize("batch", [1, 16, 47, 48, 128])
@pytest.mark.parametrize(("inputs", "hidden", "outputs"), [(4, [64, 64], 1), (1, [64], 2), (3, [1, 256], 1), (7, [], 1)])
def test_a_member_gives_the_same_bits_alone(inputs: int, hidden: list[int], outputs: int, batch: int) -> None:
    """Values and gradients, also where a layer has one input or one output: there a member alone was rounded otherwise."""
    network = MLP(hidden=hidden, activation="tanh")
    layers, draw = fresh(network, (inputs,), outputs, (0, 1, 2)), torch.Generator().manual_seed(0)
    observation = torch.randn(3, batch, inputs, generator=draw)

    def run(rows: slice) -> list[Tensor]:
        leaves = {name: tensor[rows].clone().requires_grad_() for name, tensor in layers.items()}
        output = network(leaves, observation[rows].clone())
        with torch.no_grad():
            acted = network(leaves, observation[rows].clone())
        return [output.detach(), acted, *torch.autograd.grad(output.square().sum(), list(leaves.values()))]

    together = run(slice(0, 3))
    for member in range(3):
        for one, alone in zip(together, run(slice(member, member + 1)), strict=True):
            assert torch.equal(one[member], alone[0])
