"""Intervals against scipy's quantiles, and where resampling sees no spread."""

import numpy as np
import pytest
from scipy.stats import binomtest, t

from mura_tune.metrics.estimates import exact, interval, pooled, t_quantile, wilson


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 12, 30, 100, 1000])
def test_students_t_is_scipys(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=0.01)


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_exact_bounds_are_clopper_and_pearsons(n: int, share: float) -> None:
    expected = binomtest(int(share * n), n).proportion_ci(method="exact")
    assert exact(share, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 5), (40, 90)])
def test_a_share_of_independent_cases_has_wilsons_interval(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high))


def test_exact_bounds_claim_nothing_where_they_do_not_apply() -> None:
    assert exact(0.5, 10) == (0.0, 1.0)
    assert exact(1.0, 0) == (0.0, 1.0)


def test_a_share_of_many_patients_has_the_textbook_interval() -> None:
    draws = np.random.default_rng(0).binomial(400, 0.7, 2000) / 400
    low, high = interval(0.7, draws, 399)
    assert (low, high) == pytest.approx((0.7 - 0.0449, 0.7 + 0.0449), abs=0.003)


@pytest.mark.parametrize("value", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("floor", [0.0, -1.0])
def test_an_interval_holds_its_value_and_stays_on_the_scale(value: float, floor: float) -> None:
    draws = np.clip(np.random.default_rng(0).normal(value, 0.2, 500), floor, 1)
    low, high = interval(value, draws, 12, floor=floor)
    assert floor <= low < value < high <= 1


def test_no_spread_is_left_to_the_caller_and_no_value_stays_none() -> None:
    assert interval(1.0, np.ones(9), 20) == (1.0, 1.0)
    assert interval(0.4, np.full(9, 0.4), 20) == (0.4, 0.4)
    assert interval(0.4, np.array([0.1, 0.9]), 0, floor=-1) == (-1.0, 1.0)
    assert np.isnan(interval(float("nan"), np.ones(9), 20)).all()


def test_two_classes_of_patients_pool_their_freedom() -> None:
    assert pooled(25, 25) == pytest.approx(48)
    assert 2 < pooled(3, 1000) < 2.1  # hardly more than the three alone
    assert pooled(1, 1000) == 0
