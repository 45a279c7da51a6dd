"""How well scores rank abnormal studies over normal ones: AUC, average precision, curves.

No threshold is chosen here: AUC and average precision are over all thresholds, and the curves
(ROC, precision and recall) show each of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.estimates import (
    DRAWS,
    TAIL,
    Estimate,
    Floats,
    Measure,
    StudyScores,
    exact_interval,
    logit_interval,
    resample,
)


def auc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Area under the ROC curve, ties counted half (the Mann-Whitney statistic).

    Raises:
        ValueError: one class only, or a score that is not a number.
    """
    return float(weighted_auc(scores, labels, np.ones((1, len(labels))))[0])


def weighted_auc(scores: NDArray[Any], labels: NDArray[Any], weights: Floats) -> Floats:
    """AUC under each row of integer weights (B, M), (B,); NaN where a class has no weight.

    Raises:
        ValueError: as `auc`.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"AUC needs both classes; all {len(labels)} labels are one class")
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], labels[order] == 1
    w = weights[:, order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] > ordered[:-1])))
    pos = np.add.reduceat(w * positive, starts, axis=1)
    neg = np.add.reduceat(w * ~positive, starts, axis=1)
    below = np.cumsum(neg, axis=1) - neg / 2  # negatives under each score, ties counted half
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((pos * below).sum(1) / (pos.sum(1) * neg.sum(1)))


AUC = Measure(
    name="AUC",
    values=lambda studies, weights: weighted_auc(studies.scores, studies.labels, weights),
    freedom=lambda studies: studies.freedom,
    rests_on=lambda studies: studies.rarer_patients,
)


def estimate_auc(studies: StudyScores, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """AUC with its interval from resampling whole patients."""
    return AUC.estimate(studies, draws=draws, seed=seed)


def estimate_average_precision(
    studies: StudyScores, *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Average precision with its interval from resampling whole patients.

    The sum of precision times the step in recall, tied scores one step, nothing interpolated
    (scikit-learn's `average_precision_score`).
    """

    def values(weights: Floats) -> Floats:
        return weighted_average_precision(studies, weights)

    value = float(values(np.ones((1, len(studies.labels))))[0])
    drawn = resample(values, studies.patients, draws, seed)
    ends = logit_interval(value, drawn, studies.freedom)
    if ends[0] == ends[1]:
        ends = (_least_average_precision(studies), 1.0)
    return studies.estimate(value, ends)


def weighted_average_precision(studies: StudyScores, weights: Floats) -> Floats:
    """Average precision under each row of integer weights (B, M), (B,); NaN without a positive."""
    order = np.argsort(-studies.scores, kind="stable")
    scores, positive = studies.scores[order], studies.labels[order] == 1
    w = weights[:, order]
    starts = np.flatnonzero(np.concatenate(([True], scores[1:] < scores[:-1])))
    pos = np.add.reduceat(w * positive, starts, axis=1)
    called = np.cumsum(np.add.reduceat(w, starts, axis=1), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, np.cumsum(pos, axis=1) / called, 0)
        return np.asarray((pos * precision).sum(1) / pos.sum(1))


def _least_average_precision(studies: StudyScores) -> float:
    """What perfect separation of so few patients leaves possible at the least.

    The gap's sensitivity and specificity have exact bounds (half of the error each, Bonferroni).
    The worst ranking within them puts every possible false alarm first and the missed studies last:
    the integral of s r / (s r + alarms) over recall r up to the sensitivity, s the share of
    abnormal studies, and the precision s beyond.
    """
    share = float((studies.labels == 1).mean())
    sensitivity, specificity = (
        exact_interval(1.0, studies.count_patients(label), TAIL / 2)[0] for label in (1, 0)
    )
    odds = (1 - share) * (1 - specificity) / share
    ranked = sensitivity - odds * math.log1p(sensitivity / odds) if odds > 0 else sensitivity
    return ranked + (1 - sensitivity) * share


def roc_curve(studies: StudyScores) -> tuple[Floats, Floats]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1)."""
    _, hits, alarms = threshold_counts(studies)
    return alarms[::-1] / max(alarms[0], 1), hits[::-1] / max(hits[0], 1)


def precision_recall_curve(studies: StudyScores) -> tuple[Floats, Floats]:
    """Recall and precision wherever something is called abnormal, recall rising."""
    _, hits, alarms = threshold_counts(studies)
    some = hits + alarms > 0
    hits, alarms = hits[some][::-1], alarms[some][::-1]
    return hits / max(hits[-1], 1), hits / (hits + alarms)


def threshold_counts(studies: StudyScores) -> tuple[Floats, Floats, Floats]:
    """Every threshold that divides the studies differently, from 0 up to 1, (T,); the abnormal
    studies at or above it (hits), (T,); and the normal ones (false alarms), (T,)."""
    order = np.argsort(studies.scores, kind="stable")
    scores, labels = studies.scores[order], studies.labels[order]
    thresholds = np.concatenate(([0.0], (scores[1:] + scores[:-1]) / 2, [1.0]))
    usable = np.concatenate(([True], scores[1:] > scores[:-1], [True]))
    hits = labels.sum() - np.concatenate(([0], np.cumsum(labels)))
    alarms = (1 - labels).sum() - np.concatenate(([0], np.cumsum(1 - labels)))
    return thresholds[usable], hits[usable].astype(np.float64), alarms[usable].astype(np.float64)
