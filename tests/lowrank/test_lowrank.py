"""Factors, and what they cost: against theory, against counting, and against the layers that they stand for."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from folders import only_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import environment_for, make_learner, modules
from torch import Tensor, nn

from sparserl import load_policy
from sparserl.lowrank.accounting import VALUE_BYTES, DecomposedPolicy, csr_bytes, sparse_bytes, stored
from sparserl.lowrank.shrinking import Shrunken
from sparserl.lowrank.truncation import Decomposition, as_matrix, as_weight, break_even, factored, layers_of, ranks
from sparserl.networks.base import Matrix, Structure
from sparserl.networks.mlp import MLP
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.runs.files import joined
from sparserl.runs.schema import Rank
from sparserl.types import Layers, Spec


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_rank(rank: int, rows: int, columns: int) -> Tensor:
    return normal(rows, rank) @ normal(rank, columns, seed=1)


def mlp(*sizes: int) -> Layers:
    network = MLP(hidden=sizes[1:-1], activation="relu")
    return split(network.init(sizes[:1], sizes[-1], Population((0,)).generators("init")), 0)


def saved(folder: Path, layers: Layers) -> Path:
    """A run's folder with nothing in it but this policy."""
    sizes = [tensor.shape for name, tensor in layers.items() if name.endswith(".weight")]
    network = {"_target_": "sparserl.networks.mlp.MLP", "hidden": [units for _, units in sizes[:-1]], "activation": "relu"}
    return only_policy(folder, network, Spec((sizes[0][0],), sizes[-1][1]), {"policy": layers})


def decomposed(layers: Layers) -> DecomposedPolicy:
    """Of layers in a chain."""
    names = [name for name in layers if name.endswith(".weight")]
    return DecomposedPolicy(Shrunken(layers, {}, chain(*names)))


def chain(*names: str) -> Structure:
    """Linear layers, each of which feeds the next."""
    return {name: Matrix("linear", (following,)) for name, following in pairwise(names)} | {names[-1]: Matrix("linear")}


# ---------------------------------------------------------------- truncation


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_the_error_is_the_tail_of_the_singular_values(rows: int, columns: int, seed: int) -> None:
    """Eckart, Young 1936: in the Frobenius norm all of the tail, in the spectral norm the first of it."""
    matrix = normal(rows, columns, seed=seed)
    values = torch.linalg.svdvals(matrix.double())
    for rank in range(1, min(rows, columns) + 1):
        left, right = Decomposition.of(matrix).factors(rank)
        assert left.dtype == right.dtype == torch.float32
        assert (left.shape, right.shape) == ((rows, rank), (rank, columns))
        error = matrix.double() - left.double() @ right.double()
        tail = torch.cat([values[rank:], values.new_zeros(1)])
        # what is stored is float32: six digits of the largest singular value
        tolerance = 1e-6 * rank * float(values[0])
        assert float(error.norm()) == pytest.approx(float(tail.norm()), abs=tolerance)
        assert float(torch.linalg.matrix_norm(error, 2)) == pytest.approx(float(tail[0]), abs=tolerance)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_a_known_rank_is_found_in_spite_of_rounding(rank: int) -> None:
    """The product is rounded to float32, so in float64 it has full rank."""
    matrix = of_rank(rank, 20, 30)
    assert int(torch.linalg.matrix_rank(matrix.double())) == 20
    decomposition = Decomposition.of(matrix)
    assert decomposition.numerical_rank == rank
    # the break-even is 599 // 50 = 11: whatever is cut at more than the rank is cut at the rank, above the break-even too
    assert [decomposition.cut(k) for k in (1, rank, 11, 12, 20)] == [1, rank, rank, rank, rank]
    left, right = decomposition.factors(rank)
    torch.testing.assert_close(left @ right, matrix, atol=1e-5, rtol=1e-5)


def test_zeros_have_rank_one_and_stay_zeros() -> None:
    decomposition = Decomposition.of(torch.zeros(10, 10))
    assert (decomposition.numerical_rank, decomposition.effective_rank) == (1, 0.0)
    left, right = decomposition.factors(1)
    assert torch.equal(left @ right, torch.zeros(10, 10))


