"""Operating points: thresholds, and what calling a study abnormal at or above one costs.

`estimate_at_threshold` has sensitivity, specificity and their like at a threshold that is given.
`youden_threshold` and its neighbours choose one. MONITORS are the measures that may judge a search.

F1 and kappa need a threshold, and none has been chosen while a network trains: 0.5 would judge
the class weight, which moves every probability. So as a monitor each is taken at the threshold
where it is largest on the very studies it is measured on, which flatters it. A release's own
thresholds are chosen later, on calibrated probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.estimates import (
    DRAWS,
    TAIL,
    Estimate,
    Floats,
    Measure,
    StudyScores,
    binomial_at_most,
    exact_interval,
    logit_interval,
    patient_weights,
    resample_all,
    share_interval,
)
from mura_tune.metrics.ranking import (
    AUC,
    estimate_auc,
    estimate_average_precision,
    threshold_counts,
    weighted_auc,
    weighted_average_precision,
)

THRESHOLD_METRICS = (
    *("sensitivity", "specificity", "ppv", "npv", "accuracy"),
    *("balanced_accuracy", "f1", "kappa"),
)
METRIC_NAMES = {  # for people: those of rankings, and THRESHOLD_METRICS
    "auc": "AUC",
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "kappa": "Cohen's kappa",
}


def estimate_at_threshold(
    studies: StudyScores, threshold: float, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Estimate]:
    """THRESHOLD_METRICS of calling a study abnormal at or above `threshold`.

    Intervals are from the patient-cluster bootstrap. PPV and NPV are those at this table's share of
    abnormal studies; kappa is Cohen's (1960). A number without spread (a perfect score) has exact
    bounds, or bounds made from exact ones (`_corner_interval`).
    """
    called = studies.scores >= threshold

    def metrics(weights: Floats) -> dict[str, Floats]:
        return threshold_metrics(called, studies.labels, weights)

    values = metrics(np.ones((1, len(called))))
    resampled = resample_all(metrics, studies.patients, draws, seed)
    rests_on = {
        "sensitivity": studies.count_patients(1),
        "specificity": studies.count_patients(0),
        "ppv": len(np.unique(studies.patients[called])),
        "npv": len(np.unique(studies.patients[~called])),
        "accuracy": studies.count_patients(),
    }
    estimates = {}
    for name in THRESHOLD_METRICS:
        value = float(values[name][0])
        if name in rests_on:
            ends = share_interval(value, resampled[name], rests_on[name])
        else:
            floor = -1.0 if name == "kappa" else 0.0
            ends = logit_interval(value, resampled[name], studies.freedom, floor=floor)
            if ends[0] == ends[1]:
                ends = _corner_interval(name, studies, called)
        estimates[name] = studies.estimate(value, ends)
    return estimates


def estimate_metrics(
    studies: StudyScores, at_threshold: Mapping[str, Estimate]
) -> dict[str, Estimate]:
    """METRIC_NAMES; `at_threshold` is what `estimate_at_threshold` gave of the same table."""
    ranked = {
        "auc": estimate_auc(studies),
        "average_precision": estimate_average_precision(studies),
    }
    return ranked | {name: at_threshold[name] for name in THRESHOLD_METRICS}


def weigh_metrics(studies: StudyScores, threshold: float, weights: Floats) -> dict[str, Floats]:
    """METRIC_NAMES of calling a study abnormal at or above `threshold`, under each row of weights
    (B, M), (B,) each; NaN where not defined."""
    at_threshold = threshold_metrics(studies.scores >= threshold, studies.labels, weights)
    ranked = {
        "auc": weighted_auc(studies.scores, studies.labels, weights),
        "average_precision": weighted_average_precision(studies, weights),
    }
    return ranked | {name: at_threshold[name] for name in THRESHOLD_METRICS}


def count_calls(studies: StudyScores, threshold: float) -> dict[str, int]:
    """Studies by label and call: true and false positives and negatives."""
    called, abnormal = studies.scores >= threshold, studies.labels == 1
    pairs = {
        "tp": called & abnormal,
        "fp": called & ~abnormal,
        "fn": ~called & abnormal,
        "tn": ~called & ~abnormal,
    }
    return {name: int(rows.sum()) for name, rows in pairs.items()}


def threshold_metrics(
    called: NDArray[np.bool_], labels: NDArray[np.int64], weights: Floats
) -> dict[str, Floats]:
    """THRESHOLD_METRICS under each row of weights (B, M), (B,) each; NaN where not defined."""
    abnormal = labels == 1
    tp, fp = weights @ (called & abnormal), weights @ (called & ~abnormal)
    fn, tn = weights @ (~called & abnormal), weights @ (~called & ~abnormal)
    n = tp + fp + fn + tn
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / n**2
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "accuracy": (tp + tn) / n,
            "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "kappa": ((tp + tn) / n - chance) / (1 - chance),
        }


def _corner_interval(
    name: str, studies: StudyScores, called: NDArray[np.bool_]
) -> tuple[float, float]:
    """Bounds of F1, kappa or balanced accuracy from exact ones of sensitivity and specificity.

    At a fixed share of abnormal studies all rise with both of them (Kraemer 1979 for kappa), so
    the corners of a rectangle that holds the pair with 95 % bound them. Each side of it gets
    half of the error (Bonferroni), which makes the bounds careful rather than tight.
    """
    share = float((studies.labels == 1).mean())
    sides = [
        exact_interval(
            float((called[studies.labels == label] == bool(label)).mean()),
            studies.count_patients(label),
            TAIL / 2,
        )
        for label in (1, 0)
    ]
    low, high = (metric_from_rates(name, share, sides[0][end], sides[1][end]) for end in (0, 1))
    return low, high


def metric_from_rates(name: str, share: float, sensitivity: float, specificity: float) -> float:
    """F1 (`f1`), balanced accuracy or Cohen's kappa where a share of studies is abnormal."""
    if name == "balanced_accuracy":
        return (sensitivity + specificity) / 2
    hit, alarm = share * sensitivity, (1 - share) * (1 - specificity)
    called = hit + alarm
    if name == "f1":
        return 2 * hit / (share + called)
    chance = called * share + (1 - called) * (1 - share)
    return (hit + (1 - share) * specificity - chance) / (1 - chance)


