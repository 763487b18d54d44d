from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserl.schedules import Constant, DelayedRamp, Linear


def test_constant() -> None:
    assert [Constant(0.3)(step) for step in (0, 1, 10**9)] == [0.3] * 3


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 1.0), (100, 1.0), (150, 0.8), (200, 0.6), (300, 0.2), (301, 0.2), (10**9, 0.2)],
)
def test_linear_waits_then_goes_straight_then_stays(step: int, value: float) -> None:
    # 100 steps at 1, then 0.8 less within 200 steps: 0.4 less in each hundred
    assert Linear(start=1.0, end=0.2, steps=200, delay_steps=100)(step) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("step", "value"), [(0, 0.0), (99, 0.0), (100, 0.0), (125, 0.5), (150, 1.0), (151, 1.0), (10**9, 1.0)])
def test_delayed_ramp_is_off_then_rises_then_is_on(step: int, value: float) -> None:
    assert DelayedRamp(delay_steps=100, ramp_steps=50)(step) == pytest.approx(value, abs=1e-12)


def test_delayed_ramp_without_a_ramp_is_a_switch() -> None:
    switch = DelayedRamp(delay_steps=100, ramp_steps=0)
    assert [switch(step) for step in (0, 99, 100, 101)] == [0.0, 0.0, 1.0, 1.0]


def test_delayed_ramp_of_no_steps_is_on_from_the_start() -> None:
    assert DelayedRamp(delay_steps=0, ramp_steps=0)(0) == 1.0


numbers = st.floats(-1e3, 1e3)
counts = st.integers(0, 10**6)


@given(start=numbers, end=numbers, steps=st.integers(1, 10**6), delay=counts, early=counts, late=counts)
def test_linear_moves_one_way_and_stays_between_its_ends(
    start: float, end: float, steps: int, delay: int, early: int, late: int
) -> None:
    schedule = Linear(start, end, steps, delay)
    first, second = schedule(min(early, late)), schedule(max(early, late))
    rounding = 1e-9
    assert min(start, end) - rounding <= first <= max(start, end) + rounding
    assert abs(second - end) <= abs(first - end) + rounding
    assert schedule(delay) == start
    assert schedule(delay + steps) == pytest.approx(end, abs=rounding)
