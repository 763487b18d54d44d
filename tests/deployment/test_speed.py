"""What forms of a policy take: the same function in CSR, bytes by hand, and rows for every form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparserl.deployment.formats import largest_difference
from sparserl.deployment.speed import CsrLinear, Form, file_bytes, forms, measure, to_csr
from sparserl.types import Spec

SPEC = Spec((6,), discrete_actions=2)


def policy() -> nn.Module:
    """Nine of ten weights are zero; a layer has none left."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 5, bias=False), nn.Linear(5, 2))
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight *= torch.rand(layer.weight.shape) < 0.1
        network[3].weight.zero_()
        network[2].weight[0, 0] = 1.0
    return network.eval()


def test_csr_computes_the_same_and_leaves_the_policy_as_it_was() -> None:
    dense = policy()
    before = [parameter.clone() for parameter in dense.parameters()]
    sparse = to_csr(dense)
    assert sum(isinstance(part, CsrLinear) for part in sparse.modules()) == 3
    assert not any(isinstance(part, nn.Linear) for part in sparse.modules())
    assert largest_difference(dense, SPEC, sparse) <= 1e-6  # sums in another order
    assert all(map(torch.equal, before, dense.parameters()))


def test_csr_of_another_policy_is_told_apart() -> None:
    """The negative control of the test before."""
    other = policy()
    with torch.no_grad():
        other[3].weight[0, 0] = 1.0
        other[0].bias += 1.0
    assert largest_difference(policy(), SPEC, to_csr(other)) > 1e-3


def test_bytes_of_csr_by_hand() -> None:
    """Values and columns of 3 weights, where 4 rows begin and end, and 4 biases: 4 bytes each, beside the file's header."""
    layer = nn.Linear(1000, 4)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[1, :3] = 1.0
    header = file_bytes(CsrLinear(layer)) - 4 * (3 + 3 + 5 + 4)
    assert 0 < header < 500
    assert file_bytes(layer) > 4 * 4000


def test_every_form_is_measured_in_both_libraries() -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    found = forms({"hardened": policy()}, SPEC, "hardened")
    assert [(form.form, form.backend) for form in found] == [
        ("hardened", "torch"),
        ("hardened, CSR", "torch"),
        ("hardened", "onnxruntime"),
    ]
    dense, sparse, _ = found
    assert dense.stored_numbers == 6 * 20 + 20 * 5 + 5 * 2
    assert sparse.stored_numbers < dense.stored_numbers / 5
    for timing in measure(found, rounds=3):
        assert 0 < timing.low <= timing.median <= timing.high


def test_forms_take_turns() -> None:
    """Or what changes on the machine would meet one form and not the others."""
    called: list[str] = []
    made = [Form(name, "torch", 0, 0, lambda name=name: called.append(name)) for name in "ab"]  # type: ignore[misc]
    measure(made, rounds=2)
    changes = [here for before, here in zip(["", *called], called, strict=False) if before != here]
    assert changes == ["a", "b", "a", "b", "a", "b"]  # once for warming up
