"""Decisions: calibration, thresholds against every possible threshold, and the band of doubt."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score

from mura_tune.errors import InputError
from mura_tune.evaluation import decision as decisions
from mura_tune.evaluation.decision import (
    Calibration,
    Decision,
    DoubtBand,
    average_split,
    choose_decision,
    fit_calibration,
)
from mura_tune.evaluation.routing import RouterDecision
from mura_tune.metrics.estimates import StudyScores, sigmoid
from mura_tune.metrics.operating_points import METRIC_NAMES, youden_threshold
from mura_tune.release_format.manifest import AbnormalityManifest
from mura_tune.release_format.metrics_entries import ESTIMATES
from mura_tune.training.batches import Split


def part(n: int, seed: int, views: int = 1, signal: float = 1.5) -> tuple[torch.Tensor, Split]:
    """Logits that are three times those of the true probabilities."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=n) * signal
    labels = (rng.random(n) < sigmoid(true)).astype(np.int64)
    study = np.repeat(np.arange(n), views)
    logits = 3 * (true[study] + 0.3 * rng.normal(size=n * views) * (views > 1))
    names = np.array([f"s{i:05}" for i in study])
    split = Split(
        name="dev",
        pixels=torch.zeros(n * views, 1, 1, dtype=torch.uint8),
        labels=torch.from_numpy(labels[study]),
        studies=names,
        patients=names,
        paths=names,
    )
    return torch.from_numpy(logits)[:, None], split


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose score is its input."""

    classes_ = np.array([0, 1])

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Given":
        self.fitted_ = True
        return self

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x[:, 0]

    def predict(self, x: np.ndarray) -> np.ndarray:
        return (x[:, 0] > 0).astype(int)


@pytest.mark.parametrize(("n", "views"), [(50, 1), (400, 1), (400, 3)])
def test_from_50_patients_on_it_is_sklearns_sigmoid_of_the_mean_logit(n: int, views: int) -> None:
    dev = average_split(*part(n, 1, views))
    x = dev.logits[:, None]
    frozen = FrozenEstimator(Given().fit(x, dev.labels))
    theirs = CalibratedClassifierCV(frozen, method="sigmoid", cv=2).fit(x, dev.labels)
    grid = np.linspace(-6, 6, 9)[:, None]
    expected = theirs.predict_proba(grid)[:, 1]
    found = fit_calibration(dev)
    assert sigmoid(found.logits(grid[:, 0])) == pytest.approx(expected, abs=2e-4)
    assert [found.probability(v) for v in grid] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("n", "views"), [(60, 1), (60, 3), (20, 2)])
def test_nothing_near_it_has_less_cross_entropy(n: int, views: int) -> None:
    logits, split = part(n, 8, views)
    found = fit_calibration(average_split(logits, split))
    ridge = decisions.RIDGE * max(0, 1 - n / decisions.RIDGE_PATIENTS)

    def loss(calibration: Calibration) -> float:
        s = calibration.studies(logits, split)
        n1, n0 = s.labels.sum(), (1 - s.labels).sum()
        target = np.where(s.labels == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
        entropy = -(target * np.log(s.scores) + (1 - target) * np.log(1 - s.scores)).sum()
        return float(entropy) + ridge / 2 * (1 / calibration.temperature - 1) ** 2

    least = loss(found)
    for factor, shift in itertools.product(
        (0.5, 0.9, 0.99, 1, 1.01, 1.1, 2), (-1, -0.05, 0, 0.05, 1)
    ):
        near = Calibration(found.temperature * factor, found.offset + shift)
        assert loss(near) >= least - 1e-6


@pytest.mark.parametrize("views", [1, 3])
def test_the_temperature_undoes_a_stretch(views: int) -> None:
    found = fit_calibration(average_split(*part(4000, 2, views)))
    assert found.temperature == pytest.approx(3, rel=0.12)
    assert found.offset == pytest.approx(0, abs=0.3)


def test_the_offset_undoes_what_weighted_classes_do_to_the_base_rate() -> None:
    dev = average_split(*part(4000, 2))
    plain, shifted = fit_calibration(dev), fit_calibration(replace(dev, logits=dev.logits + 2))
    assert shifted.temperature == pytest.approx(plain.temperature, rel=1e-3)
    assert shifted.offset == pytest.approx(plain.offset - 2, abs=1e-2)


def test_few_patients_hold_the_slope_near_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for n, held in ((10, True), (40, True), (50, False)):
        dev = average_split(*part(n, 3))  # whose best slope is a third
        slope = 1 / fit_calibration(dev).temperature
        with monkeypatch.context() as patched:
            patched.setattr(decisions, "RIDGE", 0.0)
            without = 1 / fit_calibration(dev).temperature
        assert (slope - without > 1e-3) == held
        assert slope < 1


def test_logits_that_hardly_differ_are_not_blown_up() -> None:
    dev = average_split(*part(60, 0))
    hardly = replace(dev, logits=dev.logits * 1e-4)
    found = fit_calibration(hardly)
    assert found.temperature == pytest.approx(decisions.COLDEST, rel=1e-6)
    scores = sigmoid(found.logits(hardly.logits))
    assert np.ptp(scores) < 0.01
    assert scores.mean() == pytest.approx(dev.labels.mean(), abs=0.01)


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("logit", [0.7, -300.0])
def test_logits_that_say_nothing_get_the_base_rate(n: int, logit: float) -> None:
    dev = average_split(*part(n, 0))
    found = fit_calibration(replace(dev, logits=np.full(n, logit)))
    assert found.probability(np.array([logit])) == pytest.approx(dev.labels.mean(), abs=0.02)


def test_logits_that_say_the_opposite_get_nearly_the_base_rate() -> None:
    dev = average_split(*part(200, 0))
    found = fit_calibration(replace(dev, logits=-dev.logits))
    scores = sigmoid(found.logits(-dev.logits))
    assert found.temperature == decisions.HOTTEST
    assert scores == pytest.approx(dev.labels.mean(), abs=0.02)


@pytest.mark.parametrize("n", [24, 60])
def test_separated_dev_studies_do_not_make_a_model_certain(n: int) -> None:
    dev = average_split(*part(n, 0))
    apart = replace(dev, logits=np.where(dev.labels == 1, 1.0, -1.0))
    score = fit_calibration(apart).probability(np.array([1.0]))
    positives = dev.labels.sum()
    assert 0.85 < score <= (positives + 1) / (positives + 2) + 1e-6


def test_a_study_is_the_sigmoid_of_its_views_mean_logit_and_in_old_releases_their_mean() -> None:
    logits, dev = part(20, 3, views=2)
    new = Calibration(temperature=2.0, offset=0.5)
    old = replace(new, aggregation="mean of sigmoids")
    calibrated = (logits[:, 0].numpy() + 0.5) / 2
    for calibration, expected in (
        (new, sigmoid(calibrated.reshape(20, 2).mean(1))),
        (old, sigmoid(calibrated).reshape(20, 2).mean(1)),
    ):
        assert calibration.views(logits, dev).scores == pytest.approx(sigmoid(calibrated))
        assert calibration.studies(logits, dev).scores == pytest.approx(expected)
        one = calibration.probability(logits[:2, 0].numpy())
        assert one == pytest.approx(expected[0])
        raw = calibration.undone().studies(logits, dev).scores
        assert raw[0] != pytest.approx(expected[0])


def test_the_points_are_those_of_their_rules_on_the_calibrated_scores() -> None:
    dev = average_split(*part(150, 4, views=2))
    chosen = choose_decision(dev)
    scores = sigmoid(chosen.calibration.logits(dev.logits))
    assert list(chosen.points) == list(decisions.RULES)
    assert chosen.points["prevalence"] == pytest.approx((dev.labels.sum() + 1) / 152)
    assert (chosen.recommended, chosen.threshold) == ("prevalence", chosen.points["prevalence"])
    best_f1 = max(f1_score(dev.labels, scores >= cut) for cut in scores)
    assert f1_score(dev.labels, scores >= chosen.points["max_f1"]) == pytest.approx(best_f1)
    sensitive = (scores >= chosen.points["sensitivity_90"])[dev.labels == 1].mean()
    youden = chosen.points["max_youden"]
    assert 0.9 <= sensitive < 1
    assert abs(youden - youden_threshold(replace(dev, logits=scores).scores())) < 0.5


def sure(n: int, wrong: int) -> StudyScores:
    """Studies that are the surer the later, of which the first ones are answered wrong at 0.5."""
    labels = np.arange(n) % 2
    reach = np.linspace(0.5, 4, n) * np.where(labels == 1, 1, -1)
    reach[:wrong] *= -1
    names = np.array([f"p{i}" for i in range(n)])
    return StudyScores(names, names, labels, sigmoid(reach))


def test_the_band_takes_what_is_nearest_until_the_bound_of_the_rest_is_low_enough() -> None:
    studies = sure(200, 30)
    band = decisions.choose_band(studies, 0.5)
    inside = np.array([band.holds(x) for x in studies.scores])
    wrong = (studies.scores >= 0.5) != (studies.labels == 1)
    mistakes, n = int(wrong[~inside].sum()), int((~inside).sum())

    def bound(mistakes: int, n: int) -> float:
        test = binomtest(mistakes, n, alternative="less")
        return float(test.proportion_ci(0.9, method="exact").high)

    assert band.low < 0.5 < band.high
    assert (band.share, band.error) == pytest.approx((inside.mean(), mistakes / n))
    assert band.error_without == pytest.approx(0.15)
    assert band.bound == pytest.approx(bound(mistakes, n), abs=1e-9)
    assert band.bound <= decisions.DOUBT_ERROR < bound(mistakes + 1, n + 1)
    assert "smallest band" in str(band.rule)


def test_a_sure_model_needs_no_band() -> None:
    band = decisions.choose_band(sure(60, 1), 0.5)
    assert (band.low, band.high, band.share, band.error) == (0.5, 0.5, 0.0, 1 / 60)
    assert not band.holds(0.5)
    assert "no band is needed" in str(band.rule)


@pytest.mark.parametrize(("n", "wrong"), [(21, 0), (60, 40)])
def test_what_no_band_can_promise_is_said_and_nothing_abstains(n: int, wrong: int) -> None:
    band = decisions.choose_band(sure(n, wrong), 0.5)
    assert (band.low, band.high, band.share) == (0.5, 0.5, 0.0)
    assert band.error == band.error_without == wrong / n
    assert band.bound is not None
    assert band.bound > decisions.DOUBT_ERROR
    assert f"no band can promise an error of 0.10 on {n} studies" in str(band.rule)


def test_what_was_chosen_comes_back_from_a_manifest() -> None:
    chosen = choose_decision(average_split(*part(60, 6)))
    manifest = AbnormalityManifest.partial(**chosen.entries())
    assert Decision.from_manifest(manifest) == chosen
    assert manifest.operating_point.threshold == chosen.threshold


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_temperature_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="temperature is"):
        Calibration(temperature=bad)


def test_an_unknown_aggregation_is_refused() -> None:
    with pytest.raises(ValueError, match="aggregation is 'max'"):
        Calibration(aggregation="max")


def test_an_empty_band_holds_nothing() -> None:
    assert not DoubtBand(0.4, 0.4, 0, 0.1, 0.1).holds(0.4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_refused_and_not_called_normal(value: float) -> None:
    with pytest.raises(InputError, match="no finite number"):
        Calibration().logits(np.array([0.0, value]))
    routing = RouterDecision(1.0, 0.5, 0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="no finite number"):
        routing.probabilities(np.array([[0.0, value]]))


def test_the_sentence_on_doubt_counts_the_answers_that_remain() -> None:
    doubtful = np.array([True, True, False, False, False])
    wrong = np.array([True, False, True, False, False])
    some = decisions.measure_abstention(doubtful, wrong)
    assert (some.studies, some.error_without) == (2, pytest.approx(0.4))
    found = decisions.describe_rest(some, 5)
    assert re.fullmatch(
        r"of the others 1 of 3 are answered wrong, 0\.333 \[0\.\d+, 0\.\d+\]", found
    )
    all_of_them = decisions.measure_abstention(np.ones(5, bool), wrong)
    assert all_of_them.error is None
    assert decisions.describe_rest(all_of_them, 5) == "none is answered"


def test_an_evaluation_names_each_estimate_that_a_manifest_stores() -> None:
    assert tuple(METRIC_NAMES) == ESTIMATES
