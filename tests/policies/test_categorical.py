"""Against torch.distributions and against Monte Carlo."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical

from sparserl.policies import categorical
from sparserl.population.members import Population

DRAWS = 100_000


def random_logits() -> Tensor:
    """Of two members, in five states, for four actions; from nearly equal to nearly certain."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 4, generator=draw) * torch.tensor([0.1, 1.0, 3.0, 10.0, 60.0]).view(5, 1)


def test_log_prob_and_entropy_are_torchs() -> None:
    logits = random_logits()
    theirs = Categorical(logits=logits)
    torch.testing.assert_close(categorical.entropy(logits), theirs.entropy())
    for action in range(4):
        actions = torch.full((2, 5), action)
        torch.testing.assert_close(categorical.log_prob(logits, actions), theirs.log_prob(actions))


def test_the_gradients_are_torchs() -> None:
    logits = random_logits().requires_grad_()
    actions = torch.tensor([0, 1, 2, 3, 0]).expand(2, 5)
    theirs = Categorical(logits=logits)
    pairs = (categorical.log_prob(logits, actions), theirs.log_prob(actions)), (categorical.entropy(logits), theirs.entropy())
    for mine, its in pairs:
        found, expected = (torch.autograd.grad(values.sum(), logits, retain_graph=True)[0] for values in (mine, its))
        torch.testing.assert_close(found, expected)


def test_the_mode_is_the_most_probable_action() -> None:
    logits = random_logits()
    assert torch.equal(categorical.mode(logits), Categorical(logits=logits).probs.argmax(dim=-1))


def test_samples_have_the_probabilities_of_the_softmax() -> None:
    logits = random_logits()
    uniforms = Population((0, 1)).generators("exploration").uniform(DRAWS, 5, 4)
    actions = categorical.sample(logits.unsqueeze(1).expand(2, DRAWS, 5, 4), uniforms)
    shares = torch.nn.functional.one_hot(actions, 4).double().mean(dim=1)
    expected = torch.softmax(logits.double(), dim=-1)
    # five standard errors, and a thousandth of one draw where a probability is nearly 0 or 1: one of 40 shares misses by chance
    # in one of 40,000 seeds
    assert ((shares - expected).abs() <= 5 * (expected * (1 - expected) / DRAWS).sqrt() + 1e-8).all()


def test_the_ends_of_the_uniform_numbers_are_actions_too() -> None:
    """The smallest number that a generator gives is 0, the largest 1 - 2**-24: the noise of neither is infinite.

    It is -log(log(2**25)) = -2.85 and -log(2**-24) = 16.64, so logits that are further apart than 19.49 decide in spite of it.
    """
    ends = torch.tensor([0.0, 1 - 2**-24])
    assert categorical.sample(torch.zeros(2), ends) == 1
    assert categorical.sample(torch.zeros(2), ends.flip(0)) == 0
    assert categorical.sample(torch.tensor([19.4, 0.0]), ends) == 1
    assert categorical.sample(torch.tensor([19.6, 0.0]), ends) == 0