def test_what_is_not_finite_stays_so() -> None:
    """A member that broke must look broken at every rank, and its SVD must not end the sweep of the others."""
    matrix = normal(10, 10)
    matrix[3, 4] = float("nan")
    decomposition = Decomposition.of(matrix)
    left, right = decomposition.factors(2)
    assert (left @ right).isnan().all()
    assert decomposition.cut(4) == 4
    assert math.isnan(decomposition.effective_rank)


@given(rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_the_break_even_is_the_last_rank_that_saves_anything(rows: int, columns: int) -> None:
    largest = break_even(rows, columns)
    assert largest == max((k for k in range(1, 41) if k * (rows + columns) < rows * columns), default=0)


@pytest.mark.parametrize(
    ("shape", "largest"),
    [
        ((120, 84), 49),
        ((256, 256), 127),  # at 128 the factors are as large as the matrix: nothing is gained
        ((64, 4), 3),  # one less than its full rank of 4
        ((2, 128), 1),
        ((2, 2), 0),
        ((1, 1000), 0),
    ],
)
def test_known_break_evens(shape: tuple[int, int], largest: int) -> None:
    decomposition = Decomposition.of(normal(*shape))
    assert break_even(*shape) == largest
    assert decomposition.cut(largest + 1) is None
    assert largest == 0 or decomposition.cut(largest) == largest


@pytest.mark.parametrize(
    ("kind", "shape", "rows", "columns"),
    [
        ("linear", (4, 7), 7, 4),
        ("kernel", (5, 3, 2, 2), 5, 12),
        ("kernel", (5, 3, 2), 5, 6),  # of a convolution over one dimension
        ("kernel", (4, 7), 4, 7),  # as many dimensions as a linear weight has
    ],
)
def test_the_structure_says_how_a_weight_is_a_matrix_of_its_outputs(
    kind: Literal["linear", "kernel"], shape: tuple[int, ...], rows: int, columns: int
) -> None:
    weight, structure = normal(*shape), Matrix(kind)
    matrix = as_matrix(weight, structure)
    assert matrix.shape == (rows, columns)
    assert torch.equal(matrix[1], weight[:, 1] if kind == "linear" else weight[1].flatten())
    assert torch.equal(as_weight(matrix, structure, weight.shape), weight)


def test_the_effective_rank_of_equal_singular_values_is_their_number() -> None:
    assert Decomposition.of(3 * torch.eye(7)).effective_rank == pytest.approx(7)
    assert Decomposition.of(of_rank(1, 9, 5)).effective_rank == pytest.approx(1, abs=1e-3)
    # values 3 and 1: the entropy of (3/4, 1/4), in closed form
    closed = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert Decomposition.of(torch.diag(torch.tensor([1.0, 3.0, 0.0]))).effective_rank == pytest.approx(closed)


# ---------------------------------------------------------------- modules


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 20])
def test_a_loaded_policy_is_cut_as_it_was_evaluated(k: int, tmp_path: Path) -> None:
    """Of 4-12-10-2 the layers break even at 2, 5 and 1: at 3 the hidden one alone is factored, at 6 none."""
    layers = mlp(4, 12, 10, 2)
    module = load_policy(saved(tmp_path, layers), rank=k)
    policy = decomposed(layers)
    cut = policy.cut(k)
    assert cut == tuple(k if k <= largest else None for largest in (2, 5, 1))
    pairs = [part for part in module if isinstance(part, nn.Sequential)]
    assert len(pairs) == sum(rank is not None for rank in cut)
    for first, second in pairs:
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        assert first.bias is None
        assert first.out_features == second.in_features == k
    network = MLP(hidden=(12, 10), activation="relu")
    evaluated = {name: tensor.unsqueeze(0) for name, tensor in policy.layers(cut).items()}
    observation = normal(1, 50, 4)
    torch.testing.assert_close(module(observation[0]), network(evaluated, observation)[0], atol=1e-6, rtol=1e-5)
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("ranks", [(1, 4, None), (None, 2, 1), (2, 5, 1)])
def test_a_policy_is_loaded_with_a_rank_for_each_layer(ranks: tuple[int | None, ...], tmp_path: Path) -> None:
    layers = mlp(4, 12, 10, 2)
    module = load_policy(saved(tmp_path, layers), rank=ranks)
    linear = [part for part in module if isinstance(part, nn.Linear | nn.Sequential)]
    assert tuple(part[0].out_features if isinstance(part, nn.Sequential) else None for part in linear) == ranks
    evaluated = {name: tensor.unsqueeze(0) for name, tensor in decomposed(layers).layers(ranks).items()}
    observation = normal(1, 50, 4)
    network = MLP(hidden=(12, 10), activation="relu")
    torch.testing.assert_close(module(observation[0]), network(evaluated, observation)[0], atol=1e-6, rtol=1e-5)


