"""Policies as files: what runs them gives what torch gives, for every form, and what does not is not written."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from folders import only_policy
from torch import Tensor, nn

from sparserl import load_policy
from sparserl.deployment import formats
from sparserl.deployment.formats import FormatError, Run, example, interface, largest_difference, to_torch
from sparserl.networks.cnn import CNN
from sparserl.networks.mlp import MLP
from sparserl.normalization import Normalize, fresh
from sparserl.policies.sampling import CategoricalSampling, GaussianSampling, Sampling, SquashedGaussianSampling
from sparserl.population.members import Population
from sparserl.population.state import split
from sparserl.types import Spec

DISCRETE = Spec((3,), discrete_actions=2)
CONTINUOUS = Spec((3,), None, (-1.0, -2.0), (1.0, 4.0))
IMAGES = Spec((2, 12, 12), discrete_actions=2, observation_dtype=torch.uint8)


def mlp(outputs: int) -> nn.Module:
    network = MLP(hidden=[5, 4], activation="tanh")
    return network.module(split(network.init((3,), outputs, Population((0,)).generators("init")), 0))


def normalized() -> nn.Module:
    """Observations are about 100 in deviations of 10: without its statistics the network would see only what is cut off."""
    statistics = {"mean": torch.full((3,), 100.0), "var": torch.full((3,), 100.0)}
    return nn.Sequential(Normalize({name: its.double() for name, its in statistics.items()}, 10.0), mlp(2))


def cnn() -> nn.Module:
    network = CNN(channels=[3], kernel_sizes=[4], strides=[2], hidden=[6])
    return network.module(split(network.init((2, 12, 12), 2, Population((0,)).generators("init")), 0))


POLICIES: dict[str, tuple[Callable[[], nn.Module], Spec]] = {
    "values": (lambda: mlp(2), DISCRETE),
    "normalized": (normalized, DISCRETE),
    "images": (cnn, IMAGES),
    "categorical": (lambda: CategoricalSampling(mlp(2), 2), DISCRETE),
    "gaussian": (lambda: GaussianSampling(mlp(2), torch.tensor([[0.0, -1.0]]), CONTINUOUS), CONTINUOUS),
    "squashed": (lambda: SquashedGaussianSampling(mlp(4), CONTINUOUS), CONTINUOUS),
}


def run_onnx(content: bytes) -> Run:
    return formats.onnx_runner(content)


def run_torch(content: bytes) -> Run:
    return torch.export.load(io.BytesIO(content)).module()


@pytest.fixture(autouse=True)
def _unchecked_shapes() -> Iterator[None]:
    """A check of shapes compares the batch with a number, and torch's exporter takes it for that number from then on."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("values", "gaussian") else ()) for name in POLICIES]
)
def test_onnx_gives_what_torch_gives_for_any_batch(name: str) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    make, spec = POLICIES[name]
    policy = make().eval()
    made = formats.to_onnx(policy, spec)
    assert made.difference <= 1e-5
    run = run_onnx(made.content)
    inputs = example(policy, spec, 37)  # none of the batches that it was made and checked with
    torch.testing.assert_close(run(*inputs), policy(*inputs).detach(), rtol=1e-5, atol=1e-5)


