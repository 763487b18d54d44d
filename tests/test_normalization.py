"""Running statistics against numpy's of all that was seen, and what they do to observations and rewards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import make_learner, parts

from sparserl import normalization
from sparserl.normalization import Normalize, Statistics
from sparserl.population.members import Population
from sparserl.training.learner import Learner
from sparserl.types import Rollout, Weights


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 100


@settings(deadline=None, max_examples=30)
@given(members=st.integers(1, 3), pieces=st.lists(st.integers(1, 7), min_size=1, max_size=5), width=st.integers(1, 4))
def test_statistics_are_numpys_of_everything_seen_whatever_pieces_it_came_in(
    members: int, pieces: list[int], width: int
) -> None:
    values = drawn(members, sum(pieces), width)
    statistics = normalization.fresh(members, (width,))
    for piece in values.split(pieces, dim=1):
        statistics = normalization.updated(statistics, piece)
    # as numpy counts the mean of 0 and the variance of 1 at the start, at their weight
    weight, seen = normalization.INITIAL_COUNT, values.double().numpy()
    rows = seen.shape[1]
    mean = seen.sum(axis=1) / (rows + weight)
    second = (np.square(seen).sum(axis=1) + weight) / (rows + weight)
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-10)
    np.testing.assert_allclose(statistics["var"], second - np.square(mean), rtol=1e-6, atol=1e-8)
    assert statistics["count"][:, 0].tolist() == pytest.approx([rows + weight] * members)


def test_what_was_seen_gets_mean_0_and_deviation_1_and_the_limit_cuts() -> None:
    values = drawn(2, 5000, 3)
    statistics = normalization.updated(normalization.fresh(2, (3,)), values)
    scaled = normalization.normalized(statistics, values, limit=10.0)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.mean(dim=1), torch.zeros(2, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(dim=1), torch.ones(2, 3), atol=1e-3, rtol=0)
    assert normalization.normalized(statistics, values, limit=0.5).abs().max() == 0.5
    one = Normalize({name: tensor[1] for name, tensor in statistics.items()}, limit=10.0)
    torch.testing.assert_close(one(values[1]), scaled[1], rtol=0, atol=0)


def test_the_discounted_return_by_hand() -> None:
    """gamma = 1/2, two sub-environments. Rewards 1, 2, 4 without an end give 1, 2.5, 5.25.

    With an end after the second they give 1, 2.5, 4.
    """
    reward = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]])
    ended = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    whole = normalization.updated_returns(normalization.fresh_returns(1), reward, ended, gamma=0.5)
    seen = np.array([1.0, 1.0, 2.5, 2.5, 5.25, 4.0])
    assert whole["var"].item() == pytest.approx(seen.var(), rel=1e-3)
    assert whole["returns"].tolist() == [[5.25, 4.0]]
    # the same one step after the other
    one: Statistics = normalization.fresh_returns(1)
    for time in range(3):
        one = normalization.updated_returns(one, reward[:, time : time + 1], ended[:, time : time + 1], gamma=0.5)
    for name, tensor in whole.items():
        torch.testing.assert_close(one[name], tensor)
    scaled = normalization.scaled_reward(whole, torch.tensor([[-1.0, 1000.0]]), limit=10.0)
    assert scaled[0].tolist() == pytest.approx([-1 / seen.std(), 10.0], rel=1e-3)


def test_a_sum_of_rewards_is_scaled_and_not_cut_at_the_limit_of_one() -> None:
    """Ten rewards of 3 deviations: none is beyond the limit of 10, and their sum is 30."""
    algorithm = make_learner("algorithm=dqn", "regularizer=none", *NORMALIZE, members=1).algorithm
    weights = {"rewards": normalization.fresh_returns(1) | {"var": torch.ones(1)}}
    ends = {"terminated": torch.ones(1, 1), "reward": torch.full((1, 1), 30.0)}
    over_ten = algorithm.bootstrapped(weights, ends | {"discount": torch.zeros(1, 1)}, torch.zeros(1, 1))
    assert over_ten.item() == pytest.approx(30.0, rel=1e-3)
    assert algorithm.bootstrapped(weights, ends, torch.zeros(1, 1)).item() == pytest.approx(10.0, rel=1e-3)


NORMALIZE = "algorithm.normalize_observation=true", "algorithm.normalize_reward=true"


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_networks_see_normalised_observations_and_the_deployed_module_does_the_same(name: str) -> None:
    learner = make_learner(f"algorithm={name}", "regularizer=none", *NORMALIZE, members=2)
    algorithm = learner.algorithm
    assert algorithm.policy == ("observations", "policy")
    observation = drawn(2, 6, 4) - 98  # 0 is near, so that the first statistics weigh nothing
    plain = algorithm.deterministic_action(learner.weights, observation)
    zeros = torch.zeros(2, 1, 6)
    rollout: Rollout = {"observation": observation.unsqueeze(1), "reward": zeros + 1, "terminated": zeros, "truncated": zeros}
    learner.observe(rollout)
    weights = learner.weights
    seen = (observation - observation.mean(dim=1, keepdim=True)) / observation.std(dim=1, correction=0, keepdim=True)
    torch.testing.assert_close(algorithm.network_input(weights, observation), seen, atol=2e-3, rtol=1e-3)
    scores = algorithm.networks["policy"](weights["policy"], algorithm.network_input(weights, observation))
    assert torch.equal(algorithm.deterministic_action(weights, observation), scores.argmax(dim=-1))
    assert not torch.equal(plain, scores.argmax(dim=-1)), "or nothing was changed by what was seen"
    for member in range(2):
        its = {c: {n: tensor[member] for n, tensor in weights[c].items()} for c in algorithm.policy}
        torch.testing.assert_close(algorithm.policy_module(its)(observation[member]), scores[member])


@pytest.mark.parametrize("read", [lambda its: its.weights, lambda its: its.acting(), lambda its: its.state_dict()["weights"]])
def test_statistics_that_a_compiled_step_is_to_take_in_are_there_for_whoever_asks_before(
    read: Callable[[Learner], Weights],
) -> None:
    configured = make_learner("algorithm=dqn", "regularizer=none", *NORMALIZE, members=2)
    eager, compiled = (
        Learner(configured.algorithm, configured.regularizer, Population((0, 1)), is_compiled) for is_compiled in (False, True)
    )
    zeros = torch.zeros(2, 1, 6)
    for _ in range(2):
        rollout = {"observation": drawn(2, 1, 6, 4), "reward": zeros + 1, "terminated": zeros, "truncated": zeros}
        for learner in (eager, compiled):
            learner.observe(rollout)
    for component in ("observations", "rewards"):
        for name, tensor in read(eager)[component].items():
            assert torch.equal(read(compiled)[component][name], tensor)
    assert read(compiled)["observations"]["count"].min() > 11


def test_images_are_not_normalised() -> None:
    algorithm = parts("algorithm=dqn", *NORMALIZE).algorithm
    spec = algorithm.bind(parts().environment.spec()).spec
    images = type(spec)(observation_shape=(8, 8), discrete_actions=2, observation_dtype=torch.uint8)
    with pytest.raises(ValueError, match="normalize_observation is true, but observations are images"):
        algorithm.bind(images)
