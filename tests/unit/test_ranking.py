"""Curves against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import auc as area
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_recall_curve,
    roc_curve,
)

from mura_tune.metrics import ranking
from mura_tune.metrics.calibration_error import (
    estimate_brier,
    measure_calibration_error,
    reliability_bins,
)
from mura_tune.metrics.estimates import StudyScores, logit_ends, sigmoid, t_quantile
from mura_tune.metrics.ranking import auc, estimate_average_precision, weighted_average_precision


def studies(n: int, seed: int, ties: bool = False, stretch: float = 1.0) -> StudyScores:
    """Scores that are the true probabilities where `stretch` is 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=n) * 1.5
    labels = (rng.random(n) < sigmoid(logits)).astype(np.int64)
    labels[:2] = 0, 1
    scores = sigmoid(logits * stretch)
    patients = np.array([f"p{i // 2}" for i in range(n)])
    return StudyScores(patients, patients, labels, scores.round(1) if ties else scores)


@pytest.mark.parametrize("ties", [False, True])
def test_curves_and_their_areas_equal_sklearn(ties: bool) -> None:
    s = studies(83, 4, ties)
    false, true = ranking.roc_curve(s)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    expected = roc_curve(s.labels, s.scores, drop_intermediate=False)
    np.testing.assert_allclose((false, true), expected[:2])  # ties are one step
    assert area(false, true) == pytest.approx(auc(s.scores, s.labels))
    recall, precision = ranking.precision_recall_curve(s)
    expected = precision_recall_curve(s.labels, s.scores)
    assert precision == pytest.approx(expected[0][:-1][::-1])
    assert recall == pytest.approx(expected[1][:-1][::-1])
    found = estimate_average_precision(s)
    assert found.value == pytest.approx(average_precision_score(s.labels, s.scores))
    assert found.low < found.value < found.high
    weights = np.random.default_rng(0).integers(0, 3, (4, 83)).astype(float)
    assert weighted_average_precision(s, weights) == pytest.approx(
        [average_precision_score(s.labels, s.scores, sample_weight=w) for w in weights]
    )


def test_a_perfect_average_precision_is_as_sure_as_its_patients_are_many() -> None:
    lows = []
    for n in (10, 100, 1000):
        names = np.array([f"p{i}" for i in range(2 * n)])
        labels = np.repeat([0, 1], n)
        found = estimate_average_precision(StudyScores(names, names, labels, labels * 0.5 + 0.2))
        assert (found.value, found.high) == (1, 1)
        lows.append(found.low)
    assert lows == sorted(lows)
    assert lows[0] < 0.65 < 0.97 < lows[2] < 1


def test_brier_equals_sklearn_and_a_calibrated_score_has_a_small_error() -> None:
    s = studies(2000, 1)
    assert estimate_brier(s).value == pytest.approx(brier_score_loss(s.labels, s.scores))
    good, bad = (measure_calibration_error(x) for x in (s, studies(2000, 1, stretch=4)))
    assert good.value < good.expected_high < 0.04 < 0.1 < bad.value
    assert bad.expected_high < 0.04
    bins = reliability_bins(s)
    assert sum(b.studies for b in bins) == 2000
    assert {b.studies for b in bins} == {200}
    assert all(abs(b.score - b.abnormal) < 0.1 for b in bins)
    by_hand = sum(b.studies * abs(b.score - b.abnormal) for b in bins) / 2000
    assert good.value == pytest.approx(by_hand)


def test_few_studies_make_few_bins_and_equal_scores_share_one() -> None:
    assert len(reliability_bins(studies(12, 0))) == 2
    names = np.array([f"p{i}" for i in range(40)])
    same = StudyScores(names, names, np.repeat([0, 1], 20), np.full(40, 0.7))
    (only,) = reliability_bins(same)
    assert (only.studies, only.abnormal) == (40, 0.5)
    assert only.score == pytest.approx(0.7)
    assert measure_calibration_error(same).value == pytest.approx(0.2)


def test_a_flawless_brier_score_is_not_certain() -> None:
    names = np.array([f"p{i}" for i in range(20)])
    labels = np.repeat([0, 1], 10)
    found = estimate_brier(StudyScores(names, names, labels, labels.astype(float)))
    assert found.value == found.low == 0
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_a_brier_score_that_met_no_large_loss_is_as_unsure_as_a_calibrated_models() -> None:
    names = np.array([f"p{i}" for i in range(60)])
    p = np.where(np.arange(60) % 2, 0.02, 0.03)
    found = estimate_brier(StudyScores(names, names, np.zeros(60, np.int64), p))
    error = np.sqrt((p * (1 - p) * (1 - 2 * p) ** 2).sum()) / 60
    assert error > 20 * (p**2).std() / np.sqrt(60)
    assert (found.low, found.high) == pytest.approx(logit_ends(found.value, t_quantile(59) * error))
