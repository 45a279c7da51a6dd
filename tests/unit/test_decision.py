"""Decisions: calibration, thresholds against every possible threshold, and the band of doubt."""

import itertools
import re

import numpy as np
import pytest
import torch
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
    choose_decision,
    fit_calibration,
)
from mura_tune.evaluation.evaluate import METRIC_NAMES
from mura_tune.evaluation.routing import RouterDecision
from mura_tune.metrics.estimates import StudyScores, sigmoid
from mura_tune.release_format.entries import ESTIMATES
from mura_tune.release_format.manifest import AbnormalityManifest
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


@pytest.mark.parametrize("n", [30, 400])
def test_with_one_view_a_study_it_is_sklearns_sigmoid(n: int) -> None:
    logits, dev = part(n, 1)
    frozen = FrozenEstimator(Given().fit(logits.numpy(), dev.labels.numpy()))
    theirs = CalibratedClassifierCV(frozen, method="sigmoid", cv=2).fit(logits, dev.labels)
    x = np.linspace(-6, 6, 9)[:, None]
    expected = theirs.predict_proba(x)[:, 1]
    assert sigmoid(fit_calibration(logits, dev).logits(x[:, 0])) == pytest.approx(
        expected, abs=2e-4
    )


@pytest.mark.parametrize("views", [1, 3])
def test_nothing_near_it_has_less_cross_entropy(views: int) -> None:
    logits, dev = part(60, 8, views)
    found = fit_calibration(logits, dev)

    def loss(calibration: Calibration) -> float:
        s = calibration.studies(logits, dev)
        n1, n0 = s.labels.sum(), (1 - s.labels).sum()
        target = np.where(s.labels == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
        return -float((target * np.log(s.scores) + (1 - target) * np.log(1 - s.scores)).mean())

    least = loss(found)
    for factor, shift in itertools.product(
        (0.5, 0.9, 0.99, 1, 1.01, 1.1, 2), (-1, -0.05, 0, 0.05, 1)
    ):
        near = Calibration(found.temperature * factor, found.offset + shift)
        assert loss(near) >= least - 1e-6


@pytest.mark.parametrize("views", [1, 3])
def test_the_temperature_undoes_a_stretch(views: int) -> None:
    logits, dev = part(4000, 2, views)
    found = fit_calibration(logits, dev)
    assert found.temperature == pytest.approx(3, rel=0.12)
    assert found.offset == pytest.approx(0, abs=0.3)


def test_the_offset_undoes_what_weighted_classes_do_to_the_base_rate() -> None:
    logits, dev = part(4000, 2)
    plain, shifted = fit_calibration(logits, dev), fit_calibration(logits + 2, dev)
    assert shifted.temperature == pytest.approx(plain.temperature, rel=1e-3)
    assert shifted.offset == pytest.approx(plain.offset - 2, abs=1e-2)


def test_logits_that_hardly_differ_are_not_blown_up() -> None:
    logits, dev = part(60, 0)
    found = fit_calibration(logits * 1e-4, dev)
    assert found.temperature == pytest.approx(decisions.COLDEST, rel=1e-6)
    assert np.ptp(found.studies(logits * 1e-4, dev).scores) < 0.01


def test_logits_that_say_nothing_get_the_base_rate() -> None:
    _, dev = part(60, 0)
    scores = (
        fit_calibration(torch.full((60, 1), 0.7), dev).studies(torch.full((60, 1), 0.7), dev).scores
    )
    assert scores == pytest.approx(float(dev.labels.double().mean()), abs=0.02)


def test_separated_dev_studies_do_not_make_a_model_certain() -> None:
    _, dev = part(24, 0)
    apart = torch.where(dev.labels[:, None] == 1, 1.0, -1.0)
    score = fit_calibration(apart, dev).studies(apart, dev).scores.max()
    assert score == pytest.approx((24 / 2 + 1) / (24 / 2 + 2), abs=0.03)


def test_a_study_is_the_mean_of_its_calibrated_views() -> None:
    logits, dev = part(20, 3, views=2)
    calibration = Calibration(temperature=2.0, offset=0.5)
    views = calibration.views(logits, dev)
    assert views.scores == pytest.approx(sigmoid((logits[:, 0].numpy() + 0.5) / 2))
    assert calibration.studies(logits, dev).scores == pytest.approx(
        views.scores.reshape(20, 2).mean(1)
    )


def test_operating_points_are_the_best_of_all_cuts() -> None:
    logits, dev = part(150, 4, views=2)
    chosen = choose_decision(logits, dev)
    s = chosen.calibration.studies(logits, dev)

    def rates(cut: float) -> tuple[float, float]:
        called = s.scores >= cut
        return float(called[s.labels == 1].mean()), float(1 - called[s.labels == 0].mean())

    cuts = [0.0, *s.scores, 1.0]
    assert list(chosen.points) == list(decisions.RULES)
    best = max(sum(rates(cut)) for cut in cuts)
    assert sum(rates(chosen.points["max_youden"])) == pytest.approx(best)
    best_f1 = max(f1_score(s.labels, s.scores >= cut) for cut in cuts)
    assert f1_score(s.labels, s.scores >= chosen.points["max_f1"]) == pytest.approx(best_f1)
    sensitive = chosen.points["sensitivity_90"]
    assert rates(sensitive)[0] >= 0.9
    assert rates(sensitive)[1] == max(rates(c)[1] for c in cuts if rates(c)[0] >= 0.9)
    assert chosen.threshold == chosen.points[chosen.recommended]


def test_the_band_takes_what_is_nearest_until_the_rest_is_right_enough() -> None:
    logits, dev = part(300, 5, signal=3)
    chosen = choose_decision(logits, dev)
    s = chosen.calibration.studies(logits, dev)
    band, cut = chosen.band, chosen.threshold
    inside = np.array([band.holds(x) for x in s.scores])
    wrong = (s.scores >= cut) != (s.labels == 1)
    assert band.low < cut < band.high
    assert band.share == pytest.approx(inside.mean())
    assert band.error == pytest.approx(wrong[~inside].mean())
    assert band.error <= decisions.DOUBT_ERROR < band.error_without
    assert 0 < band.share <= decisions.DOUBT_MOST


def test_a_sure_model_needs_no_band_and_a_bad_one_takes_half_at_most() -> None:
    names = np.array([f"p{i}" for i in range(40)])
    labels = np.repeat([0, 1], 20)
    sure = decisions.choose_band(StudyScores(names, names, labels, labels * 0.8 + 0.1), 0.5)
    assert (sure.low, sure.high, sure.share) == (0.5, 0.5, 0.0)
    assert not sure.holds(0.5)
    noise = np.random.default_rng(0).random(40)
    bad = decisions.choose_band(StudyScores(names, names, labels, noise), 0.5)
    assert bad.share <= 0.5
    assert bad.error <= bad.error_without


def test_what_was_chosen_comes_back_from_a_manifest() -> None:
    chosen = choose_decision(*part(60, 6))
    manifest = AbnormalityManifest.partial(**chosen.entries())
    assert Decision.from_manifest(manifest) == chosen
    assert manifest.operating_point.threshold == chosen.threshold


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_temperature_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="temperature is"):
        Calibration(temperature=bad)


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
