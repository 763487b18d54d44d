"""The convolutional network beside ordinary torch networks, one for each member."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import make_learner
from torch import Tensor, nn

from sparserl.algorithms.dqn import DQN
from sparserl.lowrank.accounting import DecomposedPolicy
from sparserl.lowrank.shrinking import Shrunken, shrink, sliced
from sparserl.lowrank.truncation import as_matrix, factored
from sparserl.networks import cnn
from sparserl.networks.base import Network
from sparserl.networks.cnn import CNN
from sparserl.networks.mlp import MLP
from sparserl.population.members import Population
from sparserl.types import Layers, Spec

SMALL = CNN(channels=[5, 6], kernel_sizes=[3, 2], strides=[2, 1], hidden=[7])
"""Of images of 2 x 9 x 8: 5 x 4 x 3 behind the first convolution, 6 x 3 x 2 behind the second."""
SHAPE = (2, 9, 8)
NATURE = CNN(channels=[32, 64, 64], kernel_sizes=[8, 4, 3], strides=[4, 2, 1], hidden=[512])


def fresh(network: Network, shape: tuple[int, ...], outputs: int, seeds: tuple[int, ...] = (0, 1, 2)) -> Layers:
    return network.init(shape, outputs, Population(seeds).generators("init"))


def one(layers: Layers, member: int) -> Layers:
    return {name: tensor[member] for name, tensor in layers.items()}


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ordinary(network: CNN, layers: Layers, channels: int) -> nn.Sequential:
    """What torch's own layers make of one member's weights; written without the network's module."""
    modules: list[nn.Module] = []
    for index, (outputs, size, stride) in enumerate(zip(network.channels, network.kernel_sizes, network.strides, strict=True)):
        convolution = nn.Conv2d(channels, outputs, size, stride)
        convolution.load_state_dict({name: layers[f"conv.{index}.{name}"].squeeze(0) for name in ("weight", "bias")})
        modules += [convolution, nn.ReLU()]
        channels = outputs
    modules.append(nn.Flatten())
    for index in range(len(network.hidden) + 1):
        weight, bias = layers[f"dense.{index}.weight"], layers[f"dense.{index}.bias"]
        linear = nn.Linear(*weight.shape)
        linear.load_state_dict({"weight": weight.T, "bias": bias.squeeze(0)})
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


# ---------------------------------------------------------------- what it computes


@pytest.mark.parametrize("batch", [1, 5, 50])
@pytest.mark.parametrize(("network", "shape"), [(SMALL, SHAPE), (NATURE, (4, 36, 44))], ids=["small", "nature"])
def test_each_member_is_an_ordinary_network(network: CNN, shape: tuple[int, ...], batch: int) -> None:
    """Values and gradients, but for rounding: torch sums otherwise where channels lie otherwise in memory."""
    layers = {name: tensor.requires_grad_() for name, tensor in fresh(network, shape, 3).items()}
    images = bytes_of(3, batch, *shape)
    output = network(layers, images)
    assert output.shape == (3, batch, 3)
    gradients = dict(zip(layers, torch.autograd.grad(output.square().sum(), list(layers.values())), strict=True))
    for member in range(3):
        torchs = ordinary(network, {name: tensor.detach() for name, tensor in one(layers, member).items()}, shape[0])
        expected = torchs(images[member] / 255)
        torch.testing.assert_close(output[member], expected, atol=1e-5, rtol=1e-5)
        found = one(gradients, member)
        wanted = torch.autograd.grad(expected.square().sum(), list(torchs.parameters()))
        for (name, gradient), its in zip(found.items(), wanted, strict=True):
            as_ours = its.T if name.startswith("dense") and name.endswith("weight") else its
            scale = float(its.abs().max())
            torch.testing.assert_close(gradient, as_ours.view_as(gradient), atol=1e-5 * scale, rtol=1e-4)


@given(
    members=st.integers(1, 3),
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    convolutions=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3),
    hidden=st.lists(st.integers(1, 6), max_size=2),
    more=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
