"""Against torch.distributions, closed forms and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from sparserl.policies import gaussian
from sparserl.policies.distributions import Gaussian
from sparserl.population.members import Population
from sparserl.types import Spec

DRAWS = 100_000
SPEC = Spec((3,), None, (-2.0, 0.0), (4.0, 1.0))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_log_prob_and_entropy_by_hand() -> None:
    """At the mean of a deviation of 2 the density is 1 / (2 sqrt(2 pi)); a deviation off it, exp(-1/2) of that."""
    mean, log_std = torch.tensor([[[1.0]]]), torch.tensor([[[math.log(2)]]])
    peak = -math.log(2) - 0.5 * math.log(2 * math.pi)
    assert gaussian.log_prob(mean, log_std, mean).item() == pytest.approx(peak)
    assert gaussian.log_prob(mean, log_std, mean - 2).item() == pytest.approx(peak - 0.5)
    assert gaussian.entropy(log_std).item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 4))
    assert gaussian.mode(torch.tensor([-3.0, 0.25, 3.0])).tolist() == [-1.0, 0.25, 1.0]


def test_log_prob_entropy_and_their_gradients_are_torchs() -> None:
    mean, log_std, chosen = drawn(2, 5, 3).requires_grad_(), (0.5 * drawn(2, 1, 3)).requires_grad_(), 2 * drawn(2, 5, 3)
    theirs = Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)
    pairs = (
        (gaussian.log_prob(mean, log_std, chosen), theirs.log_prob(chosen)),
        (gaussian.entropy(log_std).expand(2, 5), theirs.entropy()),
    )
    for mine, its in pairs:
        torch.testing.assert_close(mine, its)
        for found, expected in zip(*(gradients(values, mean, log_std) for values in (mine, its)), strict=True):
            torch.testing.assert_close(found, expected)


def gradients(values: Tensor, *tensors: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(values.sum(), tensors, retain_graph=True, allow_unused=True, materialize_grads=True))


def test_samples_have_the_mean_and_the_deviation() -> None:
    """Within five standard errors."""
    mean, log_std = torch.tensor([0.5, -2.0]).expand(1, DRAWS, 2), torch.tensor([[[0.0, -1.0]]])
    sample = gaussian.sample(mean, log_std, drawn(1, DRAWS, 2))[0]
    for index, (centre, deviation) in enumerate(((0.5, 1.0), (-2.0, math.exp(-1)))):
        assert sample[:, index].mean().item() == pytest.approx(centre, abs=5 * deviation / math.sqrt(DRAWS))
        assert sample[:, index].std().item() == pytest.approx(deviation, abs=5 * deviation / math.sqrt(2 * DRAWS))


def test_the_environment_gets_a_sample_in_its_own_units_and_the_sample_is_kept() -> None:
    """In [-1, 1] times half the range, around the middle: 1 + 3 s and 0.5 + 0.5 s. It is not clipped here."""
    distribution, members = Gaussian(SPEC), Population((0, 1))
    layers = distribution.init(2, log_std=0.5)
    assert torch.equal(layers["log_std"], torch.full((2, 1, 2), 0.5))
    action = distribution.sample(torch.zeros(2, 1000, 2), layers, members.rng("exploration"))
    sample = action.extras["sample"]
    torch.testing.assert_close(action.action, torch.tensor([1.0, 0.5]) + torch.tensor([3.0, 0.5]) * sample)
    assert (sample.abs() > 1).any()
    assert not torch.equal(sample[0], sample[1])


def test_the_deployed_action_is_the_clipped_mean_in_the_environments_units() -> None:
    mean = torch.tensor([[[0.0, 0.5], [-5.0, 5.0]]])
    expected = torch.tensor([[1.0, 0.75], [-2.0, 1.0]])
    distribution = Gaussian(SPEC)
    assert torch.equal(distribution.mode(mean)[0], expected)
    assert torch.equal(distribution.deployed(nn.Identity())(mean[0]), expected)


def test_a_member_computes_the_same_bits_alone() -> None:
    """Also with three actions, which fill no vector register."""
    mean, log_std, chosen = drawn(7, 65, 3), 0.1 * drawn(7, 1, 3), drawn(7, 65, 3) + 1
    log_prob, entropy = gaussian.log_prob(mean, log_std, chosen), gaussian.entropy(log_std)
    for member in range(7):
        rows = slice(member, member + 1)
        assert torch.equal(gaussian.log_prob(mean[rows].clone(), log_std[rows].clone(), chosen[rows].clone()), log_prob[rows])
        assert torch.equal(gaussian.entropy(log_std[rows].clone()), entropy[rows])
