"""Estimates against closed forms, scikit-learn and scipy's quantiles."""

import json
import tracemalloc

import numpy as np
import pytest
from scipy.stats import binomtest, t
from sklearn.metrics import roc_auc_score

from mura_tune.metrics import estimates, operating_points, ranking
from mura_tune.metrics.estimates import (
    StudyScores,
    exact_interval,
    logit_interval,
    pooled_freedom,
    t_quantile,
    wilson_interval,
)


def studies(n: int, seed: int, ties: bool = False, signal: float = 1.0) -> StudyScores:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    scores = estimates.sigmoid(rng.normal(size=n) + signal * labels)
    if ties:
        scores = scores.round(1)
    patients = np.array([f"p{i // 2}" for i in range(n)])
    return StudyScores(np.array([f"s{i}" for i in range(n)]), patients, labels, scores)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_sklearn(seed: int, ties: bool) -> None:
    s = studies(57, seed, ties)
    assert ranking.auc(s.scores, s.labels) == pytest.approx(
        roc_auc_score(s.labels, s.scores), abs=1e-12
    )


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
    ],
)
def test_auc_closed_forms(scores: list[float], labels: list[int], expected: float) -> None:
    assert ranking.auc(np.array(scores), np.array(labels)) == expected


@pytest.mark.parametrize(
    ("scores", "labels", "told"),
    [([0.1, 0.2], [1, 1], "both classes"), ([0.1, np.nan], [0, 1], "not a finite number")],
)
def test_auc_refuses_what_has_none(scores: list[float], labels: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ranking.auc(np.array(scores), np.array(labels))


def test_a_study_scores_the_mean_probability_of_its_views() -> None:
    names = np.array(["b", "a", "b"])
    found = estimates.score_studies(np.array([0.0, 2.0, 1.0]), np.array([1, 0, 1]), names, names)
    assert found.names.tolist() == ["a", "b"]
    assert found.labels.tolist() == [0, 1]
    expected = [1 / (1 + np.exp(-2)), (0.5 + 1 / (1 + np.exp(-1))) / 2]
    assert found.scores == pytest.approx(expected)


def test_intervals_resample_patients_and_not_rows() -> None:
    s = studies(200, 0)
    (weights,) = estimates.patient_weights(s.patients, 50, 0)
    assert weights.shape == (50, 200)
    assert (weights[:, 0::2] == weights[:, 1::2]).all()  # both studies of a patient together
    assert (weights[:, 0::2].sum(1) == 100).all()
    copied = StudyScores(
        *(np.repeat(getattr(s, f), 4) for f in ("names", "patients", "labels", "scores"))
    )
    once, four = ranking.estimate_auc(s), ranking.estimate_auc(copied)
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=1e-9)
    assert once.low < once.value < once.high


@pytest.mark.parametrize("at_once", [1, 90 * 7, 90 * 60, 10**9])
def test_draws_taken_in_parts_are_the_draws_taken_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "AT_ONCE", at_once)
    s = studies(90, 3)
    _, patient = np.unique(s.patients, return_inverse=True)
    drawn = np.random.default_rng(5).multinomial(45, np.full(45, 1 / 45), size=60)
    weights = drawn[:, patient].astype(np.float64)

    def auc(w: estimates.Floats) -> estimates.Floats:
        return ranking.weighted_auc(s.scores, s.labels, w)

    def both(w: estimates.Floats) -> dict[str, estimates.Floats]:
        return {"auc": auc(w), "brier": w @ (s.scores - s.labels) ** 2 / w.sum(1)}

    blocks = [*estimates.patient_weights(s.patients, 60, 5)]
    assert len(blocks) == {1: 60, 90 * 7: 9}.get(at_once, 1)
    assert np.array_equal(np.concatenate(blocks), weights)
    assert np.array_equal(estimates.resample(auc, s.patients, 60, 5), auc(weights))
    found, expected = estimates.resample_all(both, s.patients, 60, 5), both(weights)
    assert np.array_equal(found["auc"], expected["auc"])
    np.testing.assert_allclose(found["brier"], expected["brier"], rtol=0, atol=1e-12)


def test_an_interval_takes_a_byte_a_patient_and_draw() -> None:
    names = np.array([f"p{i}" for i in range(3000)], dtype=object)
    s = studies(3000, 0)
    tracemalloc.start()
    ranking.estimate_auc(StudyScores(names, names, s.labels, s.scores), draws=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1000 * 3000 + 10 * 8 * estimates.AT_ONCE  # 24 MB each if all weights were floats


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Scores N(0, 1) against N(1, 1): the true AUC is Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        labels = np.repeat([0, 1], 60)
        scores = estimates.sigmoid(rng.normal(size=120) + labels)
        names = np.array([f"p{i}" for i in range(120)])
        found = ranking.estimate_auc(StudyScores(names, names, labels, scores), draws=400)
        covered += found.low <= 0.76025 <= found.high
    assert 0.89 <= covered / 150 <= 0.99


def test_perfect_separation_of_few_patients_is_not_certain() -> None:
    names = np.array([f"p{i}" for i in range(30)])
    labels = np.array([0] * 8 + [1] * 22)
    found = ranking.estimate_auc(StudyScores(names, names, labels, labels * 0.5 + 0.1))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 8))


