"""A decision chosen again on local studies, and what cross-fitting says of it."""

import numpy as np
import pytest

from mura_tune.evaluation.cross_fit import (
    cross_fit,
    fit_locally,
    fold_patients,
    measure_locally,
    recalibrate,
)
from mura_tune.evaluation.decision import Calibration, fit_calibration
from mura_tune.metrics.calibration_error import (
    estimate_brier_change,
    estimate_log_loss,
    estimate_log_loss_change,
)
from mura_tune.metrics.estimates import StudyLogits, StudyScores, sigmoid
from mura_tune.metrics.recalibration import estimate_recalibration
from mura_tune.release_format.entries import MEAN_OF_SIGMOIDS, SIGMOID_OF_MEAN

PARENT = Calibration(temperature=2.0, offset=-0.5, aggregation=MEAN_OF_SIGMOIDS)


def draw(patients: int, *, slope: float = 0.5, level: float = -1.5, seed: int = 0) -> StudyLogits:
    """Studies whose probability is sigmoid(slope x logit + level); every fourth patient has two."""
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(patients), np.where(np.arange(patients) % 4 == 0, 2, 1))
    logits = rng.normal(0, 3, len(whose))
    labels = (rng.random(len(whose)) < sigmoid(slope * logits + level)).astype(np.int64)
    names = np.array([f"study{n}" for n in range(len(whose))], dtype=object)
    return StudyLogits(names, np.array([f"p{n}" for n in whose], dtype=object), labels, logits)


def test_many_studies_give_the_slope_and_level_that_they_were_drawn_with() -> None:
    found = fit_locally(PARENT, draw(6000))
    assert 1 / found.temperature == pytest.approx(0.5, abs=0.04)
    assert found.offset / found.temperature == pytest.approx(-1.5, abs=0.1)
    assert found.aggregation == SIGMOID_OF_MEAN


def test_few_patients_move_the_level_and_hardly_the_slope() -> None:
    local = draw(20, slope=2.0, level=-3.0)  # four times as steep as the parent says
    found = fit_locally(PARENT, local)
    assert abs(1 / found.temperature - 0.5) < 0.1
    assert abs(1 / fit_calibration(local).temperature - 0.5) > 0.2
    probabilities = sigmoid(found.logits(local.logits))
    assert probabilities.mean() == pytest.approx(local.labels.mean(), abs=0.05)


def test_the_decision_says_that_it_was_chosen_on_local_studies() -> None:
    local = draw(80)
    chosen = recalibrate(PARENT, local)
    assert chosen.calibration == fit_locally(PARENT, local)
    assert chosen.threshold == (local.labels.sum() + 1) / (len(local.labels) + 2)
    entries = chosen.entries()
    rules = [point.rule for point in entries["operating_points"].values()]
    assert entries["calibration"].fitted_on == "local"
    assert all("local" in rule and "dev" not in rule for rule in rules)
    assert "dev" not in entries["abstain"].rule


def test_patients_stay_whole_and_folds_have_alike_shares() -> None:
    local = draw(95)
    folds = fold_patients(local.patients, local.labels, 0)
    for patient in np.unique(local.patients):
        assert len(np.unique(folds[local.patients == patient])) == 1
    assert len(np.unique(folds)) == 10
    ill = np.unique(local.patients[local.labels == 1])
    counts = [
        len(np.unique(local.patients[(folds == f) & np.isin(local.patients, ill)]))
        for f in range(10)
    ]
    assert max(counts) - min(counts) <= 1
    few = local.take(np.flatnonzero(np.isin(local.patients, ["p0", "p1", "p2"])))
    assert np.unique(fold_patients(few.patients, few.labels, 0)).tolist() == [0, 1, 2]


def test_no_study_is_answered_by_a_decision_that_saw_its_patient() -> None:
    local = draw(60)
    found = cross_fit(PARENT, local)
    rows = fold_patients(local.patients, local.labels, 0)
    fold = rows == rows[0]
    rest = local.take(~fold)
    expected = sigmoid(fit_locally(PARENT, rest).logits(local.logits[fold]))
    assert np.allclose(found.studies.scores[fold], expected)
    share = (rest.labels.sum() + 1) / (len(rest.labels) + 2)
    assert np.array_equal(found.called[fold], expected >= share)
    assert found.folds == 10


def test_cross_fitting_does_not_flatter_and_resubstitution_does() -> None:
    gaps = []
    for seed in range(12):
        local = draw(24, seed=seed)
        fitted = sigmoid(fit_locally(PARENT, local).logits(local.logits))
        honest = cross_fit(PARENT, local).studies.scores
        gaps.append(np.mean((honest - local.labels) ** 2) - np.mean((fitted - local.labels) ** 2))
    assert np.mean(gaps) > 0.005


def test_figures_are_those_of_the_probabilities_and_calls() -> None:
    local = draw(120)
    studies = StudyScores(local.names, local.patients, local.labels, sigmoid(local.logits))
    called = np.arange(len(local.labels)) % 2 == 0
    found = measure_locally(studies, called, 0.3)
    ill = local.labels == 1
    assert found.sensitivity.value == pytest.approx(called[ill].mean())
    assert found.specificity.value == pytest.approx((~called[~ill]).mean())
    assert found.threshold == 0.3
    assert found.slope.value == pytest.approx(estimate_recalibration(studies)["slope"].value)
    p = np.where(ill, studies.scores, 1 - studies.scores)
    assert found.log_loss.value == pytest.approx(-np.log(p).mean())
    assert found.log_loss.low < found.log_loss.value < found.log_loss.high


def test_a_change_is_paired_and_a_single_patient_has_no_interval() -> None:
    local = draw(200)
    before = StudyScores(local.names, local.patients, local.labels, sigmoid(local.logits))
    after = StudyScores(
        local.names, local.patients, local.labels, sigmoid(0.5 * local.logits - 1.5)
    )
    for change in (estimate_brier_change(before, after), estimate_log_loss_change(before, after)):
        assert change.high < 0
        assert change.low < change.value < change.high
    one = before.take(local.patients == local.patients[0])
    assert np.isnan(estimate_log_loss(one).low)
    assert np.isnan(estimate_brier_change(one, one).low)


@pytest.mark.parametrize("p", [1e-2, 1e-3, 1e-9])
def test_the_log_loss_of_sure_and_right_answers_has_a_finite_interval(p: float) -> None:
    names = np.array([str(number) for number in range(60)], dtype=object)
    labels = np.arange(60) % 2
    sure = StudyScores(names, names, labels, np.where(labels == 1, 1 - p, p))
    found = estimate_log_loss(sure, draws=50)
    assert 0 <= found.low < found.value < found.high < 21
    wrong = StudyScores(names, names, 1 - labels, sure.scores)
    assert estimate_log_loss(wrong, draws=50).high < 21


def test_the_interval_of_the_log_loss_holds_the_truth() -> None:
    truth = estimate_log_loss(as_scores(draw(20_000, seed=999)), draws=2).value
    held = []
    for seed in range(40):
        found = estimate_log_loss(as_scores(draw(40, seed=seed)), draws=200)
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.85


def as_scores(local: StudyLogits) -> StudyScores:
    """Perfectly calibrated studies."""
    scores = sigmoid(0.5 * local.logits - 1.5)
    return StudyScores(local.names, local.patients, local.labels, scores)
