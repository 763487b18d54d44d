"""Products of matrices of all members: PyTorch's where steps run eagerly, and oneDNN's kernel for small ones in programs.

On x86 PyTorch leaves float32 to MKL, whose kernel on AMD's processors is that for AVX2, and which is slow for a few columns
anywhere. The kernel of oneDNN, which PyTorch has for its own attention and offers to C++ only, uses all that the processor has
and takes no time to begin. In both a member's product is computed by itself: its numbers do not depend on how many members
there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_WIDE = 48
"""Eagerly, batches of this many rows or more are computed as ``(W^T x^T)^T``, with arrays ``[member, batch, units]`` transposed
in memory. MKL is slow for matrices of few columns, such as the values of two actions, so a large batch should be the columns. A
small batch, such as one observation to act on, is better as the rows."""

_in_program: ContextVar[bool] = ContextVar("in_program", default=False)


@contextmanager
def traced_for_program() -> Iterator[None]:
    """Within it products are by ``kernel``, which is slow unless it is compiled."""
    token = _in_program.set(True)
    try:
        yield
    finally:
        _in_program.reset(token)


@torch.library.custom_op("sparserl::product_of_members", mutates_args=(), schema="(Tensor left, Tensor right) -> Tensor")
def kernel(left: Float[Tensor, "member rows inner"], right: Float[Tensor, "member inner columns"]) -> Tensor:
    """What a program calls; sparserl/training/kernels.py has it in C++.

    Numbers of a row are beside each other. Raises ValueError where numbers are not float32, since C++ would read others.
    """
    _check(left, right)
    if not _is_in_rows(left) or not _is_in_rows(right):
        raise ValueError("a factor of a product does not lie in memory row by row")
    return torch.bmm(left, right)


@kernel.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    _check(left, right)
    return left.new_empty(left.shape[0], left.shape[1], right.shape[2])


def _check(left: Tensor, right: Tensor) -> None:
    if any(its.dtype != torch.float32 or its.device.type != "cpu" or 0 in its.shape[1:] for its in (left, right)):
        given = " and ".join(f"{its.dtype} {[*its.shape[1:]]} on {its.device.type}" for its in (left, right))
        raise ValueError(f"products in a program are of float32 on a CPU and not empty, and these are of {given}")


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    left, right = ctx.saved_tensors
    of_left, of_right = ctx.needs_input_grad
    return product(gradient, right.mT) if of_left else None, product(left.mT, gradient) if of_right else None


kernel.register_autograd(_differentiate, setup_context=_save)


def product(left: Float[Tensor, "member rows inner"], right: Float[Tensor, "member inner columns"]) -> Tensor:
    """Each member's product of matrices."""
    if _in_program.get():
        y: Tensor = kernel(_row_by_row(left), _row_by_row(right))
        return y
    # the product of a matrix and a vector of one member alone is rounded otherwise than those of several members: twice
    if right.shape[2] == 1:
        return torch.bmm(left, right.expand(-1, -1, 2))[..., :1]
    if left.shape[1] == 1:
        return torch.bmm(left.expand(-1, 2, -1), right)[:, :1]
    return torch.bmm(left, right)


def product_of_batch(batch: Float[Tensor, "member batch in"], matrix: Float[Tensor, "member in out"]) -> Tensor:
    """The same where the rows are those of a batch."""
    return product(matrix.mT, batch.mT).mT if _as_columns(batch) else product(batch, matrix)


def affine(
    x: Float[Tensor, "member batch in"], weight: Float[Tensor, "member in out"], bias: Float[Tensor, "member 1 out"]
) -> Float[Tensor, "member batch out"]:
    """``x W + b``."""
    # MKL adds the bias to products of one term with one rounding or two, by the number of members
    if _in_program.get() or weight.shape[1] == 1:
        return product_of_batch(x, weight) + bias
    single = weight.shape[2] == 1
    if single:  # as in ``product``
        weight, bias = weight.expand(-1, -1, 2), bias.expand(-1, -1, 2)
    y = torch.baddbmm(bias.mT, weight.mT, x.mT).mT if _as_columns(x) else torch.baddbmm(bias, x, weight)
    return y[..., :1] if single else y


def as_products_are(batch: Float[Tensor, "member batch units"]) -> Float[Tensor, "member batch units"]:
    """The same, laid out in memory as a product of it would be."""
    return batch.mT.contiguous().mT if _as_columns(batch) else batch.contiguous()


def _as_columns(batch: Tensor) -> bool:
    return not _in_program.get() and batch.shape[1] >= _WIDE


def _row_by_row(matrix: Float[Tensor, "member rows columns"]) -> Float[Tensor, "member rows columns"]:
    """The same, laid out in memory as the kernel reads it."""
    return matrix if _is_in_rows(matrix) else matrix.contiguous()


def _is_in_rows(matrix: Tensor) -> bool:
    """Whether numbers of a row are beside each other, and rows do not overlap. How far apart a single one is does not count."""
    _, rows, columns = matrix.shape
    _, across, along = matrix.stride()
    return (along == 1 or columns == 1) and (across >= columns or rows == 1)