@pytest.mark.parametrize("ties", [False, True])
def test_youden_is_the_best_of_all_cuts(ties: bool) -> None:
    s = studies(80, 1, ties)

    def index(cut: float) -> float:
        called = s.scores >= cut
        return float(called[s.labels == 1].mean() - called[s.labels == 0].mean())

    every = [index(cut) for cut in np.linspace(0, 1, 2001)]
    assert index(operating_points.youden_threshold(s)) == pytest.approx(max(every))


def test_an_image_row_counts_its_studies_and_images_apart() -> None:
    s = studies(40, 0)
    views = estimates.ViewScores(s.patients, s.patients, s.labels, s.scores)
    found = ranking.estimate_auc(views)
    assert (found.images, found.studies, found.patients) == (40, 20, 20)
    assert str(found).endswith("(n = 40 images of 20 studies)")
    assert found.to_json()["images"] == 40
    assert "images" not in ranking.estimate_auc(s).to_json()


def test_an_undefined_value_says_so_and_is_null_in_json() -> None:
    found = estimates.Estimate(float("nan"), float("nan"), float("nan"), 5, 5)
    assert str(found) == "undefined (n = 5 studies)"
    assert found.to_json() == {
        "value": None,
        "low": None,
        "high": None,
        "studies": 5,
        "patients": 5,
    }


def test_an_estimate_comes_back_from_json() -> None:
    for images in (None, 12):
        written = estimates.Estimate(0.5, 0.25, 1.0, 7, 5, images)
        assert estimates.Estimate.from_json(json.loads(json.dumps(written.to_json()))) == written
    nan = float("nan")
    read = estimates.Estimate.from_json(estimates.Estimate(nan, nan, nan, 7, 5).to_json())
    assert np.isnan([read.value, read.low, read.high]).all()
    assert (read.studies, read.patients, read.images) == (7, 5, None)


def test_an_estimate_prints_itself() -> None:
    score = estimates.Estimate(0.9119, 0.8241, 0.958, 47, 38)
    assert str(score) == "0.912 [0.824, 0.958] (n = 47 studies)"
    assert (score.brief(), score.range()) == ("0.912 [0.824, 0.958]", "0.824 to 0.958")
    assert score.html() == "0.912 <i>[0.824, 0.958]</i>"
    assert estimates.Estimate(0.0119, -0.0101, 0.0331, 47, 38).signed() == "+0.012 [-0.010, +0.033]"
    undefined = estimates.Estimate(*[float("nan")] * 3, studies=5, patients=5)
    assert undefined.html() == "<i>undefined</i>"
    assert score.rounded(2) == estimates.Estimate(0.91, 0.82, 0.96, 47, 38)


def test_one_abnormal_patient_proves_nothing() -> None:
    names = np.array([f"p{i}" for i in range(30)])
    labels = np.array([1] + [0] * 29)
    found = ranking.estimate_auc(StudyScores(names, names, labels, np.linspace(0.9, 0.1, 30)))
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 12, 30, 100, 1000])
def test_students_t_is_scipys(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=0.01)


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_exact_bounds_are_clopper_and_pearsons(n: int, share: float) -> None:
    expected = binomtest(int(share * n), n).proportion_ci(method="exact")
    assert exact_interval(share, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 5), (40, 90)])
def test_a_share_of_independent_cases_has_wilsons_interval(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson_interval(hits / n, n) == pytest.approx((expected.low, expected.high))


def test_exact_bounds_claim_nothing_where_they_do_not_apply() -> None:
    assert exact_interval(0.5, 10) == (0.0, 1.0)
    assert exact_interval(1.0, 0) == (0.0, 1.0)


def test_a_share_of_many_patients_has_the_textbook_interval() -> None:
    draws = np.random.default_rng(0).binomial(400, 0.7, 2000) / 400
    low, high = logit_interval(0.7, draws, 399)
    assert (low, high) == pytest.approx((0.7 - 0.0449, 0.7 + 0.0449), abs=0.003)


@pytest.mark.parametrize("value", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("floor", [0.0, -1.0])
def test_an_interval_holds_its_value_and_stays_on_the_scale(value: float, floor: float) -> None:
    draws = np.clip(np.random.default_rng(0).normal(value, 0.2, 500), floor, 1)
    low, high = logit_interval(value, draws, 12, floor=floor)
    assert floor <= low < value < high <= 1


def test_no_spread_is_left_to_the_caller_and_no_value_stays_none() -> None:
    assert logit_interval(1.0, np.ones(9), 20) == (1.0, 1.0)
    assert logit_interval(0.4, np.full(9, 0.4), 20) == (0.4, 0.4)
    assert logit_interval(0.4, np.array([0.1, 0.9]), 0, floor=-1) == (-1.0, 1.0)
    assert np.isnan(logit_interval(float("nan"), np.ones(9), 20)).all()


def test_two_classes_of_patients_pool_their_freedom() -> None:
    assert pooled_freedom(25, 25) == pytest.approx(48)
    assert 2 < pooled_freedom(3, 1000) < 2.1  # hardly more than the three alone
    assert pooled_freedom(1, 1000) == 0


@pytest.mark.parametrize(("cases", "n"), [(0, 22), (3, 40), (40, 400), (1, 1), (5, 5)])
def test_the_upper_bound_of_a_share_is_clopper_and_pearsons(cases: int, n: int) -> None:
    exact = binomtest(cases, n, alternative="less").proportion_ci(0.9, method="exact")
    assert estimates.upper_bound(cases, n, 0.1) == pytest.approx(exact.high, abs=1e-9)
