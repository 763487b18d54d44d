"""Masks that are drawn or chosen by magnitude: how many there are and where, by hand; and that they hold while one learns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import environment_for, immediately, make_learner, make_regularizer, random_batches
from torch import Tensor

from sparserl.config.schema import ConfigError
from sparserl.config.validation import compose
from sparserl.population.members import Population
from sparserl.population.random import Generators
from sparserl.regularizers.magnitude import Magnitude
from sparserl.regularizers.masks import erdos_renyi_kernel, without_lowest, without_lowest_of_all
from sparserl.regularizers.random import RandomMask
from sparserl.sweeps.loop import run
from sparserl.training.learner import Learner
from sparserl.training.metrics import observe
from sparserl.types import Layers


def layers_of(members: int = 1, seed: int = 0) -> Layers:
    """Three layers of a policy, 4-120-84-2 units, with biases."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (4, 120), "0.bias": (1, 120), "1.weight": (120, 84), "2.weight": (84, 2)}
    return {name: torch.randn(members, *shape, generator=draw) for name, shape in shapes.items()}


def generators(*seeds: int) -> Generators:
    return Population(seeds).generators("gates")


def random(*target: float, **changes: Any) -> RandomMask:
    regularizer = make_regularizer("regularizer=random", members=len(target))
    assert isinstance(regularizer, RandomMask)
    return dataclasses.replace(regularizer, target_sparsity=torch.tensor(target), **changes)


def magnitude(*target: float, **changes: Any) -> Magnitude:
    """Pruning from step 100 to 200, at every tenth."""
    regularizer = make_regularizer("regularizer=magnitude", members=len(target))
    assert isinstance(regularizer, Magnitude)
    plain = {"start_step": 100, "end_step": 200, "update_interval": 10}
    return dataclasses.replace(regularizer, target_sparsity=torch.tensor(target), **(plain | changes))


def closed(masks: dict[str, Tensor]) -> dict[str, list[int]]:
    """How many are closed in each layer, of each member."""
    assert all(((mask == 0) | (mask == 1)).all() for mask in masks.values())
    return {name: (mask == 0).flatten(1).sum(dim=1).tolist() for name, mask in masks.items()}


# ---------------------------------------------------------------- which are closed


def test_the_lowest_scores_are_closed_by_hand() -> None:
    """Half of the first member's, three of five of the second's rounded from 0.55 * 5 = 2.75; of equals the first ones."""
    scores = torch.tensor([[[0.3, 0.1], [0.4, 0.2]], [[0.0, 0.0], [0.0, 0.0]]])
    assert without_lowest(scores, torch.tensor([0.5, 0.75])).tolist() == [[[1, 0], [1, 0]], [[0, 0], [0, 1]]]
    of_all = without_lowest_of_all({"a": scores[:1], "b": torch.tensor([[0.25]])}, torch.tensor([0.55]))
    assert {name: mask.tolist() for name, mask in of_all.items()} == {"a": [[[1, 0], [1, 0]]], "b": [[0]]}


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 3))
def test_the_number_that_is_closed_is_the_share_rounded(size: int, share: float, seed: int) -> None:
    """Also where scores are equal."""
    scores = torch.rand(2, size, generator=torch.Generator().manual_seed(seed)).mul(5).round()
    shares = torch.tensor([share, 1 - share], dtype=torch.float64)
    expected = [round(share * size), round(float(shares[1]) * size)]
    assert closed({"": without_lowest(scores, shares)})[""] == expected


# ---------------------------------------------------------------- how zeros are spread over layers

SHAPES = {"0": (4, 120), "1": (120, 84), "2": (84, 2)}
"""480, 10,080 and 168 weights: 10,728."""


def test_the_erdos_renyi_kernel_by_hand() -> None:
    """At 90 % zeros 1072.8 weights are kept. A layer's n * (sum / product of its dimensions) is the sum of its dimensions.

    124 + 204 + 86 = 414 dimensions, so the factor is 1072.8 / 414 = 2.591; 2.591 * 86 / 168 is above 1, so layer 2 keeps
    all. The others share 904.8 by 124 + 204 = 328: the factor becomes 2.7585, which is 342.05 of layer 0 and 562.7 of layer 1.
    """
    kept = erdos_renyi_kernel(SHAPES, 0.9)
    assert kept["2"] == 1
    assert kept["0"] * 480 == pytest.approx(904.8 * 124 / 328)
    assert kept["1"] * 10_080 == pytest.approx(904.8 * 204 / 328)


