"""The dense control: the sizes by hand, and policies of every algorithm with as few weights as are asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import environment_for, make_learner, modules, random_batches

from sparserl.config.schema import ConfigError
from sparserl.config.validation import compose
from sparserl.networks.small_dense import scaled_down
from sparserl.regularizers.base import regularized
from sparserl.training.learner import Learner


def count(inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    sizes = inputs, *hidden, outputs
    return sum(before * after for before, after in pairwise(sizes))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        # 4 a + a b + 2 b weights
        (10_728, (120, 84)),  # all of them
        (10**6, (120, 84)),  # it is never larger
        (10_727, (119, 83)),  # the next smaller factor is 119 / 120, and 84 * 119 / 120 = 83.3
        (1_073, (35, 25)),  # 140 + 875 + 50 = 1,065; the next larger factor, 36 / 120, has 144 + 900 + 50 = 1,094
        (7, (1, 1)),
    ],
)
def test_the_sizes_of_the_default_network_by_hand(weights: int, expected: tuple[int, ...]) -> None:
    assert scaled_down((120, 84), 4, 2, weights) == expected


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple), st.integers(1, 9), st.integers(1, 5), st.integers(1, 400)
)
@settings(deadline=None)
def test_no_other_factor_gives_more_weights_within_the_limit(
    hidden: tuple[int, ...], inputs: int, outputs: int, weights: int
) -> None:
    """Against all factors that are a multiple of a thousandth."""
    smallest = count(inputs, (1,) * len(hidden), outputs)
    if weights < smallest:
        with pytest.raises(ValueError, match=f"network.weights is {weights}; .* has {smallest}"):
            scaled_down(hidden, inputs, outputs, weights)
        return
    found = count(inputs, scaled_down(hidden, inputs, outputs, weights), outputs)
    assert found <= weights
    for thousandths in range(0, 1001, 7):
        other = count(inputs, tuple(max(1, size * thousandths // 1000) for size in hidden), outputs)
        assert other <= found or other > weights


def test_a_network_without_hidden_layers_is_what_it_is() -> None:
    assert scaled_down((), 4, 2, 8) == ()
    with pytest.raises(ValueError, match=r"network.weights is 7;"):
        scaled_down((), 4, 2, 7)


def policy_weights(learner: Learner) -> int:
    components = [learner.weights[c] for c in learner.algorithm.policy]
    return sum(weight[0].numel() for layers in components for weight in regularized(layers).values())


@pytest.mark.parametrize("algorithm", modules("algorithms"))
def test_every_algorithm_has_a_small_policy_that_learns_and_critics_as_large_as_ever(algorithm: str) -> None:
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", "network.hidden=[20,10]"
    plain = make_learner(*chosen, "regularizer=none", members=2)
    small = make_learner(*chosen, "network=small_dense", "network.weights=60", "regularizer=none", members=2)
    assert 40 < policy_weights(small) <= 60 < policy_weights(plain)
    for component in small.learned:
        if component != "policy":
            assert {n: t.shape for n, t in small.weights[component].items()} == {
                n: t.shape for n, t in plain.weights[component].items()
            }
    before = {name: tensor.clone() for name, tensor in small.weights["policy"].items()}
    for step, batch in enumerate(random_batches(2, 2, 32, algorithm)):
        small.begin_rollout(step)
        small.update(batch, step)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in small.weights["policy"].items())
    assert list(small.algorithm.policy_structure()) == list(plain.algorithm.policy_structure())
    # what is deployed computes what was trained
    (batch,) = random_batches(1, 2, 32, algorithm)
    alone = {c: {n: t[1] for n, t in small.deterministic()[c].items()} for c in small.algorithm.policy}
    module = small.algorithm.policy_module(alone)
    given = module(batch["observation"][1])
    action = small.algorithm.deterministic_action(small.deterministic(), batch["observation"])[1]
    chosen_by_module = given.argmax(dim=-1) if action.dtype == torch.int64 else given
    torch.testing.assert_close(chosen_by_module, action)


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_a_shared_trunk_counts_with_the_head_of_the_policy(algorithm: str) -> None:
    shared = f"algorithm={algorithm}", "algorithm.share_trunk=true", "regularizer=none"
    learner = make_learner(*shared, "network=small_dense", "network.hidden=[20,10]", "network.weights=60")
    assert 40 < policy_weights(learner) <= 60
    (batch,) = random_batches(1, 1, 32, algorithm)
    learner.begin_rollout(0)
    learner.update(batch, 0)


def test_too_few_weights_are_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"network.weights is 6; a policy with one unit in each hidden layer has 7"):
        compose("network=small_dense", "network.weights=6")


def test_how_many_weights_must_be_said() -> None:
    with pytest.raises(ConfigError, match=r"network.weights is missing and has no default; set it with network.weights=VALUE"):
        compose("network=small_dense")


@pytest.mark.parametrize("algorithm", modules("algorithms"))
def test_it_is_made_smaller_from_what_the_algorithm_has(algorithm: str) -> None:
    """PPO's perceptrons, for example, have other sizes and activations than DQN's: conf/tuned/network has a file for both."""
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}"
    perceptron, small = (compose(*chosen, *its)["network"] for its in ((), ("network=small_dense", "network.weights=1000")))
    assert {key: small[key] for key in perceptron if key != "_target_"} == {
        key: value for key, value in perceptron.items() if key != "_target_"
    }
