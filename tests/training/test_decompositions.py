"""What operations are written as for the compiler: the same values, at the ends of the range too."""

import math

import pytest
import torch

from sparserl.training.decompositions import DECOMPOSITIONS

aten = torch.ops.aten
SPECIAL = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-30, -1e-30, 3.4e38, -3.4e38, 88.0, -88.0])


@pytest.mark.parametrize("arguments", [(), (0.0,), (0.0, 0.0, 0.0), (1.0, None, -2.0)])
def test_numbers_that_are_not_finite_are_replaced_as_torch_does(arguments):
    found = DECOMPOSITIONS[aten.nan_to_num.default](SPECIAL, *arguments)
    assert torch.equal(found, torch.nan_to_num(SPECIAL, *arguments))


def test_tanh_is_within_two_ten_millionths():
    """float32 has steps of 6e-8 below 1; an exponential that overflows must give 1, not nan."""
    x = torch.cat([torch.linspace(-30, 30, 200_001), SPECIAL])
    error = (DECOMPOSITIONS[aten.tanh.default](x).double() - x.double().tanh()).abs()
    assert error.nan_to_num(0.0).max() < 2e-7
    assert torch.equal(error.isnan(), x.isnan())


@pytest.mark.parametrize("operation", [aten.nan_to_num, aten.tanh], ids=str)
def test_what_works_in_place_changes_its_tensor(operation):
    x = SPECIAL.clone()
    in_place = getattr(aten, f"{operation.__name__}_")
    result = DECOMPOSITIONS[in_place.default](x)
    assert result.data_ptr() == x.data_ptr()
    assert torch.equal(x.nan_to_num(7.0), DECOMPOSITIONS[operation.default](SPECIAL).nan_to_num(7.0))
