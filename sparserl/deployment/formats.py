"""A policy as a file that runs without sparserl, checked against the module that it was made of.

Whatever is written is read back first and run on random observations: what does not give the same is not written.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sparserl.lowrank.truncation import layers_of
from sparserl.normalization import Normalize
from sparserl.policies.sampling import Sampling
from sparserl.types import Spec

OPSET = 18
"""The version of ONNX's operators: the one that torch writes without converting."""

TOLERANCE = 1e-5
"""How far a file's outputs may be from torch's, as a share of the largest output, or of 1 where that is smaller."""

CHECKED_BATCHES = (1, 2, 64)
"""The numbers of observations that a file is checked on: it takes any."""

Run: TypeAlias = Callable[..., Tensor]
"""From the inputs of a policy to its output."""


class FormatError(ValueError):
    """What keeps a policy from being written in a format, in one sentence with the remedy."""


@dataclass(frozen=True)
class Exported:
    """A policy as the content of a file."""

    content: bytes
    difference: float
    """The largest that was found, as ``TOLERANCE`` counts it."""
    interface: dict[str, str]
    """What goes in and what comes out, by name: type, shape and meaning."""


def interface(policy: nn.Module, spec: Spec) -> dict[str, str]:
    """What goes in and what comes out."""
    shape = ", ".join(map(str, ("batch", *spec.observation_shape)))
    dtype = str(spec.observation_dtype).removeprefix("torch.")
    normalized = any(isinstance(part, Normalize) for part in policy.modules())
    seen = "as the environment gives it; the graph normalises it" if normalized else "as the environment gives it"
    if dtype == "uint8":
        seen = "bytes as the environment gives them; the graph turns them into numbers"
    given = {"observation": f"{dtype} [{shape}], {seen}"}
    if isinstance(policy, Sampling):
        drawn = "uniform numbers in [0, 1)" if policy.distribution == "uniform" else "standard normal numbers"
        given["noise"] = f"float32 [batch, {policy.noise_size}], {drawn}, new ones for each step"
    if spec.discrete_actions is None:
        given["action"] = f"float32 [batch, {len(spec.action_low)}], within the bounds of the environment"
    elif isinstance(policy, Sampling):
        given["action"] = f"int64 [batch], from 0 to {spec.discrete_actions - 1}"
    else:
        given["score"] = f"float32 [batch, {spec.discrete_actions}], a value or logit of each action; the highest is taken"
    return given


def example(policy: nn.Module, spec: Spec, batch: int) -> tuple[Tensor, ...]:
    """Random inputs, the same in every call. Observations lie where the policy's own statistics say that they do."""
    draw = torch.Generator().manual_seed(batch)
    shape = (batch, *spec.observation_shape)
    if not spec.observation_dtype.is_floating_point:
        inputs = [torch.randint(0, 256, shape, generator=draw, dtype=spec.observation_dtype)]
    else:
        numbers = torch.randn(shape, generator=draw)
        for part in policy.modules():
            if isinstance(part, Normalize):
                numbers = (part.mean + part.scale * numbers).float()
        inputs = [numbers]
    if isinstance(policy, Sampling):
        fill = torch.rand if policy.distribution == "uniform" else torch.randn
        inputs.append(fill(batch, policy.noise_size, generator=draw))
    return tuple(inputs)


@torch.no_grad()
def largest_difference(policy: nn.Module, spec: Spec, run: Run) -> float:
    """Between what ``policy`` and ``run`` give, as ``TOLERANCE`` counts it."""
    largest = 0.0
    for batch in CHECKED_BATCHES:
        inputs = example(policy, spec, batch)
        expected, found = policy(*inputs).double(), run(*inputs).double()
        if found.shape != expected.shape:
            raise FormatError(f"the file gives {list(found.shape)} where torch gives {list(expected.shape)}")
        scale = max(1.0, float(expected.abs().max()))
        difference = float((found - expected).abs().max()) / scale
        largest = difference if not difference <= largest else largest  # nan too
    return largest


def to_onnx(policy: nn.Module, spec: Spec) -> Exported:
    """One file of ONNX with the weights inside, checked by onnxruntime. Raises FormatError, and ModuleNotFoundError."""
    _need("onnx", "onnxscript", "onnxruntime")
    content = onnx_bytes(policy, spec)
    return _checked(policy, spec, content, onnx_runner(content))


def onnx_bytes(policy: nn.Module, spec: Spec) -> bytes:
    """The content of the file, unchecked."""
    named = interface(policy, spec)
    inputs = example(policy, spec, 2)
    *names, output = named
    with _quiet():
        program = torch.onnx.export(
            policy,
            inputs,
            input_names=names,
            output_names=[output],
            dynamic_shapes=_any_batch(inputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for key, value in {"producer": "sparserl", **named}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"sparserl.{key}", value
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # stack traces, with the paths of whoever exports
        part.doc_string = ""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def onnx_session(content: bytes) -> Any:
    """The ``onnxruntime.InferenceSession`` of an ONNX file, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnx_runner(content: bytes) -> Run:
    """What runs an ONNX file on tensors."""
    session = onnx_session(content)
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def to_torch(policy: nn.Module, spec: Spec) -> Exported:
    """A file that ``torch.export.load(FILE).module()`` runs without sparserl. Raises FormatError."""
    inputs = example(policy, spec, 2)
    buffer = io.BytesIO()
    with _quiet():
        program = torch.export.export(policy, inputs, dynamic_shapes=_any_batch(inputs))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # with the paths of whoever exports
        torch.export.save(program, buffer)
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()
    return _checked(policy, spec, buffer.getvalue(), loaded)


def _any_batch(inputs: tuple[Tensor, ...]) -> tuple[dict[int, object], ...]:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


def _checked(policy: nn.Module, spec: Spec, content: bytes, run: Run) -> Exported:
    difference = largest_difference(policy, spec, run)
    if not difference <= TOLERANCE:
        raise FormatError(f"the file differs from torch by {difference:.2g}, more than {TOLERANCE:g}; nothing was written")
    return Exported(content, difference, interface(policy, spec))


FORMATS: Mapping[str, tuple[str, Callable[[nn.Module, Spec], Exported]]] = {
    "onnx": (".onnx", to_onnx),
    "torch": (".pt2", to_torch),
}
"""The ending of a file in each format, and what makes it."""


def _need(*packages: str) -> None:
    """Raises ModuleNotFoundError where one is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(f"--format onnx needs {', '.join(missing)}: pip install 'sparserl[export]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters tell their own authors."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def stored_numbers(policy: nn.Module) -> int:
    """How many weights the matrices and kernels of a module have, zeros included; biases are not counted."""
    return sum(part.weight.numel() for part in layers_of(policy))


def nonzero_weights(policy: nn.Module) -> int:
    """How many of them are not zero."""
    return sum(int((part.weight != 0).sum()) for part in layers_of(policy))
