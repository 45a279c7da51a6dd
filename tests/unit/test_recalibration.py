"""Calibration slope and intercept against scikit-learn, and a smooth curve that finds a bend."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mura_tune.metrics.estimates import StudyScores, sigmoid
from mura_tune.metrics.recalibration import (
    estimate_recalibration,
    fit_intercepts,
    fit_slopes,
    smooth_calibration,
)


def studies(n: int, slope: float, intercept: float = 0.0, seed: int = 0) -> StudyScores:
    """Studies whose labels follow sigmoid(intercept + slope x logit(score))."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=n)
    labels = (rng.random(n) < sigmoid(intercept + slope * logits)).astype(np.int64)
    names = np.array([f"s{i:05}" for i in range(n)], dtype=object)
    patients = np.array([f"p{i // 2}" for i in range(n)], dtype=object)
    return StudyScores(names, patients, labels, sigmoid(logits))


def test_slopes_are_those_of_a_logistic_regression_under_any_weights() -> None:
    table = studies(300, 1.4)
    logits = np.log(table.scores / (1 - table.scores))
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 4, (5, 300)).astype(np.float64)
    fitted = fit_slopes(logits, table.labels, weights)
    for found, row in zip(fitted, weights, strict=True):
        reference = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
        reference.fit(logits[:, None], table.labels, sample_weight=row)
        assert found == pytest.approx(reference.coef_[0, 0], abs=1e-4)


def test_an_intercept_makes_the_mean_probability_the_share_abnormal() -> None:
    table = studies(300, 1.0, 0.7)
    logits = np.log(table.scores / (1 - table.scores))
    (added,) = fit_intercepts(logits, table.labels, np.ones((1, 300)))
    assert sigmoid(added + logits).mean() == pytest.approx(table.labels.mean(), abs=1e-9)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.0), (1.0, 1.0)])
def test_intervals_hold_the_truth_and_tell_other_worlds_apart(
    slope: float, intercept: float
) -> None:
    found = estimate_recalibration(studies(1500, slope, intercept, seed=2), draws=300)
    assert found["slope"].low < slope < found["slope"].high
    assert (found["slope"].high < 1) == (slope == 0.5)
    assert (found["intercept"].low > 0) == (intercept == 1.0)
    assert (found["slope"].studies, found["slope"].patients) == (1500, 750)


def test_what_no_finite_slope_fits_is_undefined() -> None:
    names = np.array([f"p{i}" for i in range(20)], dtype=object)
    labels = np.repeat([0, 1], 10)
    apart = StudyScores(names, names, labels, np.where(labels == 1, 0.8, 0.3))
    found = estimate_recalibration(apart, draws=50)
    assert np.isnan(found["slope"].value)
    assert found["intercept"].low < 0 < found["intercept"].high
    flat = StudyScores(names, names, np.arange(20) % 2, 0.4 + 1e-4 * np.arange(20))
    assert np.isnan(estimate_recalibration(flat, draws=50)["slope"].value)
    one = StudyScores(names, names, np.eye(20, dtype=np.int64)[0], np.linspace(0.1, 0.9, 20))
    assert all(np.isnan(e.value) for e in estimate_recalibration(one, draws=50).values())


def test_the_smooth_curve_follows_a_bend_and_its_band_holds_the_truth() -> None:
    table = studies(3000, 0.4)
    curve = smooth_calibration(table, draws=60)
    truth = sigmoid(0.4 * np.log(curve.probabilities / (1 - curve.probabilities)))
    inside = (curve.probabilities > 0.1) & (curve.probabilities < 0.9)
    assert np.abs(curve.abnormal - truth)[inside].max() < 0.06
    assert (curve.low <= curve.abnormal)[inside].all()
    assert (curve.abnormal <= curve.high)[inside].all()
    assert np.abs(curve.abnormal - curve.probabilities)[inside].max() > 0.12
