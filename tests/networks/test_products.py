"""By which library the matrices of gradient steps are multiplied: what it changes, and what not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from parts import learner_of, make_learner, random_batches
from torch import Tensor

from sparserl.config.validation import compose
from sparserl.networks import products
from sparserl.networks.products import Products, is_zen_5, onednn_is_faster
from sparserl.training.step import GradientStep

MEMBERS, ROWS, INPUTS, UNITS = 3, 64, 256, 256

needs_zen_5 = pytest.mark.skipif(not onednn_is_faster(), reason="needs a processor where oneDNN is taken: AMD's Zen 5")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """The processor is asked once a process."""
    onednn_is_faster.cache_clear()
    yield
    onednn_is_faster.cache_clear()


def forms(members: slice = slice(None), dtype: torch.dtype = torch.float32, rounded: bool = False) -> dict[str, Tensor]:
    """The products of a linear layer: what it gives, and both gradients. Factors may be ``rounded`` to bfloat16."""
    generator = torch.Generator().manual_seed(0)
    shapes = (ROWS, INPUTS), (INPUTS, UNITS), (ROWS, UNITS)
    drawn = [torch.randn(MEMBERS, *shape, generator=generator)[members] for shape in shapes]
    x, weight, gradient = (factor.bfloat16().to(dtype) if rounded else factor.to(dtype) for factor in drawn)
    bias = torch.ones(len(x), 1, UNITS, dtype=dtype)
    return {
        "outputs": torch.baddbmm(bias, x, weight),
        "outputs, transposed": torch.baddbmm(bias.mT, weight.mT, x.mT).mT,
        "gradient of inputs": torch.bmm(gradient, weight.mT),
        "gradient of weights": torch.bmm(x.mT, gradient),
    }


LARGE = Products.of([torch.zeros(MEMBERS, INPUTS, UNITS)])

FLOAT32_ERROR = 1e-4
"""256 products of standard normal factors add up to about 16, and to 100 at most: 2^-24 of that, a few times."""


def test_products_are_those_of_float32() -> None:
    exact, rounded = forms(dtype=torch.float64), forms(rounded=True)
    with LARGE(ROWS):
        for name, product in forms().items():
            assert (product - exact[name]).abs().max() < FLOAT32_ERROR, name
            assert (rounded[name] - exact[name]).abs().max() > FLOAT32_ERROR, name  # what the permission must not lead to


@needs_zen_5
def test_they_are_by_another_library() -> None:
    """Which adds up long sums in another order."""
    by_mkl = forms()
    with LARGE(ROWS):
        assert not all(torch.equal(product, by_mkl[name]) for name, product in forms().items())


@pytest.mark.parametrize(
    ("algorithm", "hidden", "rows", "is_taken"),
    [
        ("td3", [256, 256], 64, True),
        ("td3", [256, 256, 8], 256, False),  # the last product of a critic has 8 weights a row
        ("dqn", [256, 256], 16, True),
        ("dqn", [256, 256], 8, False),  # two actions
        ("dqn", [256, 256], 5, False),
        ("dqn", [120, 84], 128, False),
    ],
)
def test_a_member_learns_what_it_would_alone(
    algorithm: str, hidden: Sequence[int], rows: int, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch leaves products of few numbers to MKL, and counts those of all members."""
    options = f"algorithm={algorithm}", f"environment={'cartpole' if algorithm == 'dqn' else 'pendulum'}", "regularizer=none"
    configs = [compose(*options, f"network.hidden={[*hidden]}") | {"seed": seed} for seed in range(MEMBERS)]
    batches = random_batches(2, MEMBERS, rows, algorithm)
    together, alone = learner_of(configs), learner_of(configs[1:2])
    for step, batch in enumerate(batches):
        together.update(batch, env_step=step)
        alone.update({name: its[1:2] for name, its in batch.items()}, env_step=step)
    for component, layers in alone.weights.items():
        for name, tensor in layers.items():
            assert torch.equal(tensor[0], together.weights[component][name][1]), (component, name)
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    with together._products(rows):
        assert (torch.backends.mkldnn.matmul.fp32_precision == "bf16") is is_taken


ZEN_5 = {"cpu_name": "AMD EPYC 9655", "avx512_f": True, "avx512_vp2intersect": True, "amx_tile": False}


@pytest.mark.parametrize(
    ("capabilities", "is_one"),
    [
        (ZEN_5, True),
        (ZEN_5 | {"avx512_vp2intersect": False}, False),  # Zen 4
        (ZEN_5 | {"cpu_name": "Intel Xeon Platinum 8488C"}, False),
        (ZEN_5 | {"amx_tile": True}, False),  # where it might round to bfloat16
        ({"architecture": "aarch64"}, False),
        ({}, False),  # PyTorch before 2.11 does not say
    ],
)
def test_processors_that_it_is_for(capabilities: Mapping[str, Any], is_one: bool) -> None:
    assert is_zen_5(capabilities) is is_one


def test_a_library_that_rounds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: ZEN_5, raising=False)
    multiply = Tensor.__matmul__

    def rounded(left: Tensor, right: Tensor) -> Tensor:
        may_round = left.dtype == torch.float32 and torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        return multiply(left.bfloat16().float(), right.bfloat16().float()) if may_round else multiply(left, right)

    monkeypatch.setattr(Tensor, "__matmul__", rounded)
    assert not onednn_is_faster()


@pytest.mark.parametrize(
    ("regularizer", "units", "taken"),
    [("none", 256, "bf16"), ("none", 120, "none"), ("l0", 256, "bf16"), ("l0_rank", 256, "none")],
)
def test_gradient_steps_of_large_matrices_take_it_and_nothing_after_them_does(
    regularizer: str, units: int, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of gates of directions do not: they have products of other sizes."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    matmul = torch.backends.mkldnn.matmul
    found = []

    def fail(*given: object) -> None:
        found.append(matmul.fp32_precision)
        raise RuntimeError

    monkeypatch.setattr(GradientStep, "__call__", fail)
    learner = make_learner(f"regularizer={regularizer}", f"network.hidden=[{units},{units}]", members=2)
    with pytest.raises(RuntimeError):
        learner.update(random_batches(1, 2, 16)[0], env_step=0)
    assert [*found, matmul.fp32_precision] == [taken, "none"]