# ---- thresholds by rule ----


def prevalence_threshold(studies: StudyScores) -> float:
    """The share of abnormal studies, softened: (n + 1) / (M + 2) of n among M.

    Where scores are calibrated, calling a study abnormal from the share on maximises sensitivity +
    specificity - 1; and a share is known better than the place of a maximum.
    """
    return float((studies.labels.sum() + 1) / (len(studies.labels) + 2))


def youden_threshold(studies: StudyScores) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden 1950).

    It lies halfway between two neighbouring scores, so that it is stable.
    """
    thresholds, hits, alarms = threshold_counts(studies)
    index = hits / max(hits[0], 1) - alarms / max(alarms[0], 1)
    return float(thresholds[np.argmax(index)])


def mean_youden_threshold(studies: StudyScores, *, draws: int = 200, seed: int = 0) -> float:
    """The mean of `youden_threshold` over resamplings of whole patients (Breiman 1996, bagging).

    A draw without one of the classes has no such threshold, and is left out.
    """
    thresholds = []
    for weights_bm in patient_weights(studies.patients, draws, seed):
        for weights in weights_bm.astype(np.int64):
            rows = np.repeat(np.arange(len(weights)), weights)
            drawn = studies.take(rows)
            if 0 < drawn.labels.sum() < len(rows):
                thresholds.append(youden_threshold(drawn))
    return float(np.mean(thresholds)) if thresholds else youden_threshold(studies)


def f1_threshold(studies: StudyScores) -> float:
    """The threshold with the largest F1."""
    thresholds, hits, alarms = threshold_counts(studies)
    return float(thresholds[np.argmax(2 * hits / (hits + alarms + max(hits[0], 1)))])


def conformal_threshold(studies: StudyScores, sensitivity: float) -> float:
    """A threshold at or above which a new abnormal study scores with a probability of at least
    `sensitivity` (split conformal prediction, Vovk et al. 2005).

    That is the k-th lowest score of the n abnormal studies, k = floor((1 - sensitivity) (n + 1)),
    and 0 where k is 0. Of the thresholds that call as many normal studies as that one, the lowest
    is taken. The probability is over draws of these studies and of the new one alike: for the
    studies at hand, the sensitivity may come out lower.
    """
    positives = np.sort(studies.scores[studies.labels == 1])
    k = math.floor((1 - sensitivity) * (len(positives) + 1) + 1e-9)  # .1 x 10 is 1, not less
    cut = positives[k - 1] if k else 0.0
    thresholds, _, alarms = threshold_counts(studies)
    alarms_at_cut = alarms[thresholds <= cut][-1]
    return float(thresholds[alarms == alarms_at_cut][0])


def answer_surest(
    sureness_m: Floats, wrong_m: NDArray[np.bool_], *, error: float, most: float, least: float = 0.0
) -> tuple[NDArray[np.int64], int]:
    """Which studies a model should answer, so that its answers err little (El-Yaniv and Wiener
    2010).

    As many studies are answered as leave an error of `error` or less; if no number does, as many
    as leave the least error. Equally sure studies are answered together or not at all.

    Args:
        most: the largest share of studies from which the model may abstain.
        least: the smallest share from which it abstains, even where every answer is right.

    Returns:
        The rows of the studies, surest first, (M,), and how many of them are answered.
    """
    order = np.argsort(-sureness_m, kind="stable")
    n = len(order)
    answered = np.arange(1, n + 1)
    errors = np.cumsum(wrong_m[order]) / answered
    last = np.append(np.diff(sureness_m[order]) < 0, True)  # of the equally sure
    usable = last & (answered >= n * (1 - most)) & (answered <= max(1, n * (1 - least)))
    usable = usable if usable.any() else last
    good = usable & (errors <= error)
    candidates = good if good.any() else usable & (errors == errors[usable].min())
    return order, int(np.flatnonzero(candidates)[-1]) + 1


def promise_surest(
    sureness_m: Floats, wrong_m: NDArray[np.bool_], *, error: float, tail: float, most: float
) -> tuple[NDArray[np.int64], int]:
    """The most studies that a model can answer and promise an error of `error` or less.

    The error of those that it answers has a one-sided upper bound (Clopper and Pearson 1934),
    exceeded with a probability of `tail` for a number of studies that is fixed beforehand; here
    the largest number is taken whose bound is `error` or less. Equally sure studies are answered
    together or not at all.

    Args:
        most: the largest share of studies from which the model may abstain.

    Returns:
        The rows of the studies, surest first, (M,), and how many of them are answered: 0 where
        no number keeps the promise.
    """
    order = np.argsort(-sureness_m, kind="stable")
    mistakes = np.cumsum(wrong_m[order])
    last = np.append(np.diff(sureness_m[order]) < 0, True)  # of the equally sure
    for n in range(len(order), 0, -1):
        if n < len(order) * (1 - most):
            break
        if last[n - 1] and binomial_at_most(int(mistakes[n - 1]), n, error) <= tail:
            return order, n
    return order, 0


# ---- the measures that may judge a search ----

# A metric from hits and calls at each threshold (B, T), abnormal studies (B, 1) and all (B, 1).
_FromCounts = Callable[[Floats, Floats, Floats, Floats], Floats]


def _largest(metric: _FromCounts) -> Callable[[StudyScores, Floats], Floats]:
    """The largest value of a metric over all thresholds, for each row of weights (B, M); NaN where
    a class has no weight."""

    def values(studies: StudyScores, weights: Floats) -> Floats:
        if not np.isfinite(studies.scores).all():
            return np.full(len(weights), np.nan)
        order = np.argsort(-studies.scores, kind="stable")
        scores, abnormal = studies.scores[order], studies.labels[order] == 1
        last = np.concatenate((scores[1:] < scores[:-1], [True]))  # equal scores are one threshold
        w = weights[:, order]
        hits, calls = np.cumsum(w * abnormal, 1), np.cumsum(w, 1)
        positives, total = hits[:, -1:], calls[:, -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            each = metric(hits[:, last], calls[:, last], positives, total)
        best = np.where(np.isnan(each), -np.inf, each).max(1)
        both = (positives > 0) & (positives < total)
        return np.where(both[:, 0], best, np.nan)

    return values


def _f1(hits: Floats, calls: Floats, positives: Floats, total: Floats) -> Floats:
    return 2 * hits / (calls + positives)


def _kappa(hits: Floats, calls: Floats, positives: Floats, total: Floats) -> Floats:
    """Cohen 1960."""
    agreed = (total - calls - positives + 2 * hits) / total
    chance = (calls * positives + (total - calls) * (total - positives)) / total**2
    return (agreed - chance) / (1 - chance)


def _best_threshold(name: str, metric: _FromCounts) -> Measure:
    return Measure(name, _largest(metric), lambda s: s.freedom, lambda s: s.rarer_patients)


BEST_F1 = _best_threshold("best-threshold F1", _f1)
BEST_KAPPA = _best_threshold("best-threshold kappa", _kappa)
MONITOR_MEASURES: Mapping[str, Measure] = {"auc": AUC, "f1": BEST_F1, "kappa": BEST_KAPPA}
