"""What the trainer keeps count of between rows, against a plain loop over the same steps; and how it can be ended."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserl.config.build import build
from sparserl.config.validation import compose
from sparserl.environments.base import Outcome
from sparserl.population.members import Population
from sparserl.training.statistics import Averages, Episodes
from sparserl.training.trainer import Row

MEMBERS, ENVS = 2, 3
NOTHING = torch.zeros(MEMBERS, ENVS)
events = st.lists(st.sampled_from(["step", "step", "step", "take", "abandon"]), min_size=1, max_size=40)


def outcome(draw: torch.Generator) -> Outcome:
    """A step with whole rewards, whose sums are exact in any order, in which every fourth episode ends."""
    reward = torch.randint(-5, 6, (MEMBERS, ENVS), generator=draw).float()
    terminated, truncated = ((torch.rand(MEMBERS, ENVS, generator=draw) < 1 / 8).float() for _ in range(2))
    return Outcome(NOTHING, NOTHING, reward, terminated, truncated)


@given(events, st.integers(1, 7), st.integers(0, 1000))
@settings(max_examples=100)
def test_episodes_are_counted_as_by_hand(happens: list[str], block: int, seed: int) -> None:
    """Whatever number of steps is looked at together, and wherever a row or a checkpoint comes between them."""
    episodes, draw = Episodes(Population((0, 1)), ENVS), torch.Generator().manual_seed(seed)
    episodes.block = block
    running = [[0.0] * ENVS for _ in range(MEMBERS)]
    returns: list[list[float]] = [[] for _ in range(MEMBERS)]
    steps, cut = [[0] * ENVS for _ in range(MEMBERS)], [0] * MEMBERS
    for event in [*happens, "take"]:
        if event == "step":
            step = outcome(draw)
            episodes.add(step)
            for member in range(MEMBERS):
                for env in range(ENVS):
                    running[member][env] += step.reward[member, env].item()
                    steps[member][env] += 1
                    if step.terminated[member, env] or step.truncated[member, env]:
                        returns[member].append(running[member][env])
                        running[member][env], steps[member][env] = 0.0, 0
        elif event == "abandon":
            episodes.abandon()
            running = [[0.0] * ENVS for _ in range(MEMBERS)]
            cut = [before + sum(map(bool, under_way)) for before, under_way in zip(cut, steps, strict=True)]
            steps = [[0] * ENVS for _ in range(MEMBERS)]
        else:
            taken = episodes.take()
            assert taken["train/episodes"].tolist() == [len(ended) for ended in returns]
            expected = [sum(ended) / len(ended) if ended else math.nan for ended in returns]
            assert taken["train/return"].tolist() == pytest.approx(expected, nan_ok=True)
            assert taken["train/episodes_cut"].tolist() == cut
            returns, cut = [[] for _ in range(MEMBERS)], [0] * MEMBERS


def test_episodes_that_checkpoints_end_are_counted_where_they_bend_the_mean() -> None:
    """Episodes of 10 or 90 steps with a reward of 1 each, half of either kind: the mean return is 50.

    Between checkpoints are 100 steps. The first two episodes are one of four pairs, each with a probability of 1/4: a
    long and a short one, in either order, end within the 100 steps; of two long ones only the first ends; after two
    short ones about one more short one ends before a long one is cut. So the expected number of ended episodes is (2 +
    2 + 1 + 3) / 4 = 2, the sum of their returns (100 + 100 + 90 + 30) / 4 = 80, and their mean 40 and not 50. An
    episode is cut in two of the four cases.
    """
    envs, draw = 2000, torch.Generator().manual_seed(0)

    def lengths() -> torch.Tensor:
        return torch.where(torch.rand(1, envs, generator=draw) < 0.5, 10, 90)

    episodes, left = Episodes(Population((0,)), envs), lengths()
    one, zero = torch.ones(1, envs), torch.zeros(1, envs)
    for _ in range(100):
        left = left - 1
        episodes.add(Outcome(zero, zero, one, (left == 0).float(), zero))
        left = torch.where(left == 0, lengths(), left)
    episodes.abandon()
    taken = episodes.take()
    # a deviation of one return is 40 and there are 3,500 of them: six standard errors are 4
    assert taken["train/return"].item() == pytest.approx(40, abs=4)
    # six standard errors of a share of 1/2 among 2,000
    assert taken["train/episodes_cut"].item() / envs == pytest.approx(1 / 2, abs=0.07)


def test_what_is_not_finite_stays_in_its_own_episode() -> None:
    """A reward of nan spoils the mean it belongs to, and no mean after it."""
    episodes = Episodes(Population((0,)), 1)
    for reward, ends in ((math.nan, 1.0), (2.0, 1.0)):
        for value, end in ((reward, 0.0), (1.0, ends)):
            one = torch.tensor([[value]])
            episodes.add(Outcome(one, one, one, torch.tensor([[end]]), torch.zeros(1, 1)))
        taken = episodes.take()["train/return"].item()
        assert math.isnan(taken) if math.isnan(reward) else taken == 3.0


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(1, 7))
def test_averages_are_means_over_the_steps_that_had_them(values: list[int], block: int) -> None:
    """``even`` is there at every other step only."""
    averages = Averages()
    averages.block = block
    for step, value in enumerate(values):
        metric = torch.tensor([float(value), 2.0 * value])
        averages.add({"all": metric} | ({"even": metric} if step % 2 == 0 else {}))
    means, evens = averages.take(), values[::2]
    assert means["all"].tolist() == pytest.approx([sum(values) / len(values), 2 * sum(values) / len(values)])
    assert means["even"].tolist() == pytest.approx([sum(evens) / len(evens), 2 * sum(evens) / len(evens)])
    assert averages.take() == {}


def test_the_order_of_averages_does_not_depend_on_what_came_first() -> None:
    """Rows of a run and of one that was resumed are the same bytes, also where a metric begins late."""
    whole, resumed, one = Averages(), Averages(), torch.ones(1)
    whole.add({"weights/policy": one, "weights/critic": one})
    for averages in (whole, resumed):
        averages.take()
        averages.add({"weights/policy": one, "gates/policy": one, "weights/critic": one})
    assert [*whole.take()] == [*resumed.take()]


def test_what_check_interrupt_raises_ends_the_training_in_the_middle_of_an_evaluation() -> None:
    """The smoke trainer evaluates at 200 of its 400 steps: whoever waits for the row of step 200 waits for two episodes."""
    trainer, parts = build([compose("trainer=smoke", "logger=disk")])

    def interrupt() -> None:
        raise KeyboardInterrupt

    rows = (event.env_step for event in trainer.events(parts, check_interrupt=interrupt) if isinstance(event, Row))
    assert next(rows) == 100
    with pytest.raises(KeyboardInterrupt):
        next(rows)