def test_several_layers_may_keep_all_and_a_kernel_counts_with_its_height_and_width() -> None:
    """Layers of 2 * 2 and 4 * 1 weights have scales 1 and 5/4, a kernel of 10 * 10 * 3 * 3 has 26 / 900.

    Of 908 weights 181.6 are kept; 181.6 / 35 > 1, so the second keeps all, then 177.6 / 30 > 1, so does the first.
    """
    kept = erdos_renyi_kernel({"a": (2, 2), "b": (4, 1), "c": (10, 10, 3, 3)}, 0.8)
    assert (kept["a"], kept["b"]) == (1, 1)
    assert kept["c"] * 900 == pytest.approx(181.6 - 8)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5), st.floats(0, 0.999))
def test_the_kernel_keeps_as_much_as_is_asked_for_and_no_layer_more_than_it_has(
    shapes: list[tuple[int, int]], sparsity: float
) -> None:
    named = {str(index): shape for index, shape in enumerate(shapes)}
    kept = erdos_renyi_kernel(named, sparsity)
    sizes = {name: shape[0] * shape[1] for name, shape in named.items()}
    assert all(0 <= share <= 1 + 1e-12 for share in kept.values())
    assert sum(kept[name] * sizes[name] for name in named) == pytest.approx((1 - sparsity) * sum(sizes.values()))


@pytest.mark.parametrize(
    ("distribution", "first", "second"),
    [
        # 90 % of 480, 10,080 and 168, and half of them
        ("uniform", [432, 9072, 151], [240, 5040, 84]),
        # those of the example above; at 50 % 5,364 are kept: layers 0 and 2 keep all and layer 1 the other 4,716
        ("erk", [480 - 342, 10_080 - 563, 0], [0, 5364, 0]),
    ],
)
def test_random_masks_close_each_members_share_of_each_layer(distribution: Any, first: list[int], second: list[int]) -> None:
    masks = random(0.9, 0.5, distribution=distribution).init(layers_of(2), generators(0, 1))
    assert closed(masks) == {f"{index}.weight": [first[index], second[index]] for index in range(3)}


def test_random_masks_are_each_members_own() -> None:
    """Of its seed, whoever is beside it; whatever its weights are."""
    together = random(0.9, 0.5, 0.9).init(layers_of(3), generators(5, 6, 7))
    alone = random(0.5).init(layers_of(1, seed=1), generators(6))
    assert all(torch.equal(together[name][1:2], alone[name]) for name in alone)
    assert not torch.equal(together["1.weight"][0], together["1.weight"][2])


def test_random_masks_are_uniform_over_a_layer() -> None:
    """Rows of the second layer have 84 masks of which half are closed: 42 in the mean, with a deviation of 4.6.

    Of 120 rows none is 5 deviations off by chance (6e-7 each).
    """
    (mask,) = random(0.5, distribution="uniform").init(layers_of(), generators(0))["1.weight"]
    rows = mask.sum(dim=1)
    assert (rows - 42).abs().max() < 5 * 4.6
    assert rows.std() > 2.3, "and they are not dealt out row by row"


# ---------------------------------------------------------------- the schedule


def test_the_cubic_schedule_by_hand() -> None:
    """Zhu and Gupta's equation 1: 1 - (1 - p)^3, at the last multiple of 10 steps after step 100."""
    progress = magnitude(0.9).progress
    by_hand = {-1: 0, 0: 0, 100: 0, 109: 0, 110: 0.271, 119: 0.271, 150: 0.875, 190: 0.999, 199: 0.999, 200: 1, 10**6: 1}
    assert {step: progress(step) for step in by_hand} == pytest.approx(by_hand)
    once = magnitude(0.9, schedule="one_shot").progress
    assert [once(step) for step in (-1, 0, 150, 199, 200, 201)] == [0, 0, 0, 0, 1, 1]


