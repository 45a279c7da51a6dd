"""Net benefit and predictive values against their definitions, counted by hand."""

import numpy as np
import pytest

from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.net_benefit import (
    decision_curve,
    estimate_net_benefit,
    predict_at_prevalences,
)
from mura_tune.metrics.operating_points import estimate_at_threshold


def studies(n: int = 100, noise: float = 0.25) -> StudyScores:
    rng = np.random.default_rng(3)
    names = np.array([f"s{i:03}" for i in range(n)], dtype=object)
    labels = (np.arange(n) % 5 < 2).astype(np.int64)
    scores = np.clip(0.25 + 0.5 * labels + noise * rng.normal(size=n), 0.01, 0.99)
    return StudyScores(names, names, labels, scores)


def test_net_benefit_is_hits_less_weighted_alarms_per_study() -> None:
    table = studies()
    found = estimate_net_benefit(table, 0.3)
    called = table.scores >= 0.3
    hits, alarms = (called & (table.labels == 1)).sum(), (called & (table.labels == 0)).sum()
    assert found.model.value == pytest.approx((hits - alarms * 0.3 / 0.7) / 100)
    assert found.treat_all == pytest.approx(0.4 - 0.6 * 0.3 / 0.7)
    assert found.gain.value == pytest.approx(found.model.value - found.treat_all)
    assert 0 < found.gain.low < found.gain.value < found.gain.high
    high = estimate_net_benefit(table, 0.7)
    assert high.treat_all < 0
    assert high.gain.value == pytest.approx(high.model.value)  # calling none is the better rival
    with pytest.raises(ValueError, match=r"1\.0 has no net benefit"):
        estimate_net_benefit(table, 1.0)


def test_the_decision_curve_passes_through_each_net_benefit() -> None:
    table = studies()
    curve = decision_curve(table, draws=100)
    at = int(np.argmin(np.abs(curve.thresholds - 0.3)))
    one = estimate_net_benefit(table, float(curve.thresholds[at]))
    assert curve.model[at] == pytest.approx(one.model.value)
    assert curve.treat_all[at] == pytest.approx(one.treat_all)
    assert (curve.low <= curve.model).all()
    assert (curve.model <= curve.high).all()


def test_predictive_values_follow_from_bayes_and_those_here_are_the_ones_counted() -> None:
    table = studies()
    here = estimate_at_threshold(table, 0.5)
    own, rare = predict_at_prevalences(table, 0.5, (0.4, 0.05))
    assert own.ppv.value == pytest.approx(here["ppv"].value)
    assert own.npv.value == pytest.approx(here["npv"].value)
    assert own.flags == pytest.approx(100 * (table.scores >= 0.5).mean())
    se, sp = here["sensitivity"].value, here["specificity"].value
    assert rare.ppv.value == pytest.approx(0.05 * se / (0.05 * se + 0.95 * (1 - sp)))
    assert rare.ppv.low < rare.ppv.value < rare.ppv.high < own.ppv.value


def test_a_flawless_threshold_is_as_sure_as_its_patients_are_many() -> None:
    (found,) = predict_at_prevalences(studies(noise=0.0), 0.5, (0.05,))
    assert (found.ppv.value, found.npv.value) == (1, 1)
    assert found.ppv.low < 0.5 < 0.99 < found.npv.low