def test_ranks_that_are_more_or_fewer_than_the_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^2 ranks are given \(4 full\), and the policy has 3 layers$"):
        load_policy(saved(tmp_path, mlp(4, 12, 10, 2)), rank=(4, None))


@pytest.mark.parametrize("name", modules("algorithms"))
def test_layers_of_every_policy_come_in_the_order_of_its_spectrum(name: str) -> None:
    """What a rank by layer is given by, in files and to ``load_policy``: the same layers, told apart by their sizes."""
    algorithm = make_learner(f"algorithm={name}", f"environment={environment_for(name)}", "network.hidden=[7,9]").algorithm
    weights = split(algorithm.init(Population((0,))), 0)
    structure, layers = algorithm.policy_structure(), joined(weights, algorithm.policy)
    shapes = [tuple(as_matrix(layers[layer], its).shape) for layer, its in structure.items()]
    assert [tuple(layer.weight.shape) for layer in layers_of(algorithm.policy_module(weights))] == shapes
    assert len({*shapes}) == len(shapes) >= 3


@pytest.mark.parametrize(
    ("text", "expected"), [("4", 4), ("4,16,full", (4, 16, None)), ("4 16 full", (4, 16, None)), ("full,2", (None, 2))]
)
def test_ranks_are_read_from_a_command_line(text: str, expected: object) -> None:
    assert ranks(text) == expected


@pytest.mark.parametrize("text", ["", "full", "half", "4,x"])
def test_what_names_no_rank_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no rank|invalid literal"):
        ranks(text)


def test_a_rank_above_all_break_evens_is_the_whole_policy(tmp_path: Path) -> None:
    saved(tmp_path, mlp(4, 12, 10, 2))
    whole, same = load_policy(tmp_path).state_dict(), load_policy(tmp_path, rank=6).state_dict()
    assert whole.keys() == same.keys()
    assert all(torch.equal(whole[name], same[name]) for name in whole)


