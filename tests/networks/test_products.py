"""By which library the matrices of gradient steps are multiplied: what it changes, and what not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from parts import make_learner, random_batches
from torch import Tensor

from sparserl.networks import products
from sparserl.networks.products import is_zen_5, onednn_is_faster, products_for
from sparserl.training.step import GradientStep

MEMBERS, ROWS, INPUTS, UNITS = 3, 64, 256, 256


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


LARGE = torch.zeros(MEMBERS, INPUTS, UNITS)


FLOAT32_ERROR = 1e-4
"""256 products of standard normal factors add up to about 16, and to 100 at most: 2^-24 of that, a few times."""


def test_products_are_those_of_float32() -> None:
    exact, rounded = forms(dtype=torch.float64), forms(rounded=True)
    with products_for([LARGE])():
        for name, product in forms().items():
            assert (product - exact[name]).abs().max() < FLOAT32_ERROR, name
            assert (rounded[name] - exact[name]).abs().max() > FLOAT32_ERROR, name  # what the permission must not lead to


def test_products_of_a_member_are_those_it_would_have_alone() -> None:
    with products_for([LARGE])():
        together = forms()
        for member in range(MEMBERS):
            for name, product in forms(slice(member, member + 1)).items():
                assert torch.equal(product[0], together[name][member]), name


ZEN_5 = {"cpu_name": "AMD EPYC 9655", "avx512_f": True, "avx512_vp2intersect": True, "amx_tile": False}


@pytest.mark.parametrize(
    ("capabilities", "is_one"),
    [
        (ZEN_5, True),
        (ZEN_5 | {"avx512_vp2intersect": False}, False),  # Zen 4
        (ZEN_5 | {"cpu_name": "Intel Xeon Platinum 8488C"}, False),
        (ZEN_5 | {"amx_tile": True}, False),  # where it might round to bfloat16
        ({"architecture": "aarch64"}, False),
        ({}, False),
    ],
)
def test_processors_that_it_is_for(capabilities: Mapping[str, Any], is_one: bool) -> None:
    assert is_zen_5(capabilities) is is_one


@pytest.mark.parametrize(("units", "taken"), [(256, "bf16"), (120, "none")])
def test_gradient_steps_of_large_matrices_take_it_and_nothing_after_them_does(
    units: int, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "is_zen_5", lambda capabilities: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    matmul = torch.backends.mkldnn.matmul
    found = []

    def fail(*given: object) -> None:
        found.append(matmul.fp32_precision)
        raise RuntimeError

    monkeypatch.setattr(GradientStep, "__call__", fail)
    learner = make_learner(f"network.hidden=[{units},{units}]", members=2)
    with pytest.raises(RuntimeError):
        learner.update(random_batches(1, 2, 16)[0], env_step=0)
    assert [*found, matmul.fp32_precision] == [taken, "none"]
