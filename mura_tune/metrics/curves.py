"""Curves over every threshold: ROC, precision and recall, and the average precision."""

from __future__ import annotations

import math

import numpy as np

from mura_tune.metrics.estimates import (
    DRAWS,
    TAIL,
    Estimate,
    Floats,
    Studies,
    cut_points,
    exact,
    interval,
    over_draws,
)


def roc(studies: Studies) -> tuple[Floats, Floats]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1)."""
    _, hits, alarms = cut_points(studies)
    return alarms[::-1] / max(alarms[0], 1), hits[::-1] / max(hits[0], 1)


def precision_recall(studies: Studies) -> tuple[Floats, Floats]:
    """Recall and precision wherever something is called abnormal, recall rising."""
    _, hits, alarms = cut_points(studies)
    some = hits + alarms > 0
    hits, alarms = hits[some][::-1], alarms[some][::-1]
    return hits / max(hits[-1], 1), hits / (hits + alarms)


def average_precision(studies: Studies, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Average precision with its interval from resampling whole patients.

    The sum of precision times the step in recall, tied scores one step, nothing interpolated
    (scikit-learn's `average_precision_score`).
    """

    def values(weights: Floats) -> Floats:
        return weighted_average_precision(studies, weights)

    value = float(values(np.ones((1, len(studies.labels))))[0])
    drawn = over_draws(values, studies.patients, draws, seed)
    ends = interval(value, drawn, studies.freedom)
    if ends[0] == ends[1]:
        ends = (_least_average_precision(studies), 1.0)
    return studies.estimate(value, ends)


def weighted_average_precision(studies: Studies, weights: Floats) -> Floats:
    """Average precision under each row of integer weights (B, M); NaN without a positive."""
    order = np.argsort(-studies.scores, kind="stable")
    scores, positive = studies.scores[order], studies.labels[order] == 1
    w = weights[:, order]
    starts = np.flatnonzero(np.concatenate(([True], scores[1:] < scores[:-1])))
    pos = np.add.reduceat(w * positive, starts, axis=1)
    found = np.cumsum(np.add.reduceat(w, starts, axis=1), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(found > 0, np.cumsum(pos, axis=1) / found, 0)
        return np.asarray((pos * precision).sum(1) / pos.sum(1))


def _least_average_precision(studies: Studies) -> float:
    """What perfect separation of so few patients leaves possible at the least.

    The gap's sensitivity and specificity have exact bounds (half of the error each, Bonferroni);
    the worst ranking within them puts every possible false alarm first, the missed last:
    the integral of s r / (s r + alarms) over recall r up to the sensitivity, s the share of
    abnormal studies, and the precision s beyond.
    """
    share = float((studies.labels == 1).mean())
    sensitivity, specificity = (
        exact(1.0, studies.patients_with(label), TAIL / 2)[0] for label in (1, 0)
    )
    odds = (1 - share) * (1 - specificity) / share
    ranked = sensitivity - odds * math.log1p(sensitivity / odds) if odds > 0 else sensitivity
    return ranked + (1 - sensitivity) * share
