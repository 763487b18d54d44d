"""Products of matrices: eager ones, those that are traced for a program, and what a program computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparserl.networks.products import affine, as_products_are, kernel, product, product_of_batch, traced_for_program

MEMBERS = 3
sizes = st.integers(1, 70)  # on both sides of the batches that are computed as columns


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(MEMBERS, *shape, generator=torch.Generator().manual_seed(seed))


def laid_out_otherwise(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT


def close(found: Tensor, left: Tensor, right: Tensor) -> bool:
    """Up to rounding of as many terms of about 1 as there are, beside the exact product of the same numbers."""
    return bool((found.double() - left.double() @ right.double()).abs().max() < 1e-5 * left.shape[2] ** 0.5)


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, sizes, st.booleans(), st.booleans())
def test_products_and_their_gradients(rows: int, inner: int, columns: int, transposed: bool, in_program: bool) -> None:
    """However the factors lie in memory, and of one row or column too."""
    left, right, gradient = drawn(rows, inner), drawn(inner, columns, seed=1), drawn(rows, columns, seed=2)
    if transposed:
        left, right = laid_out_otherwise(left), laid_out_otherwise(right)
    left.requires_grad_()
    right.requires_grad_()
    for function in (product, product_of_batch):
        if in_program:
            with traced_for_program():
                found = function(left, right)
                gradients = torch.autograd.grad(found, [left, right], gradient)
        else:
            found = function(left, right)
            gradients = torch.autograd.grad(found, [left, right], gradient)
        assert close(found, left, right)
        assert close(gradients[0], gradient, right.mT)
        assert close(gradients[1], left.mT, gradient)


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, sizes, st.booleans())
def test_an_affine_map(rows: int, inner: int, columns: int, in_program: bool) -> None:
    x, weight, bias = drawn(rows, inner), drawn(inner, columns, seed=1), drawn(1, columns, seed=2)
    if in_program:
        with traced_for_program():
            found = affine(x, weight, bias)
    else:
        found = affine(x, weight, bias)
    assert close(found - bias, x, weight)


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, sizes)
def test_a_member_is_computed_by_itself(rows: int, inner: int, columns: int) -> None:
    """Bit for bit: alone, it is what it is among others."""
    left, right, bias = drawn(rows, inner), drawn(inner, columns, seed=1), drawn(1, columns, seed=2)
    functions: list[Callable[[slice], Tensor]] = [
        lambda members: product(left[members], right[members]),
        lambda members: product_of_batch(left[members], right[members]),
        lambda members: affine(left[members], right[members], bias[members]),
    ]
    for function in functions:
        assert torch.equal(function(slice(1, 2))[0], function(slice(None))[1])


@pytest.mark.parametrize(("rows", "in_program", "as_columns"), [(64, False, True), (8, False, False), (64, True, False)])
def test_how_a_batch_lies_in_memory(rows: int, in_program: bool, as_columns: bool) -> None:
    """As the products of it do, so that what is added to them is read in order."""
    batch, matrix = drawn(rows, 5), drawn(5, 7)
    if in_program:
        with traced_for_program():
            found = [product_of_batch(batch, matrix), as_products_are(drawn(rows, 7))]
    else:
        found = [product_of_batch(batch, matrix), as_products_are(drawn(rows, 7))]
    for tensor in found:
        assert tensor.mT.is_contiguous() is as_columns
        assert tensor.is_contiguous() is not as_columns


def test_the_operation_is_one_that_pytorch_can_trace() -> None:
    torch.library.opcheck(kernel, (drawn(4, 5), drawn(5, 6)))
    torch.library.opcheck(kernel, (drawn(4, 5).requires_grad_(), drawn(5, 6).requires_grad_()))


@pytest.mark.parametrize(
    ("left", "right", "given"),
    [
        (drawn(4, 5).double(), drawn(5, 6).double(), r"torch.float64 \[4, 5\] on cpu and torch.float64 \[5, 6\] on cpu"),
        (drawn(4, 5), drawn(5, 6).double(), r"torch.float64 \[5, 6\] on cpu"),
        (drawn(4, 5).to("meta"), drawn(5, 6).to("meta"), r"torch.float32 \[4, 5\] on meta"),
        (drawn(0, 5), drawn(5, 6), r"torch.float32 \[0, 5\] on cpu"),
    ],
)
def test_what_the_kernel_would_read_otherwise_is_refused_where_it_is_traced(left: Tensor, right: Tensor, given: str) -> None:
    with traced_for_program(), pytest.raises(ValueError, match=f"float32 on a CPU and not empty, and these are of .*{given}"):
        product(left, right)


def test_factors_are_laid_out_for_the_kernel() -> None:
    """As ``kernel`` asks for them."""
    columns = drawn(5, 4).mT
    with pytest.raises(ValueError, match="row by row"):
        kernel(columns, drawn(5, 6))
    with traced_for_program():
        assert close(product(columns, drawn(5, 6)), columns, drawn(5, 6))


@pytest.mark.slow
def test_a_program_computes_them(tmp_path: Path) -> None:
    """Of float32, for any number of members, from factors that are whole or parts of a longer vector, of one row or column."""
    from torch._inductor import aoti_compile_and_package

    from sparserl.training.compiled import COMPILER
    from sparserl.training.programs import load

    shapes = [(128, 120, 84), (1, 84, 2), (10, 4, 120), (120, 128, 1), (5, 1, 7), (1, 5, 3), (6, 4, 1), (1, 1, 1)]

    def factors(numbers: Tensor, whole: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Pairs of them; those of a vector both start where it does."""
        pairs = [*zip(whole[::2], whole[1::2], strict=True)]
        for rows, inner, columns in shapes:
            left = numbers[:, : rows * inner].unflatten(1, (rows, inner))
            pairs.append((left, numbers[:, : inner * columns].unflatten(1, (inner, columns))))
        return [pair for left, right in pairs for pair in ((left, right), (left.mT, left), (right, right.mT))]

    class Products(torch.nn.Module):
        def forward(self, numbers: Tensor, whole: list[Tensor]) -> list[Tensor]:
            with traced_for_program():
                return [product(*pair) for pair in factors(numbers, whole)]

    draw = torch.Generator().manual_seed(0)
    numbers = torch.randn(7, 128 * 120, generator=draw)
    whole = [torch.randn(7, *shape, generator=draw) for a, b, c in shapes for shape in ((a, b), (b, c))]
    members = torch.export.Dim("members", min=1, max=100)
    axes = {"numbers": {0: members}, "whole": [{0: members} for _ in whole]}
    with torch.no_grad():
        exported = torch.export.export(Products(), (numbers, whole), dynamic_shapes=axes)
        path = aoti_compile_and_package(exported, package_path=str(tmp_path / "products.pt2"), inductor_configs=COMPILER)
    run = load(Path(path))
    together, alone = run([numbers, *whole]), run([numbers[3:4], *(its[3:4] for its in whole)])
    for found, own, (left, right) in zip(together, alone, factors(numbers, whole), strict=True):
        assert close(found, left, right)
        assert torch.equal(found[3], own[0])
    left, right = numbers.view(7, 128, 120), numbers[:, : 120 * 84].view(7, 120, 84)
    assert not close(left.bfloat16().float() @ right.bfloat16().float(), left, right), "it would see factors of fewer bits"