@settings(deadline=None, max_examples=40)
def test_each_member_is_the_module_that_it_exports(
    members: int,
    batch: int,
    channels: int,
    convolutions: list[tuple[int, int, int]],
    hidden: list[int],
    more: tuple[int, int],
) -> None:
    """At all sizes from the smallest image on that reaches the output."""
    network = CNN(*(list(values) for values in zip(*convolutions, strict=True)), hidden=hidden)
    shape = (channels, network.smallest + more[0], network.smallest + more[1])
    layers = fresh(network, shape, 2, tuple(range(members)))
    images = bytes_of(members, batch, *shape)
    output = network(layers, images)
    for member in range(members):
        module = network.module(one(layers, member))
        torch.testing.assert_close(output[member], module(images[member]), atol=1e-5, rtol=1e-5)
        holding = [part for part in module.modules() if list(part.parameters(recurse=False))]
        assert {type(part) for part in holding} == {nn.Conv2d, nn.Linear}
        assert sum(p.numel() for p in module.parameters()) == sum(tensor[member].numel() for tensor in layers.values())


def test_a_network_worked_by_hand() -> None:
    """One kernel of two pixels side by side, [1, -2], over the image [[51, 102, 0], [0, 255, 51]].

    In [0, 1] that is [[0.2, 0.4, 0], [0, 1, 0.2]]. The convolution gives 0.2 - 0.8 = -0.6 and 0.4 above, 0 - 2 = -2 and
    1 - 0.4 = 0.6 below, each plus a bias of 0.1; the ReLU leaves [0, 0.5, 0, 0.7]. The output weighs them with 1, 2, 3, 4 and
    adds 5: 1.0 + 2.8 + 5 = 8.8. A kernel of 1 x 2 is a square one of which a row is 0.
    """
    network = CNN(channels=[1], kernel_sizes=[2], strides=[1], hidden=[])
    layers = {
        "conv.0.weight": torch.tensor([[1.0, -2.0], [0.0, 0.0]]).view(1, 1, 1, 2, 2),
        "conv.0.bias": torch.tensor([[[0.1]]]),
        "dense.0.weight": torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]),
        "dense.0.bias": torch.tensor([[[5.0]]]),
    }
    image = torch.tensor([[51, 102, 0], [0, 255, 51], [0, 0, 0]], dtype=torch.uint8).view(1, 1, 1, 3, 3)
    torch.testing.assert_close(network(layers, image), torch.tensor([[[8.8]]]))
    # numbers that are not bytes are taken as they are
    torch.testing.assert_close(network(layers, image / 255), torch.tensor([[[8.8]]]))
    assert network.module(one(layers, 0))(image[0] / 255).item() == pytest.approx(8.8)


def test_without_gradients_images_go_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, images = fresh(SMALL, SHAPE, 3), bytes_of(3, 11, *SHAPE)
    whole = SMALL(layers, images)
    monkeypatch.setattr(cnn, "AT_ONCE", 4)
    with torch.no_grad():
        torch.testing.assert_close(SMALL(layers, images), whole, atol=1e-6, rtol=1e-5)


