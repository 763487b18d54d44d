"""That the tests' import hook really checks: without it a wrong annotation would pass every test in silence."""

from __future__ import annotations

import pytest
import shape_checks
import torch
from jaxtyping import TypeCheckError

from sparserl.networks.mlp import MLP
from sparserl.population.members import Population
from sparserl.types import Layers

NETWORK = MLP(hidden=[3], activation="relu")


@pytest.fixture
def layers() -> Layers:
    return NETWORK.init((4,), 2, Population((0, 1)).generators("init"))


def test_right_shapes_pass(layers: Layers) -> None:
    assert NETWORK(layers, torch.zeros(2, 5, 4)).shape == (2, 5, 2)


def test_the_first_calls_are_checked_and_then_every_so_many(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the calls below is wrong; the number of those that raise is the number that was checked."""

    def caught(calls: int) -> list[int]:
        shape_checks.calls.clear()
        raised = []
        for number in range(calls):
            try:
                NETWORK(layers, torch.zeros(2, 5, 4, dtype=torch.int64))
            except TypeCheckError:
                raised.append(number)
            except RuntimeError:  # torch refuses the product itself where the shapes were not checked
                continue
        return raised

    first, each = shape_checks.ALWAYS, shape_checks.EACH
    assert caught(first) == list(range(first))
    assert caught(2 * each + 1) == [*range(first), each, 2 * each]
    monkeypatch.setattr(shape_checks, "every_call", True)
    assert caught(2 * each + 1) == list(range(2 * each + 1))


@pytest.mark.parametrize(
    "observation",
    [
        pytest.param(torch.zeros(4), id="rank"),
        pytest.param(torch.zeros(2, 5, 4, dtype=torch.int64), id="kind of number"),
    ],
)
def test_wrong_shapes_raise(layers: Layers, observation: torch.Tensor) -> None:
    with pytest.raises(TypeCheckError, match="observation"):
        NETWORK(layers, observation)


def test_fields_of_dataclasses_are_checked() -> None:
    with pytest.raises(TypeCheckError, match="activation"):
        MLP(hidden=[3], activation="sigmoid")  # type: ignore[arg-type]
