"""Figures at an operating point against scikit-learn, and what a perfect score may claim."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, precision_score

from mura_tune.metrics import operating_points
from mura_tune.metrics.estimates import StudyScores, sigmoid, upper_bound
from mura_tune.metrics.operating_points import THRESHOLD_METRICS, estimate_at_threshold


def studies(n: int, seed: int, labels: np.ndarray | None = None) -> StudyScores:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n) if labels is None else labels
    patients = np.array([f"p{i // 2}" for i in range(n)])
    return StudyScores(patients, patients, labels, sigmoid(rng.normal(size=n) + labels))


def perfect(normal: int, abnormal: int) -> StudyScores:
    labels = np.array([0] * normal + [1] * abnormal)
    names = np.array([f"p{i}" for i in range(len(labels))])
    return StudyScores(names, names, labels, labels * 0.8 + 0.1)


def test_figures_at_a_threshold_equal_sklearn() -> None:
    s = studies(101, 3)
    found = estimate_at_threshold(s, 0.5)
    called = (s.scores >= 0.5).astype(int)
    assert tuple(found) == THRESHOLD_METRICS
    assert found["kappa"].value == pytest.approx(cohen_kappa_score(s.labels, called))
    assert found["f1"].value == pytest.approx(f1_score(s.labels, called))
    assert found["ppv"].value == pytest.approx(precision_score(s.labels, called))
    assert found["npv"].value == pytest.approx(precision_score(1 - s.labels, 1 - called))
    assert found["accuracy"].value == pytest.approx((called == s.labels).mean())
    assert found["sensitivity"].value == pytest.approx(called[s.labels == 1].mean())
    assert found["specificity"].value == pytest.approx(1 - called[s.labels == 0].mean())
    assert all(e.low < e.value < e.high and e.studies == 101 for e in found.values())
    assert operating_points.count_calls(s, 0.5) == {
        "tp": int((called & s.labels).sum()),
        "fp": int((called & (1 - s.labels)).sum()),
        "fn": int(((1 - called) & s.labels).sum()),
        "tn": int(((1 - called) & (1 - s.labels)).sum()),
    }


@pytest.mark.parametrize(("threshold", "whole"), [(0.0, "sensitivity"), (1.0, "specificity")])
def test_a_perfect_share_is_not_certain(threshold: float, whole: str) -> None:
    from scipy.stats import binomtest

    s = studies(60, 2)
    found = estimate_at_threshold(s, threshold)
    n = s.count_patients(int(whole == "sensitivity"))
    exact = binomtest(n, n).proportion_ci(method="exact")
    assert (found[whole].low, found[whole].high) == pytest.approx((exact.low, exact.high))
    other = found["specificity" if whole == "sensitivity" else "sensitivity"]
    assert (other.value, other.low) == (0.0, 0.0)
    assert other.high > 0.05
    assert found["kappa"].value == 0
    assert found["kappa"].low <= 0 < found["kappa"].high


def test_a_perfect_f1_and_kappa_are_as_sure_as_the_shares_they_are_made_of() -> None:
    found = estimate_at_threshold(perfect(30, 20), 0.5)
    assert found["f1"].value == found["kappa"].value == 1
    sensitivity, specificity = 0.0125 ** (1 / 20), 0.0125 ** (1 / 30)
    tp, fn = 20 * sensitivity, 20 * (1 - sensitivity)
    tn, fp = 30 * specificity, 30 * (1 - specificity)
    assert found["f1"].low == pytest.approx(2 * tp / (2 * tp + fp + fn))
    table = np.array([[tn, fp], [fn, tp]]) / 50
    chance = float(table.sum(0) @ table.sum(1))
    assert found["kappa"].low == pytest.approx((table.trace() - chance) / (1 - chance))
    assert found["f1"].high == found["kappa"].high == 1
    larger = estimate_at_threshold(perfect(300, 200), 0.5)
    assert found["kappa"].low < 0.75 < 0.95 < larger["kappa"].low < 1


@pytest.mark.parametrize("name", ["f1", "kappa"])
def test_f1_and_kappa_rise_with_sensitivity_and_specificity(name: str) -> None:
    """What makes the corners of a rectangle bounds for all of it."""
    steps = np.linspace(0, 1, 21)
    for share, fixed in itertools.product((0.05, 0.4, 0.95), steps):
        for values in (
            [operating_points.metric_from_rates(name, share, x, float(fixed)) for x in steps],
            [operating_points.metric_from_rates(name, share, float(fixed), x) for x in steps],
        ):
            assert (np.diff(values) >= -1e-12).all()


def test_no_call_at_all_has_no_precision() -> None:
    found = estimate_at_threshold(perfect(10, 10), 0.95)
    assert np.isnan(found["ppv"].value)
    assert found["npv"].value == 0.5
    assert found["f1"].value == 0 < found["f1"].high < 0.6


@pytest.mark.parametrize("seed", range(20))
def test_the_surest_are_answered_as_far_as_their_error_allows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sureness = rng.random(50).round(1 if seed % 2 else 9)
    wrong = rng.random(50) > 0.5 + sureness / 2
    order, answered = operating_points.answer_surest(sureness, wrong, error=0.1, most=0.5)
    errors = {
        int((sureness >= least).sum()): float(wrong[sureness >= least].mean())
        for least in np.unique(sureness)
        if (sureness >= least).sum() >= 25
    }
    good = [n for n, error in errors.items() if error <= 0.1]
    least_error = [n for n, error in errors.items() if error == min(errors.values())]
    assert answered == max(good or least_error)
    assert (np.diff(sureness[order]) <= 0).all()


def test_the_prevalence_is_softened() -> None:
    assert operating_points.prevalence_threshold(perfect(30, 10)) == pytest.approx(11 / 42)


def test_the_youden_threshold_is_the_best_of_all_and_its_mean_moves_less() -> None:
    def index(s: StudyScores, cut: float) -> float:
        called = s.scores >= cut
        return float(called[s.labels == 1].mean() - called[s.labels == 0].mean())

    single, mean = [], []
    for seed in range(30):
        s = studies(60, seed)
        cut = operating_points.youden_threshold(s)
        assert index(s, cut) == pytest.approx(max(index(s, c) for c in s.scores))
        single.append(cut)
        mean.append(operating_points.mean_youden_threshold(s, draws=50))
    assert np.std(mean) < 0.8 * np.std(single)
    assert operating_points.mean_youden_threshold(s) == operating_points.mean_youden_threshold(s)


def test_one_abnormal_patient_has_a_mean_youden_threshold_and_so_has_none() -> None:
    assert 0.1 < operating_points.mean_youden_threshold(perfect(9, 1)) < 0.9
    assert 0 <= operating_points.mean_youden_threshold(perfect(10, 0)) <= 1


@pytest.mark.parametrize(("positives", "below"), [(9, 0), (19, 1), (40, 3)])
def test_the_conformal_cut_is_a_rank_of_the_abnormal_studies(positives: int, below: int) -> None:
    scores = np.linspace(0.2, 0.8, positives)  # normal studies lie between any two of them
    between = (scores[1:] + scores[:-1]) / 2
    both = np.concatenate((scores, between))
    labels = np.repeat([1, 0], [positives, positives - 1])
    names = np.arange(len(both)).astype(str).astype(object)
    cut = operating_points.conformal_threshold(StudyScores(names, names, labels, both), 0.9)
    assert int((scores < cut).sum()) == below  # floor(.1 (n + 1)) - 1


def test_too_few_abnormal_studies_are_all_called() -> None:
    assert operating_points.conformal_threshold(perfect(30, 8), 0.9) < 0.11


def test_of_cuts_that_call_as_many_normal_studies_the_lowest_is_taken() -> None:
    cut = operating_points.conformal_threshold(perfect(40, 40), 0.9)
    assert cut == pytest.approx(0.5)  # halfway between 0.1 and 0.9, and not at 0.9


def test_a_new_abnormal_study_reaches_the_conformal_cut_as_often_as_is_promised() -> None:
    rng, reached = np.random.default_rng(0), []
    names = np.arange(40).astype(str).astype(object)
    labels = np.repeat([1, 0], 20)
    for _ in range(400):
        dev = StudyScores(names, names, labels, sigmoid(rng.normal(size=40) + labels))
        cut = operating_points.conformal_threshold(dev, 0.9)
        reached.append(float((sigmoid(rng.normal(size=200) + 1) >= cut).mean()))
    assert 0.9 - 0.01 < np.mean(reached) < 0.96
    assert min(reached) < 0.9  # the promise is on average, not for each dev


@pytest.mark.parametrize("seed", range(10))
def test_the_most_are_answered_whose_bound_keeps_the_promise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sureness = rng.random(120).round(1 if seed % 2 else 9)
    wrong = rng.random(120) > 0.75 + sureness / 4
    order, answered = operating_points.promise_surest(
        sureness, wrong, error=0.1, tail=0.1, most=0.5
    )
    good = [
        n
        for least in np.unique(sureness)
        if (n := int((sureness >= least).sum())) >= 60
        and upper_bound(int(wrong[sureness >= least].sum()), n, 0.1) <= 0.1
    ]
    assert answered == max(good, default=0)
    assert (np.diff(sureness[order]) <= 0).all()
