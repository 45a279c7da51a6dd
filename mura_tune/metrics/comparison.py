"""Two models on the same studies, and the mean over folds: differences with intervals.

`compare_aucs`, `compare_folds` and `compare_metrics` resample patients, the same for both sides,
and take percentiles of the differences. `compare_by_delong` has DeLong's standard error of a
difference of AUCs, which takes studies as independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mura_tune.metrics.estimates import (
    DRAWS,
    Estimate,
    Floats,
    Measure,
    StudyScores,
    Z,
    interval_text,
    resample,
    resample_all,
)
from mura_tune.metrics.ranking import AUC, auc

FEW = 10  # patients of a class, below which an interval of a difference says too little
POWER_Z = 0.841621  # the standard normal's 80 % point
# Metrics by name, (B,) each, under rows of study weights (B, M).
WeightedMetrics = Callable[[Floats], Mapping[str, Floats]]


def compare_aucs(
    ours: Sequence[StudyScores], theirs: Sequence[StudyScores], *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean study AUC of `ours` minus that of `theirs`, with a 95 % percentile interval.

    Each side is one model, trained once or more (a seed each). Every draw takes the same patients
    for all of them, so what makes a patient hard for both cancels out (Efron and Tibshirani
    1993, chapter 8: bootstrap of paired data).

    Raises:
        ValueError: a side without a run, or runs over different studies.
    """
    return compare_folds([[run] for run in ours], [[run] for run in theirs], draws=draws, seed=seed)


def compare_folds(
    ours: Sequence[Sequence[StudyScores]],
    theirs: Sequence[Sequence[StudyScores]],
    *,
    measure: Measure = AUC,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """`compare_aucs` where each run is a sequence of folds, and its score the mean over them."""
    if not ours or not theirs:
        raise ValueError("a difference needs a run on either side")
    first = ours[0]
    for run in (*ours, *theirs):
        if [list(fold.names) for fold in run] != [list(fold.names) for fold in first]:
            raise ValueError("the runs do not cover the same studies")
    values = np.mean(
        [
            _over_runs([run[i] for run in ours], measure, draws, seed + i)
            - _over_runs([run[i] for run in theirs], measure, draws, seed + i)
            for i in range(len(first))
        ],
        axis=0,
    )
    return _percentiles(values, first)


def average_folds(
    folds: Sequence[StudyScores], *, measure: Measure = AUC, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The mean over folds of their scores; each draw takes patients anew within each fold."""
    if len(folds) == 1:
        return measure.estimate(folds[0], draws=draws, seed=seed)
    values = [_over_runs([fold], measure, draws, seed + i) for i, fold in enumerate(folds)]
    return _percentiles(np.mean(values, axis=0), folds)


def smallest_difference(drawn: Floats) -> float:
    """The difference that a test at 5 % finds with a probability of 0.8, from a number's draws.

    It is (1.960 + 0.842) standard errors (Chow et al. 2017, section 1.3).
    """
    drawn = drawn[np.isfinite(drawn)]
    return (Z + POWER_Z) * float(drawn.std(ddof=1)) if len(drawn) > 1 else 1.0


def compare_metrics(
    studies: StudyScores, ours: WeightedMetrics, theirs: WeightedMetrics
) -> dict[str, Estimate]:
    """The difference of each metric of two models on the same studies.

    Args:
        studies: names and patients, in the order of the weights' columns.
        ours, theirs: metrics by name, (B,) each, under rows of study weights (B, M).
    """

    def differences(weights: Floats) -> dict[str, Floats]:
        first, second = ours(weights), theirs(weights)
        return {name: values - second[name] for name, values in first.items()}

    once = differences(np.ones((1, len(studies.labels))))
    estimates = {}
    for name, values in resample_all(differences, studies.patients, DRAWS, 0).items():
        drawn = values[np.isfinite(values)]
        low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
        estimates[name] = studies.estimate(float(once[name][0]), (float(low), float(high)))
    return estimates


def _over_runs(runs: Sequence[StudyScores], measure: Measure, draws: int, seed: int) -> Floats:
    """(1 + draws,) mean score over runs on the same studies, as they are and in every draw."""

    def mean(weights: Floats) -> Floats:
        return np.asarray(np.mean([measure.values(run, weights) for run in runs], axis=0))

    patients = runs[0].patients
    once = mean(np.ones((1, len(patients))))
    return np.concatenate([once, resample(mean, patients, draws, seed)])


def _percentiles(values: Floats, folds: Sequence[StudyScores]) -> Estimate:
    """The first value, and as its interval percentiles of the others, (1 + draws,)."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Estimate(
        value=float(values[0]),
        low=float(low),
        high=float(high),
        studies=sum(len(fold.names) for fold in folds),
        patients=len(np.unique(np.concatenate([fold.patients for fold in folds]))),
    )


@dataclass(frozen=True)
class DeLong:
    """AUC of the first minus that of the second, by DeLong.

    Attributes:
        value: the difference; `low` and `high` are the ends of its 95 % interval.
        error: its standard error.
        p: two-sided, of no difference.
    """

    value: float
    low: float
    high: float
    error: float
    p: float

    def signed(self) -> str:
        """The difference and its interval: `+0.012 [-0.010, +0.033]`."""
        return f"{self.value:+.3f} {interval_text(self.low, self.high, signed=True)}"


def compare_by_delong(ours: StudyScores, theirs: StudyScores) -> DeLong:
    """The difference of two correlated AUCs by structural components (DeLong et al. 1988).

    It takes every study as independent: studies of one patient make it too sure. The
    patient-cluster bootstrap (`compare_aucs`) does not.

    Raises:
        ValueError: other studies, or a class with less than two of them.
    """
    if not np.array_equal(ours.names, theirs.names) or not np.array_equal(
        ours.labels, theirs.labels
    ):
        raise ValueError("DeLong compares two models on the same studies")
    value = auc(ours.scores, ours.labels) - auc(theirs.scores, theirs.labels)
    variance = 0.0
    for first, second in zip(placements(ours), placements(theirs), strict=True):
        if len(first) < 2:
            raise ValueError("DeLong needs two studies of each class")
        variance += float((first - second).var(ddof=1)) / len(first)
    error = math.sqrt(variance)
    p = math.erfc(abs(value) / error / math.sqrt(2)) if error > 0 else float(value == 0)
    return DeLong(value, value - Z * error, value + Z * error, error, p)


def placements(studies: StudyScores) -> tuple[Floats, Floats]:
    """For each abnormal study the share of normal ones below it, and for each normal study the
    share of abnormal ones above it; ties count half. Both have the AUC as their mean."""
    positive, negative = (studies.scores[studies.labels == label] for label in (1, 0))
    below, above = np.sort(negative), np.sort(positive)

    def mid(values: Floats, ordered: Floats) -> Floats:
        left, right = (np.searchsorted(ordered, values, side=s) for s in ("left", "right"))
        return np.asarray((left + right) / 2 / len(ordered))

    return mid(positive, below), 1 - mid(negative, above)