def test_onnx_says_its_opset_its_inputs_and_that_it_normalises() -> None:
    onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    model = onnx.load_from_string(formats.onnx_bytes(normalized().eval(), DISCRETE))
    onnx.checker.check_model(model)
    assert [(its.domain, its.version) for its in model.opset_import if its.domain == ""] == [("", formats.OPSET)]
    assert [its.name for its in model.graph.input] == ["observation"]
    assert [its.name for its in model.graph.output] == ["score"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch is not fixed"
    assert "the graph normalises it" in {its.key: its.value for its in model.metadata_props}["sparserl.observation"]


def test_files_do_not_say_where_they_were_made() -> None:
    """torch's exporters keep stack traces, with the paths of whoever exports."""
    here = str(Path(formats.__file__).parents[2]).encode()
    policy = normalized().eval()
    contents = [to_torch(policy, DISCRETE).content]
    if importlib.util.find_spec("onnxscript"):
        contents.append(formats.onnx_bytes(policy, DISCRETE))
    for content in contents:
        assert here not in content


@pytest.mark.parametrize("name", ["normalized", "images", "gaussian"])
def test_a_torch_file_gives_what_torch_gives_for_any_batch(name: str) -> None:
    make, spec = POLICIES[name]
    policy = make().eval()
    made = to_torch(policy, spec)
    inputs = example(policy, spec, 37)
    torch.testing.assert_close(run_torch(made.content)(*inputs), policy(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", [{"rank": 1}, {"shrink": True}, {"rank": 1, "shrink": True}])
def test_factored_and_shrunken_policies_are_written(how: dict[str, Any], tmp_path: Path) -> None:
    network = {"_target_": "sparserl.networks.mlp.MLP", "hidden": [5, 4], "activation": "relu"}
    layers = split(MLP(hidden=[5, 4], activation="relu").init((3,), 2, Population((0,)).generators("init")), 0)
    layers["0.weight"][:, 2] = 0  # a unit that nothing enters
    policy = load_policy(only_policy(tmp_path, network, DISCRETE, {"policy": layers}), **how)
    numbers = formats.stored_numbers(policy)
    assert numbers < formats.stored_numbers(load_policy(tmp_path))
    assert formats.nonzero_weights(policy) <= numbers
    made = to_torch(policy, DISCRETE)
    inputs = example(policy, DISCRETE, 5)
    torch.testing.assert_close(run_torch(made.content)(*inputs), policy(*inputs), rtol=1e-5, atol=1e-5)


def test_random_inputs_lie_where_a_policys_statistics_say() -> None:
    """Else every number would be cut at the limit, and the check would see constants only."""
    (observation,) = example(normalized(), DISCRETE, 512)
    # 1,536 numbers of deviation 10: the error of their mean is 0.26
    assert observation.mean().item() == pytest.approx(100, abs=1.5)
    assert observation.std().item() == pytest.approx(10, rel=0.1)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("wrong", [lambda y: y + 2e-5 * max(1.0, float(y.abs().max())), lambda y: y * torch.nan])
def test_a_file_that_gives_something_else_is_refused(wrong: Callable[[Tensor], Tensor]) -> None:
    policy = mlp(2).eval()
    assert largest_difference(policy, DISCRETE, policy) == 0
    different = largest_difference(policy, DISCRETE, lambda *inputs: wrong(policy(*inputs)))
    assert not different <= formats.TOLERANCE
    with pytest.raises(FormatError, match="nothing was written"):
        formats._checked(policy, DISCRETE, b"", lambda *inputs: wrong(policy(*inputs)))


def test_a_file_of_another_shape_is_refused() -> None:
    policy = mlp(2).eval()
    with pytest.raises(FormatError, match=r"gives \[1, 1\] where torch gives \[1, 2\]"):
        largest_difference(policy, DISCRETE, lambda *inputs: policy(*inputs)[:, :1])


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ModuleNotFoundError, match=r"needs onnxscript: pip install 'sparserl\[export\]'"):
        formats.to_onnx(mlp(2), DISCRETE)


# ---------------------------------------------------------------- sampling


def test_sampled_actions_have_the_probabilities_of_the_softmax() -> None:
    """2,000 samples: the deviation of a share is at most 0.0112, so 0.05 is beyond four of them."""
    policy = CategoricalSampling(nn.Identity(), 3)
    logits = torch.tensor([0.0, 1.0, 2.0])
    noise = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    chosen = policy(logits.expand(2000, 3), noise)
    torch.testing.assert_close(chosen.bincount() / 2000, logits.softmax(0), atol=0.05, rtol=0)


def test_gaussian_actions_by_hand() -> None:
    """Mean 0.5 and deviation e: half a deviation up is beyond 1; bounds of 0 and 10."""
    spec = Spec((1,), None, (0.0,), (10.0,))
    policy = GaussianSampling(nn.Identity(), torch.tensor([[1.0]]), spec)
    given = torch.tensor([[0.5], [0.5], [0.5]])
    noise = torch.tensor([[0.5], [0.0], [-0.1]])
    expected = [10.0, 5 + 5 * 0.5, 5 + 5 * (0.5 - 0.1 * torch.e)]
    assert policy(given, noise).flatten().tolist() == pytest.approx(expected)


def test_squashed_actions_by_hand() -> None:
    spec = Spec((2,), None, (0.0,), (10.0,))
    policy = SquashedGaussianSampling(nn.Identity(), spec)
    outputs = torch.tensor([[0.3, 0.0], [0.3, -50.0]])  # the second deviation is cut at exp(-20)
    expected = [5 + 5 * torch.tanh(torch.tensor(0.3 + 1.0)).item(), 5 + 5 * torch.tanh(torch.tensor(0.3)).item()]
    assert policy(outputs, torch.ones(2, 1)).flatten().tolist() == pytest.approx(expected)


def test_an_interface_names_what_goes_in_and_out() -> None:
    assert list(interface(mlp(2), DISCRETE)) == ["observation", "score"]
    named = interface(CategoricalSampling(mlp(2), 2), DISCRETE)
    assert list(named) == ["observation", "noise", "action"]
    assert "uniform" in named["noise"]
    assert "bytes" in interface(cnn(), IMAGES)["observation"]
    assert not isinstance(mlp(2), Sampling)
    assert fresh(1, (3,))["mean"].dtype == torch.float64, "as a normaliser keeps them"
