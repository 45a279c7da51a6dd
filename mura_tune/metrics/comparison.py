"""Two models on the same studies, and the mean over folds: differences with intervals.

`compare_aucs` and `compare_folds` resample patients, the same for both sides. `compare_by_delong`
has DeLong's standard error of a difference of AUCs, which takes studies as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
)
from mura_tune.metrics.ranking import AUC, auc


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
    return _estimate(values, first)


def average_folds(
    folds: Sequence[StudyScores], *, measure: Measure = AUC, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The mean over folds of their scores; each draw takes patients anew within each fold."""
    if len(folds) == 1:
        return measure.estimate(folds[0], draws=draws, seed=seed)
    values = [_over_runs([fold], measure, draws, seed + i) for i, fold in enumerate(folds)]
    return _estimate(np.mean(values, axis=0), folds)


def _over_runs(runs: Sequence[StudyScores], measure: Measure, draws: int, seed: int) -> Floats:
    """(1 + draws,) mean score over runs on the same studies, as they are and in every draw."""

    def mean(weights: Floats) -> Floats:
        return np.asarray(np.mean([measure.values(run, weights) for run in runs], axis=0))

    patients = runs[0].patients
    once = mean(np.ones((1, len(patients))))
    return np.concatenate([once, resample(mean, patients, draws, seed)])


def _estimate(values: Floats, folds: Sequence[StudyScores]) -> Estimate:
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
    """AUC of the first minus that of the second, its standard error, and the two-sided p."""

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
    pairs = [placements(s) for s in (ours, theirs)]
    variance = 0.0
    for side in (0, 1):
        gap = pairs[0][side] - pairs[1][side]
        if len(gap) < 2:
            raise ValueError("DeLong needs two studies of each class")
        variance += float(gap.var(ddof=1)) / len(gap)
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