def test_members_see_their_own_images_only() -> None:
    layers = fresh(SMALL, SHAPE, 2)
    images = torch.rand(3, 4, *SHAPE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(SMALL(layers, images)[0].sum(), images)
    assert (gradient[0] != 0).any()
    assert (gradient[1:] == 0).all()


def test_a_member_gives_the_same_alone_but_for_rounding() -> None:
    """As ``exact`` says of it. A hundredth of the tolerance is what another order of a sum changes."""
    assert MLP.exact
    assert not CNN.exact
    layers, images = fresh(NATURE, (4, 40, 40), 3), bytes_of(3, 33, 4, 40, 40)

    def run(rows: slice) -> list[Tensor]:
        leaves = {name: tensor[rows].clone().requires_grad_() for name, tensor in layers.items()}
        output = NATURE(leaves, images[rows])
        return [output.detach(), *torch.autograd.grad(output.square().sum(), list(leaves.values()))]

    together = run(slice(0, 3))
    for member in range(3):
        for whole, alone in zip(together, run(slice(member, member + 1)), strict=True):
            scale = float(alone.abs().max())
            torch.testing.assert_close(whole[member], alone[0], atol=1e-4 * scale, rtol=0)


# ---------------------------------------------------------------- how it starts


def test_weights_start_within_one_over_the_root_of_what_they_see() -> None:
    layers = fresh(NATURE, (4, 84, 84), 6, (0, 1))
    sizes = {
        "conv.0": ((32, 4, 8, 8), 4 * 64),
        "conv.1": ((64, 32, 4, 4), 32 * 16),
        "conv.2": ((64, 64, 3, 3), 64 * 9),
        "dense.0": ((3136, 512), 3136),
        "dense.1": ((512, 6), 512),
    }
    assert len(layers) == 2 * len(sizes)
    for name, (shape, inputs) in sizes.items():
        weight, bias = layers[f"{name}.weight"], layers[f"{name}.bias"]
        assert weight.shape == (2, *shape)
        assert bias.shape == (2, 1, shape[1] if name.startswith("dense") else shape[0])
        assert max(weight.abs().max(), bias.abs().max()) <= 1 / math.sqrt(inputs)
        # uniform in [-1, 1]: variance 1/3 +- sqrt(4/45 / n); five of them
        scaled = weight.flatten(1) * math.sqrt(inputs)
        assert (scaled.var(dim=1) - 1 / 3).abs().max() < 5 * math.sqrt(4 / 45 / scaled.shape[1])


def test_orthogonal_kernels_are_orthogonal_matrices() -> None:
    network = CNN(channels=[5, 6], kernel_sizes=[3, 2], strides=[2, 1], hidden=[7], initialization="orthogonal")
    layers = network.init(SHAPE, 3, Population((0, 1)).generators("init"), gain=0.01)
    for name, matrix in network.structure(SHAPE).items():
        for member in range(2):
            weight = as_matrix(layers[name][member], matrix)
            fewer = weight if len(weight) < weight.shape[1] else weight.T
            norm = 0.01 if not matrix.feeds else math.sqrt(2)
            torch.testing.assert_close(fewer @ fewer.T, norm**2 * torch.eye(len(fewer)), atol=1e-6, rtol=1e-5)
    assert all((tensor == 0).all() for name, tensor in layers.items() if name.endswith("bias"))


@pytest.mark.parametrize("initialization", ["uniform", "orthogonal"])
def test_a_members_first_weights_are_those_of_its_seed_whatever_the_others_are(
    initialization: Literal["uniform", "orthogonal"],
) -> None:
    network = CNN([5, 6], [3, 2], [2, 1], [7], initialization)
    together, alone = fresh(network, SHAPE, 2, (7, 8, 9)), fresh(network, SHAPE, 2, (8,))
    for name, tensor in alone.items():
        assert torch.equal(together[name][1:2], tensor)
        if name.endswith("weight"):
            assert not torch.equal(together[name][0], together[name][1])


# ---------------------------------------------------------------- which weight feeds which


def test_the_structure_of_a_worked_example() -> None:
    """Behind the convolutions images of 9 x 8 are (9 - 3) // 2 + 1 = 4 by 3 and 3 by 2: kernels have 12 and 6 positions."""
    structure = SMALL.structure(SHAPE)
    assert list(structure) == [name for name in fresh(SMALL, SHAPE, 2) if name.endswith("weight")]
    assert {name: (its.layout, its.feeds, its.positions) for name, its in structure.items()} == {
        "conv.0.weight": ("kernel", ("conv.1.weight",), 12),
        "conv.1.weight": ("kernel", ("dense.0.weight",), 6),
        "dense.0.weight": ("linear", ("dense.1.weight",), 1),
        "dense.1.weight": ("linear", (), 1),
    }


def test_a_channel_feeds_its_positions_side_by_side() -> None:
    """Without what channel 4 of the last convolution feeds, inputs 24 to 29, changing its kernel changes nothing."""
    layers = fresh(SMALL, SHAPE, 2)
    images = bytes_of(3, 4, *SHAPE)
    layers["dense.0.weight"][:, 24:30] = 0
    before = SMALL(layers, images)
    layers["conv.1.weight"][:, 4] += 1
    torch.testing.assert_close(SMALL(layers, images), before)
    alive = shrink(one(layers, 0), SMALL.structure(SHAPE)).alive
    assert {name: (~units).nonzero().flatten().tolist() for name, units in alive.items()} == {
        "conv.0.weight": [],
        "conv.1.weight": [4],
        "dense.0.weight": [],
    }
    layers["conv.1.weight"][:, 3] += 1
    assert (SMALL(layers, images) - before).abs().max() > 1e-3, "or this test sees nothing"


# ---------------------------------------------------------------- factors


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_factored_module_computes_with_the_truncated_weights(k: int) -> None:
    layers, images = fresh(SMALL, SHAPE, 3), bytes_of(3, 6, *SHAPE)
    structure = SMALL.structure(SHAPE)
    truncated = {name: tensor.clone() for name, tensor in layers.items()}
    pairs = 0
    for member in range(3):
        policy = DecomposedPolicy(Shrunken(one(layers, member), {}, structure))
        cut = policy.cut(k)
        for name, product in policy.layers(cut).items():
            truncated[name][member] = product
        pairs = sum(rank is not None for rank in cut)
    output, before = SMALL(truncated, images), SMALL(layers, images)
    for member in range(3):
        module = factored(SMALL.module(one(layers, member)), k)
        torch.testing.assert_close(output[member], module(images[member]), atol=1e-5, rtol=1e-5)
        assert sum(isinstance(part, nn.Sequential) for part in module.modules()) == 1 + pairs
    assert pairs, "something must be cut, or this test sees nothing"
    assert (output - before).abs().max() > 1e-4


@given(density=st.floats(0.0, 0.5), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_without_the_channels_and_units_that_do_nothing_it_computes_the_same(density: float, seed: int) -> None:
    """Also where no channel is left: torch has no convolution without any, so one that gives zeros stays."""
    draw = torch.Generator().manual_seed(seed)
    layers, images = one(fresh(SMALL, SHAPE, 3), 0), bytes_of(6, *SHAPE)
    for name in SMALL.structure(SHAPE):
        layers[name] = layers[name] * (torch.rand(layers[name].shape, generator=draw) < density)
    layers["conv.0.weight"][2] = 0  # at least this channel is constant
    shrunken = shrink(layers, SMALL.structure(SHAPE))
    assert shrunken.changed
    smaller = sliced(SMALL.module(shrunken.layers), shrunken)
    torch.testing.assert_close(smaller(images), SMALL.module(layers)(images), atol=1e-5, rtol=1e-5)
    matrices = [part.weight for part in smaller.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert sum(weight.numel() for weight in matrices) == shrunken.weights


# ---------------------------------------------------------------- trunk and head


@pytest.mark.parametrize("hidden", [[7], [7, 6]])
def test_a_trunk_and_a_head_are_the_whole_network(hidden: list[int]) -> None:
    network = CNN(channels=[5, 6], kernel_sizes=[3, 2], strides=[2, 1], hidden=hidden)
    trunk, head, last = network.trunk(), network.head(), f"dense.{len(hidden)}."
    layers = {name: tensor.requires_grad_() for name, tensor in fresh(network, SHAPE, 3).items()}
    split = {name: tensor for name, tensor in layers.items() if not name.startswith(last)}
    final = {name.replace(last, "0."): tensor for name, tensor in layers.items() if name.startswith(last)}
    assert {name: tensor.shape for name, tensor in fresh(trunk, SHAPE, network.features).items()} == {
        name: tensor.shape for name, tensor in split.items()
    }
    images = bytes_of(3, 4, *SHAPE)
    whole, parts = network(layers, images), head(final, trunk(split, images))
    torch.testing.assert_close(whole, parts)
    found = [torch.autograd.grad(output.square().sum(), list(layers.values())) for output in (whole, parts)]
    for one_, other in zip(*found, strict=True):
        torch.testing.assert_close(one_, other)
    detached = {name: tensor.detach() for name, tensor in split.items()}
    module = nn.Sequential(trunk.module(one(detached, 1)), head.module(one(final, 1)))
    torch.testing.assert_close(module(images[1]), whole[1])
    assert list(trunk.structure(SHAPE)) == [name for name in split if name.endswith("weight")]


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((4,), r"for images \[channels, height, width\], and is given \[4\]; choose network=mlp"),
        ((84, 84), r"is given \[84, 84\]; choose network=mlp"),
        ((4, 35, 84), r"36 x 36 pixels or more, and is given \[4, 35, 84\].*lower network\.kernel_sizes"),
        # channels last, as Gymnasium's images are: 84 channels of 84 x 3 pixels
        ((84, 84, 3), r"is given \[84, 84, 3\] \(channels, height, width\)"),
    ],
)
def test_what_is_no_image_or_too_small_is_refused(shape: tuple[int, ...], sentence: str) -> None:
    algorithm = make_learner("algorithm=dqn", "regularizer=none").algorithm
    assert isinstance(algorithm, DQN)
    object.__setattr__(algorithm, "network", NATURE)
    with pytest.raises(ValueError, match=sentence):
        algorithm.bind(Spec(shape, discrete_actions=2))
    algorithm.bind(Spec((4, 36, 36), discrete_actions=2))


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (([8], [3, 3], [1]), r"network\.kernel_sizes is \[3, 3\] and network\.channels \[8\]"),
        (([8], [3], []), r"network\.strides is \[\]"),
        (([], [], []), r"network\.kernel_sizes is \[\].*one or more convolutions"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[list[int], list[int], list[int]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CNN(*sizes, hidden=[4])
