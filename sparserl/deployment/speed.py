"""What forms of a policy really take: bytes on the disk, and the time of one observation on one thread."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sparserl.deployment.formats import example, nonzero_weights, onnx_bytes, onnx_session, stored_numbers
from sparserl.types import Spec

CALLS = 50
"""Calls that are timed together: the clock itself takes about a microsecond."""


@dataclass(frozen=True)
class Form:
    """A form of a policy in one library."""

    form: str
    backend: Literal["torch", "onnxruntime"]
    stored_numbers: int
    """Weights of its matrices, zeros included; under CSR without them."""
    bytes: int
    """Of a file with all of it: safetensors or ONNX."""
    run: Callable[[], object]
    """Computes one observation."""


@dataclass(frozen=True)
class Timing:
    """CPU microseconds of one observation."""

    median: float
    low: float
    """The 10th percentile."""
    high: float
    """The 90th percentile."""


class CsrLinear(nn.Module):
    """A linear layer whose weight is in compressed sparse rows, with int32 indices."""

    rows: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            sparse = layer.weight.detach().to_sparse_csr()
        self.register_buffer("rows", sparse.crow_indices().int())
        self.register_buffer("columns", sparse.col_indices().int())
        self.register_buffer("values", sparse.values())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().unsqueeze(1))
        # made once: to make it costs more than to multiply by it
        self.weight = torch.sparse_csr_tensor(self.rows, self.columns, self.values, sparse.shape, check_invariants=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight @ x.T).T if self.bias is None else torch.addmm(self.bias, self.weight, x.T).T


def to_csr(policy: nn.Module) -> nn.Module:
    """A copy with its linear layers in compressed sparse rows; torch has no sparse convolutions, so kernels stay."""
    return _replaced(copy.deepcopy(policy))


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Linear):
        return CsrLinear(module)
    for name, child in module.named_children():
        module.register_module(name, _replaced(child))
    return module


def file_bytes(policy: nn.Module) -> int:
    """Of a safetensors file with its parameters and buffers."""
    return len(save({name: tensor.detach().clone().contiguous() for name, tensor in policy.state_dict().items()}))


def forms(policies: Mapping[str, nn.Module], spec: Spec, sparse: str) -> list[Form]:
    """Each policy in torch and in onnxruntime, and the one called ``sparse`` in CSR too, which onnxruntime does not have."""
    found = []
    for name, policy in policies.items():
        inputs = example(policy, spec, 1)
        numbers = stored_numbers(policy)
        found.append(Form(name, "torch", numbers, file_bytes(policy), _call(policy, *inputs)))
        if name == sparse:
            rows = to_csr(policy)
            found.append(Form(f"{name}, CSR", "torch", nonzero_weights(policy), file_bytes(rows), _call(rows, *inputs)))
        content = onnx_bytes(policy, spec)
        session = onnx_session(content)
        given = {its.name: tensor.numpy() for its, tensor in zip(session.get_inputs(), inputs, strict=True)}
        found.append(Form(name, "onnxruntime", numbers, len(content), _call(session.run, None, given)))
    return found


def _call(run: Callable[..., object], *inputs: object) -> Callable[[], object]:
    return lambda: run(*inputs)


@torch.inference_mode()
def measure(forms: list[Form], rounds: int) -> list[Timing]:
    """The CPU time that this thread spends on one observation, in each form.

    Forms take turns, so what changes on the machine meets all of them; and other programs' time does not count.
    """
    samples: list[list[float]] = [[] for _ in forms]
    for form in forms:
        for _ in range(CALLS):  # caches, and what libraries prepare at their first calls
            form.run()
    for _ in range(rounds):
        for form, its in zip(forms, samples, strict=True):
            started = time.thread_time_ns()
            for _ in range(CALLS):
                form.run()
            its.append((time.thread_time_ns() - started) / CALLS / 1000)
    return [_timing(its) for its in samples]


def _timing(samples: list[float]) -> Timing:
    if len(samples) == 1:
        return Timing(*samples * 3)
    tenths = quantiles(samples, n=10, method="inclusive")
    return Timing(median(samples), tenths[0], tenths[-1])