@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_below_one_is_refused(rank: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^rank is {rank}; it must be 1 or more"):
        load_policy(saved(tmp_path, mlp(4, 12, 2)), rank=rank)


@pytest.mark.parametrize("bias", [True, False])
def test_a_factored_convolution_is_the_convolution_of_the_truncated_kernel(bias: bool) -> None:
    convolution = nn.Conv2d(3, 16, 4, stride=2, padding=1, dilation=2, bias=bias)
    image, rank = normal(2, 3, 17, 19), 5
    left, right = Decomposition.of(convolution.weight.flatten(1)).factors(rank)
    truncated = (left @ right).view(convolution.weight.shape)
    expected = nn.functional.conv2d(image, truncated, convolution.bias, stride=2, padding=1, dilation=2)
    pair = factored(nn.Sequential(convolution), rank)
    torch.testing.assert_close(pair(image), expected, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in pair.parameters()) == rank * (16 + 3 * 16) + 16 * bias


# ---------------------------------------------------------------- accounting


class Counted:
    """Counts the multiply-adds of a module by what goes through its layers for one observation."""

    def __init__(self, module: nn.Module) -> None:
        self.macs = 0
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.register_forward_hook(self._add)

    def _add(self, part: Any, _: Any, output: Tensor) -> None:
        places = output[0, 0].numel()  # a kernel's output positions; one for a linear layer
        self.macs += part.weight.numel() * places


@pytest.mark.parametrize("k", [1, 2, 3, 5, "full"])
def test_accounting_counts_what_a_factored_policy_holds_and_does(k: Any, tmp_path: Path) -> None:
    layers = mlp(4, 12, 10, 2)
    module = load_policy(saved(tmp_path, layers), rank=None if k == "full" else k)
    counted = Counted(module)
    module(normal(1, 4))
    policy = decomposed(layers)
    row = policy.cost(policy.cut(k))
    matrices = [tensor for name, tensor in module.named_parameters() if name.endswith("weight")]
    assert row.parameters == sum(matrix.numel() for matrix in matrices)
    assert all(matrix.element_size() == VALUE_BYTES for matrix in matrices)
    assert row.macs == counted.macs
    assert row.compression == pytest.approx(1 - row.parameters / (4 * 12 + 12 * 10 + 10 * 2))


@pytest.mark.parametrize("k", [1, 6, 12, 13, "full"])
def test_a_kernel_is_stored_once_and_applied_at_each_position(k: Any) -> None:
    """16 kernels of 3 x 4 x 4 (break-even 767 // 64 = 11) at 8 x 9 positions, then 1152 inputs to 5 outputs (4)."""
    module = nn.Sequential(nn.Conv2d(3, 16, 4, stride=2, padding=1), nn.Flatten(), nn.Linear(16 * 8 * 9, 5))
    layers = {"0.weight": module[0].weight.detach(), "1.weight": module[2].weight.detach().T}
    structure = {"0.weight": Matrix("kernel", ("1.weight",), positions=8 * 9), "1.weight": Matrix("linear")}
    policy = DecomposedPolicy(Shrunken(layers, {}, structure))
    row = policy.cost(policy.cut(k))
    cut = module if k == "full" else factored(module, k)
    counted = Counted(cut)
    cut(normal(1, 3, 16, 18))
    assert row.macs == counted.macs
    assert row.parameters == sum(p.numel() for name, p in cut.named_parameters() if name.endswith("weight"))
    if k in (12, 13, "full"):
        assert (row.parameters, row.macs) == (16 * 48 + 1152 * 5, 16 * 48 * 72 + 1152 * 5)
    if k == 6:
        assert (row.parameters, row.macs) == (6 * (16 + 48) + 1152 * 5, 6 * (16 + 48) * 72 + 1152 * 5)


def test_a_matrix_below_the_cut_stores_its_numerical_rank() -> None:
    """Above the break-even too: there its factors are no larger than at any other rank."""
    layers = {"0.weight": of_rank(2, 20, 30)}
    policy = decomposed(layers)
    assert policy.largest_rank == 11
    ranks: list[Rank] = [1, 2, 3, 11, 12, 600, "full"]
    assert [policy.cost(policy.cut(k)).parameters for k in ranks] == [50, 100, 100, 100, 100, 100, 600]
    assert policy.cut(2) == policy.cut(11) == policy.cut(12) == (2,)


@given(sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_a_higher_rank_never_compresses_more(sizes: list[tuple[int, int]], seed: int) -> None:
    """``sizes`` are units and the rank of the matrix before them. RankAssignment at its own rank it stays so at a higher k."""
    layers = {
        f"{index}.weight": normal(inputs, rank, seed=seed) @ normal(rank, outputs, seed=seed + 1)
        for index, ((inputs, _), (outputs, rank)) in enumerate(pairwise(sizes))
    }
    policy = decomposed(layers)
    ranks: list[Rank] = [*range(1, 14), "full"]
    rows = [policy.cost(policy.cut(k)) for k in ranks]
    compressions = [row.compression for row in rows]
    assert compressions == sorted(compressions, reverse=True)
    assert compressions[-1] == 0
    # whichever is smaller, also above the break-even: the matrix, or factors at k or its own rank
    matrices = [(*shape, rank) for (_, rank), shape in zip(sizes[1:], pairwise(units for units, _ in sizes), strict=True)]
    smallest = [sum(min(m * n, min(k, rank, m, n) * (m + n)) for m, n, rank in matrices) for k in range(1, 14)]
    assert [row.parameters for row in rows[:-1]] == smallest


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_csr_is_counted_as_torch_stores_it() -> None:
    matrix = normal(30, 20) * (normal(30, 20, seed=1) > 1)
    csr = matrix.to_sparse_csr()
    values, columns, rows = csr.values(), csr.col_indices().int(), csr.crow_indices().int()
    assert 0 < len(values) < 600
    assert csr_bytes(matrix) == sum(tensor.numel() * tensor.element_size() for tensor in (values, columns, rows))
    assert csr_bytes(torch.ones(30, 20)) > 4 * 600, "without zeros it takes more than the matrix"


def with_ones(rows: int, columns: int, count: int) -> Tensor:
    """A matrix whose first ``count`` numbers are 1, and the others 0."""
    return (torch.arange(rows * columns) < count).float().view(rows, columns)


@pytest.mark.parametrize(
    ("rows", "columns", "count", "indices"),
    [
        (84, 120, 2000, 84 * 120 // 8),  # a bit for each weight is less than a byte for each that is left
        (2, 256, 20, 20 + 3),  # a column of one byte each, and three bounds of rows
        (300, 300, 3, 3 * (2 + 2)),  # a row and a column of two bytes each; only bounds of rows would take 301 bytes
        (2, 257, 20, 20 * 2 + 3),  # 257 columns do not fit into a byte
        (1, 1000, 255, -(-1000 // 8)),
        (3, 3, 0, 0),
        (3, 3, 9, 2),  # nine bits need two bytes
    ],
    ids=["bitmap", "CSR", "coordinates", "CSR with wide indices", "one row", "nothing", "without zeros"],
)
def test_sparse_weights_are_counted_in_the_form_that_takes_least(rows: int, columns: int, count: int, indices: int) -> None:
    assert sparse_bytes(with_ones(rows, columns, count)) == 4 * count + indices


def test_78_percent_zeros_of_the_papers_network_take_half_of_what_csr_with_int32_takes() -> None:
    """2,390 of 10,728 weights in layers of 4 x 120, 120 x 84 and 84 x 2: four bytes for each of them, and a bit for all."""
    matrices = [with_ones(120, 4, 107), with_ones(84, 120, 2246), with_ones(2, 84, 37)]
    assert sum(map(sparse_bytes, matrices)) == 4 * 2390 + 10728 // 8 == 10901
    assert sum(map(csr_bytes, matrices)) == 8 * 2390 + 4 * (121 + 85 + 3)


def test_stored_is_the_matrix_or_its_factors() -> None:
    assert (stored(20, 30, None), stored(20, 30, 7)) == (600, 7 * 50)


def test_energy_is_that_of_all_layers_and_one_at_full_rank() -> None:
    """Singular values 4, 2 and 1 in a layer that can be cut, 3 in one that stays whole."""
    first, second = torch.zeros(10, 10), torch.zeros(10, 1)
    first[0, 0], first[1, 1], first[2, 2], second[0, 0] = 4.0, 2.0, 1.0, 3.0
    policy = decomposed({"0.weight": first, "1.weight": second})
    ranks: list[Rank] = [1, 2, 3, 4, "full"]
    energies = [policy.energy(policy.cut(k)) for k in ranks]
    assert energies == pytest.approx([(16 + 9) / 30, (20 + 9) / 30, 1, 1, 1])
    assert energies[-1] == 1.0
    assert decomposed({"0.weight": torch.zeros(10, 10)}).energy((1,)) == 1.0


def test_the_spectrum_is_of_the_hardened_weights() -> None:
    layers = mlp(4, 12, 10, 2)
    lines = decomposed(layers).spectrum({})
    assert [(line.layer, line.index) for line in lines] == [
        (n, i) for n, q in zip("012", (4, 10, 2), strict=True) for i in range(1, q + 1)
    ]
    values = torch.linalg.svdvals(layers["1.weight"].double()).tolist()
    assert [line.singular_value for line in lines if line.layer == "1"] == pytest.approx(values, rel=1e-12)
