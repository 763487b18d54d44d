"""Running statistics against numpy's of all that was seen, and what they do to observations and rewards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import environment_for, make_learner, modules, parts, random_batches

from sparserl import normalization
from sparserl.algorithms.on_policy import OnPolicyActorCritic
from sparserl.normalization import Normalize, Statistics
from sparserl.population.members import Population
from sparserl.training.learner import Learner
from sparserl.types import Rollout, Time, Weights


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


def normalized_before(learner: Learner, data: Rollout) -> Rollout:
    """Observations ``[member, row, 1, ...]`` and rewards by the statistics of a learner, in the place of the algorithm."""
    weights, limit = learner.weights, learner.algorithm.normalized_limit
    seen = {
        name: normalization.normalized(weights["observations"], data[name].flatten(1, 2), limit).view(data[name].shape)
        for name in ("observation", "next_observation")
    }
    reward = normalization.scaled_reward(weights["rewards"], data["reward"].flatten(1, 2), limit).view(data["reward"].shape)
    return data | seen | {"reward": reward}


@pytest.mark.parametrize("name", modules("algorithms"))
def test_to_learn_from_raw_data_is_to_learn_from_data_that_were_normalised_before(name: str) -> None:
    """In every number that a loss is computed from: what was seen, what followed, and what was given for it."""
    given = f"algorithm={name}", f"environment={environment_for(name)}", "regularizer=none", "network.hidden=[8,8]"
    ours = make_learner(*given, *NORMALIZE, members=2)
    plain = make_learner(*given, *(its.replace("true", "false") for its in NORMALIZE), members=2)
    for step in (0, 1):  # what was seen so far is of another scale
        seen = random_batches(step + 1, members=2, size=12, algorithm=name)[step]
        seen |= {"observation": 5 * seen["observation"] + 3, "reward": 7 * seen["reward"], "truncated": seen["terminated"]}
        ours.observe({field: values.unsqueeze(2) for field, values in seen.items()})
    batch = random_batches(3, members=2, size=12, algorithm=name)[2]
    batch |= {"truncated": batch["terminated"].roll(1, dims=1)}
    raw = {field: values.unsqueeze(2) for field, values in batch.items()}
    losses = []
    for learner, data in ((ours, raw), (plain, normalized_before(ours, raw))):
        algorithm, weights = learner.algorithm, learner.weights
        if isinstance(algorithm, OnPolicyActorCritic):
            data |= {algorithm.distribution.chosen: data["action"]}
            prepared = algorithm.prepare(weights, data)
        else:
            prepared = {field: values.flatten(1, 2) for field, values in data.items()}
        rng = Population((0, 1)).rng("update")
        objectives = algorithm.losses(weights, weights, prepared, Time(10, 0, 0), rng)
        losses.append({each: objective.loss for each, objective in objectives.items()})
        assert {"policy", "critic"} & losses[-1].keys()
    for each, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][each])


def test_a_truncated_episode_ends_the_discounted_sum_of_its_rewards() -> None:
    """gamma = 1/2. Rewards of 1, cut off after the second: 1, 1.5, 1, 1.5."""
    learner = make_learner("algorithm=dqn", "regularizer=none", "algorithm.gamma=0.5", *NORMALIZE, members=1)
    ones = torch.ones(1, 4, 1)
    cut = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 4, 1)
    learner.observe({"observation": torch.zeros(1, 4, 1, 4), "reward": ones, "terminated": 0 * ones, "truncated": cut})
    assert learner.weights["rewards"]["mean"].item() == pytest.approx(np.mean([1, 1.5, 1, 1.5]), rel=1e-3)
    assert learner.weights["rewards"]["returns"].item() == 1.5


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