@given(st.integers(0, 20), st.integers(0, 60), st.integers(1, 80))
@settings(deadline=None, max_examples=50)
def test_the_schedule_never_falls_and_ends_at_all(start: int, length: int, interval: int) -> None:
    """Also where the interval does not divide the length, or is longer, or there is no length."""
    progress = magnitude(0.9, start_step=start, end_step=start + length, update_interval=interval).progress
    shares = [progress(step) for step in range(-1, start + length + 2)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        # 60 % of all 10,728; the weights have one distribution, so it is about 60 % of each layer
        ("global", None),
        ("uniform", [288, 6048, 101]),
        # 4,291.2 are kept: layers 0 and 2 keep all, layer 1 the other 3,643.2
        ("erk", [0, 10_080 - 3643, 0]),
    ],
)
def test_the_smallest_weights_are_closed(distribution: Any, expected: list[int] | None) -> None:
    regularizer, layers = magnitude(0.6, distribution=distribution), layers_of()
    masks = regularizer.scheduled(layers, regularizer.init(layers, generators(0)), 199, 200)
    found = [numbers[0] for numbers in closed(masks).values()]
    if expected is None:
        assert sum(found) == round(0.6 * 10_728)
        limits = {layers[name].abs()[masks[name] == 0].max() for name in masks}
        kept = min(float(layers[name].abs()[masks[name] == 1].min()) for name in masks)
        assert max(map(float, limits)) <= kept, "no weight that is kept is smaller than one that is not, of any layer"
    else:
        assert found == expected
        for name, mask in masks.items():
            size, shut = layers[name].abs(), mask == 0
            assert torch.where(shut, size, 0).max() <= torch.where(shut, 9, size).min()


def test_masks_change_only_when_they_are_due_and_may_open_again() -> None:
    """As published, a weight that was closed is compared by the value that it kept."""
    regularizer = magnitude(0.5, start_step=0, end_step=20, update_interval=10)
    layers = {"0.weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    fresh = regularizer.init(layers, generators(0))
    assert fresh["0.weight"].tolist() == [[1, 1, 1, 1]]
    assert regularizer.scheduled(layers, fresh, -1, 9) is fresh
    # at half of the way 1 - 1/8 of 2 are closed: 1.75, rounded to 2
    masks = regularizer.scheduled(layers, fresh, 9, 10)
    assert masks["0.weight"].tolist() == [[0, 0, 1, 1]]
    assert regularizer.scheduled(layers, masks, 10, 19) is masks
    layers["0.weight"][0, 2:] = torch.tensor([0.5, 4.0])  # an open one is smaller now than one that was closed
    assert regularizer.scheduled(layers, masks, 19, 20)["0.weight"].tolist() == [[0, 1, 0, 1]]
    assert regularizer.scheduled(layers, masks, 20, 30) is masks


def test_a_schedule_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"regularizer.start_step is 30; it must be at most regularizer.end_step, 20"):
        compose("regularizer=magnitude", "regularizer.start_step=30", "regularizer.end_step=20")


@pytest.mark.parametrize("value", ["1", "-0.1"])
def test_a_share_of_all_or_less_than_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=f"regularizer.target_sparsity is {value}"):
        compose("regularizer=random", f"regularizer.target_sparsity={value}")


# ---------------------------------------------------------------- while one learns

STEPS = 25


def updated(learner: Learner, steps: int, algorithm: str = "dqn") -> None:
    """Gradient steps, each as a rollout of its own where the algorithm learns from rollouts."""
    for step, batch in enumerate(random_batches(steps, learner.size, 32, algorithm)):
        learner.begin_rollout(step)
        learner.update(batch, step)


