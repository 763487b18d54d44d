"""Matrix products of gradient steps by oneDNN, where MKL is slow.

PyTorch leaves products of float32 to MKL, which takes a kernel for AVX2 on AMD's processors. oneDNN, which is in PyTorch too,
uses all of AVX-512 there and is twice as fast. PyTorch asks it only where the process allows it to round factors to bfloat16.
oneDNN rounds on processors with AMX alone, which AMD does not make: there products stay float32, as is seen once a process.
While it is allowed, ``torch.get_float32_matmul_precision`` raises RuntimeError. `scripts/bench_products.py` measures both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

FEWEST_WEIGHTS = 40_000
"""Of the largest matrix of a member, for oneDNN to be faster. It takes 10 µs for each product, however small: with minibatches
of 64 to 512 both take equally long at about 160 x 160, and at 256 x 256 oneDNN takes 0.83 to 0.50 of the time of MKL."""

LEFT_TO_MKL = 16**3
"""Multiplications of all members together up to which PyTorch does not ask oneDNN: by which library so small a product is would
depend on how many members there are."""


@dataclass(frozen=True)
class Products:
    """How the matrices of a gradient step are multiplied."""

    is_large: bool
    """Whether oneDNN is faster for the largest matrix."""
    smallest: int
    """Weights of the smallest matrix."""

    @classmethod
    def of(cls, weights: Iterable[Tensor]) -> Products:
        """For weights ``[member, ...]``, of which the matrices ``[member, in, out]`` count."""
        # a single column is computed twice
        sizes = [its.shape[1] * max(its.shape[2], 2) for its in weights if its.dim() == 3 and its.device.type == "cpu"]
        return cls(is_large=max(sizes, default=0) >= FEWEST_WEIGHTS, smallest=min(sizes, default=0))

    def __call__(self, rows: int) -> AbstractContextManager[None]:
        """Within it products are by the faster library, for so many rows of a member: the same for any number of members."""
        is_ours = self.is_large and min(rows, 16) * self.smallest > LEFT_TO_MKL and onednn_is_faster()
        return _by_onednn() if is_ours else nullcontext()


@cache
def onednn_is_faster() -> bool:
    """Whether this processor is one where oneDNN was measured to be faster, and its products are float32 there."""
    if not torch.backends.mkldnn.is_available() or not is_zen_5(getattr(torch.cpu, "get_capabilities", dict)()):
        return False
    factor = torch.linspace(1, 2, 64 * 64).view(64, 64)
    with _by_onednn():
        product = factor @ factor
    return bool((product - factor.double() @ factor.double()).abs().max() < 1e-3)  # of some 140; of bfloat16 it is 0.1


def is_zen_5(capabilities: Mapping[str, Any]) -> bool:
    """Whether a processor, as ``torch.cpu.get_capabilities`` describes it, is AMD's with a whole unit for AVX-512 and no AMX.

    Zen 4 takes two steps for an instruction of AVX-512, so it has less to gain, which is not measured.
    """
    has = capabilities.get
    return str(has("cpu_name")).startswith("AMD") and bool(has("avx512_vp2intersect")) and not has("amx_tile")


def laid_out(weight: Tensor) -> Tensor:
    """The same matrices, so that the library in use copies them for no product: oneDNN would, of a part of a longer vector."""
    return weight.contiguous() if _MATMUL.fp32_precision == _MAY_ROUND else weight


_MATMUL = torch.backends.mkldnn.matmul  # type: ignore[attr-defined] # which torch's own hints lack
_MAY_ROUND = "bf16"


@contextmanager
def _by_onednn() -> Iterator[None]:
    before = _MATMUL.fp32_precision
    _MATMUL.fp32_precision = _MAY_ROUND
    try:
        yield
    finally:
        _MATMUL.fp32_precision = before
