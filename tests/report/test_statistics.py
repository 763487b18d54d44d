"""Estimates against closed forms and worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparserl.report.statistics import (
    Estimate,
    curve,
    ends,
    estimate,
    iqm,
    performance_profile,
    pooled_mean,
    probability_of_improvement,
    ratio_of_iqms,
    resamples,
)

SCORES = st.lists(st.integers(0, 20), min_size=1, max_size=6)


def test_the_interquartile_mean_leaves_out_a_quarter_on_each_side() -> None:
    assert iqm([1, 2, 3, 4, 5, 6, 7, 8]) == 4.5  # of 3, 4, 5 and 6
    assert iqm([-1000, 2, 3, 4, 5, 6, 7, 1000]) == 4.5  # whatever the two lowest and the two highest are
    assert iqm([0, 1, 2, 3, 100]) == 2  # of 1, 2 and 3: a quarter of five is one
    assert iqm([0, 1, 8]) == 3  # nothing is left out
    assert iqm([[4, 0, 2, 2], [1, 1, 1, 9]]).tolist() == [2, 1]


def test_the_bootstrap_of_coin_flips_has_the_quantiles_of_the_binomial_distribution() -> None:
    """A resample of five ones and five zeros has Binomial(10, 1/2) ones: at most 2 with 5.5 %, at most 1 with 1.1 %.

    So the 2.5 % quantile is 2, and by symmetry the 97.5 % quantile is 8. Of 5000 resamples 273 have at most 2 and 54 at most 1;
    125 is the quantile, more than nine deviations from both.
    """
    found = estimate([[0.0, 1.0] * 5], pooled_mean)
    assert found == Estimate(0.5, 0.2, 0.8, 10)


def test_the_bootstrap_of_a_mean_has_the_deviation_of_its_closed_form() -> None:
    """sqrt((n - 1) / n) standard errors. That of 5000 resamples deviates by 1 % (1 / sqrt(2 * 5000)); 5 % is five of it."""
    sample = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    means = pooled_mean(resamples([sample]))
    assert means.std() == pytest.approx(stats.sem(sample) * (5 / 6) ** 0.5, rel=0.05)


def test_each_task_keeps_its_runs() -> None:
    """Without strata the mean of two tasks that are far apart would vary with how often each was drawn."""
    assert estimate([[0.0] * 3, [10.0] * 3], pooled_mean) == Estimate(5.0, 5.0, 5.0, 6)
    mixed = estimate([[0.0, 0.0, 0.0, 10.0, 10.0, 10.0]], pooled_mean)
    assert mixed is not None
    assert (mixed.low, mixed.high) != (5, 5)


def test_an_interval_is_the_same_whenever_it_is_made() -> None:
    sample = [3.0, 1.0, 4.0, 1.0, 5.0]
    first = estimate([sample])
    estimate([[2.0, 7.0]])
    assert estimate([sample]) == first


def test_one_run_has_no_interval_and_none_has_no_estimate() -> None:
    assert estimate([[7.0]]) == Estimate(7.0, None, None, 1)
    assert estimate([[]]) is None
    assert estimate([[1.0], []], ratio_of_iqms) is None
    beside_five = estimate([[500.0], [500.0] * 5], ratio_of_iqms)
    assert beside_five == Estimate(1.0, None, None, 6), "one run is not known for certain, whatever is beside it"


def test_a_quotient_of_interquartile_means() -> None:
    found = estimate([[1.0, 3.0], [4.0, 4.0]], ratio_of_iqms)
    assert found == Estimate(0.5, 0.25, 0.75, 4)  # a quarter of the resamples of 1 and 3 are 1 and 1, a quarter 3 and 3


def test_what_cannot_be_divided_has_no_estimate_and_what_perhaps_cannot_has_no_interval() -> None:
    assert estimate([[1.0, 2.0], [0.0, 0.0]], ratio_of_iqms) is None
    assert estimate([[1.0, 1.0], [0.0, 2.0]], ratio_of_iqms) == Estimate(1.0, None, None, 4)


def test_the_probability_of_improvement_of_a_worked_example() -> None:
    """Of 1 and 3 against 2 and 3: 1 loses twice, 3 wins and ties, so 1.5 of 4. On a task that is always won it is 1."""
    x, y, won = np.array([1.0, 3.0]), np.array([2.0, 3.0]), np.array([9.0])
    assert probability_of_improvement([x, y]) == 0.375
    assert stats.mannwhitneyu(x, y).statistic / 4 == 0.375
    assert probability_of_improvement([x, won, y, np.array([0.0])]) == (0.375 + 1) / 2


@given(SCORES, SCORES)
def test_better_and_worse_are_everything(x: list[int], y: list[int]) -> None:
    first, second = np.array(x, float), np.array(y, float)
    assert probability_of_improvement([first, second]) + probability_of_improvement([second, first]) == pytest.approx(1)


def test_a_performance_profile_is_the_share_of_runs_above_each_threshold() -> None:
    profile = performance_profile([np.array([0.0, 0.5, 1.0, 1.0])], np.array([-1.0, 0.0, 0.75, 1.0]))
    assert profile.tolist() == [1, 0.75, 0.5, 0]
    # tasks weigh the same however many runs they have
    assert performance_profile([np.array([1.0]), np.zeros(9)], np.array([0.5])).tolist() == [0.5]


@given(st.lists(SCORES, min_size=1, max_size=3))
def test_performance_profiles_fall_from_one_to_zero(tasks: list[list[int]]) -> None:
    profile = performance_profile([np.array(task, float) for task in tasks], np.arange(-1.0, 21.0))
    assert profile[0] == 1
    assert profile[-1] == 0
    assert (np.diff(profile) <= 0).all()


def test_a_curve_is_drawn_run_by_run() -> None:
    """Two runs that cross: each resample of both has one of three curves, so the band touches both runs at every step."""
    middle, band = curve([[0.0, 10.0], [10.0, 0.0]])
    assert middle.tolist() == [5, 5]
    assert band.tolist() == [[0, 0], [10, 10]]
    alone, its_band = curve([[1.0, 2.0]])
    assert (alone.tolist(), its_band.tolist()) == ([1, 2], [[1, 2], [1, 2]])


def test_ends_are_of_the_first_axis() -> None:
    assert ends(np.stack([np.arange(41.0), np.zeros(41)], axis=1)).tolist() == [pytest.approx([1, 0]), pytest.approx([39, 0])]