@pytest.mark.parametrize("algorithm", ["dqn", "ppo", "sac"])
@pytest.mark.parametrize("regularizer", ["random", "magnitude"])
def test_zeros_stay_zero_under_adam_and_what_is_open_moves(regularizer: str, algorithm: str) -> None:
    """In what acts, in what is deployed and in what learns; masks are complete from step 20 on."""
    chosen = f"algorithm={algorithm}", f"environment={environment_for(algorithm)}", "network.hidden=[13,7]"
    spread = ["regularizer.distribution=uniform"]  # PPO's last layer is small at first: among all its weights go first
    learner = make_learner(*chosen, f"regularizer={regularizer}", *immediately(regularizer), *spread, members=2)
    updated(learner, STEPS, algorithm)
    before = {c: {n: t.clone() for n, t in learner.deterministic()[c].items()} for c in learner.covered}
    masks = {c: {n: t.clone() for n, t in learner.gates[c].items()} for c in learner.covered}
    for step, batch in enumerate(random_batches(20, learner.size, 32, algorithm), start=STEPS):
        learner.begin_rollout(step)
        learner.update(batch, step)
        assert (observe(learner)["sparsity/exact"] - 0.5).abs().max() < 0.02  # rounding in each layer
    acting, deployed = learner.acting(), learner.deterministic()
    running = learner._step.running(learner.state, learner.weights, {})
    for component in learner.covered:
        for name, mask in masks[component].items():
            assert torch.equal(learner.gates[component][name], mask)
            for weights in (deployed, running, *[acting] * (component in acting)):
                assert (weights[component][name][mask == 0] == 0).all()
            moved = (deployed[component][name] != before[component][name]) & (mask == 1)
            assert moved.any()  # not all: what leads to a dead unit, or away from one, has no gradient
    for target, leader in learner.algorithm.targets.items():
        for name, mask in masks[leader].items():
            assert (running[target][name][mask == 0] == 0).all()
            assert (learner.weights[target][name] != 0).all(), "a target is kept raw"


def test_what_is_made_of_masks_is_made_again_when_they_change() -> None:
    """At first all are open, and so nothing is multiplied; also while acting and evaluating, which keep what they made."""
    learner = make_learner("regularizer=magnitude", *immediately("magnitude"), members=1)
    batches = random_batches(2, 1, 32)
    learner.update(batches[0], 0)
    assert learner.state.fixed_gates["policy"].multipliers == {}
    dense = learner.acting()["policy"]["1.weight"]
    assert (dense != 0).all()
    learner.update(batches[1], 20)
    masks = learner.gates["policy"]
    assert learner.state.fixed_gates["policy"].multipliers.keys() == masks.keys()
    assert ((learner.acting()["policy"]["1.weight"] == 0) == (masks["1.weight"] == 0)).all()


def test_under_ppo_masks_change_between_rollouts_only_so_the_first_ratio_is_one() -> None:
    learner = make_learner("algorithm=ppo", "regularizer=magnitude", *immediately("magnitude"), members=2)
    shares = []
    for rollout in range(1, 4):
        learner.begin_rollout(4 * rollout)
        acted = {name: tensor.clone() for name, tensor in learner.acting()["policy"].items()}
        running = learner._step.running(learner.state, learner.weights, {})["policy"]
        assert all(torch.equal(running[name], acted[name]) for name in acted)
        for batch in random_batches(3, 2, 32, "ppo"):
            learner.update(batch, 4 * rollout + 4)
            shares.append(float(observe(learner)["sparsity/expected"][0]))
    assert shares[0] == shares[1] == shares[2] < shares[3] == shares[4] == shares[5] < shares[6]


def test_what_is_due_in_the_last_steps_is_done_before_the_last_evaluation(tmp_path: Path, undrawn: None) -> None:
    """One shot at the end of the training, also under PPO, which begins no rollout after it."""
    once = "regularizer.schedule=one_shot", "regularizer.end_step=400", "regularizer.target_sparsity=0.5"
    for algorithm in ("dqn", "ppo"):
        config = compose(f"algorithm={algorithm}", "trainer=smoke", "logger=disk", "regularizer=magnitude", *once)
        (result,) = run([config], [tmp_path / algorithm], live=False)
        assert result.sparsity == result.expected_sparsity == 0.5
        rows = [json.loads(line) for line in (tmp_path / algorithm / "metrics.jsonl").read_text().splitlines()]
        assert [row["sparsity/exact"] for row in rows] == [0.0] * (len(rows) - 1) + [0.5]


def test_gates_and_metrics_of_masks_are_their_shares() -> None:
    """Closed and open are complements, none is undecided, and what moved is the share that changed."""
    learner = make_learner("regularizer=magnitude", *immediately("magnitude"), members=1)
    updated(learner, STEPS)
    row = {name: float(value) for name, value in observe(learner).items()}
    assert [row[f"gates/{name}"] for name in ("closed", "open", "undecided", "moved")] == [0.5, 0.5, 0.0, 0.5]
    assert (row["sparsity/expected"], row["sparsity/exact"]) == (0.5, 0.5)
