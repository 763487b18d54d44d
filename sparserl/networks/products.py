"""Matrix products of gradient steps by oneDNN, where MKL is slow.

PyTorch leaves products of float32 to MKL, which takes a kernel for AVX2 on AMD's processors. oneDNN, which is in PyTorch too,
uses all of AVX-512 there and is twice as fast. PyTorch asks it only where it may round factors to bfloat16. It does so
on processors with AMX alone, which AMD does not make: there products stay float32, and those of a member do not depend on how
many members there are. `scripts/bench_products.py` measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

FEWEST_WEIGHTS = 40_000
"""Of the largest matrix of a member, for oneDNN to be faster. It takes 10 µs for each product, however small: with minibatches
of 64 to 512 both take equally long at about 160 x 160, and at 256 x 256 oneDNN takes 0.83 to 0.50 of the time of MKL."""


def products_for(weights: Iterable[Tensor]) -> Callable[[], AbstractContextManager[None]]:
    """What makes a context in which products are by the faster library, for gradient steps of weights ``[member, ...]``."""
    is_large = any(tensor[0].numel() >= FEWEST_WEIGHTS and tensor.device.type == "cpu" for tensor in weights)
    return _by_onednn if is_large and onednn_is_faster() else nullcontext


@cache
def onednn_is_faster() -> bool:
    """Whether this processor is one where oneDNN was measured to be faster."""
    return torch.backends.mkldnn.is_available() and is_zen_5(torch.cpu.get_capabilities())


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
