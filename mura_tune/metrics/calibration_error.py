"""How far probabilities are from frequencies: reliability, expected calibration error, Brier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mura_tune.metrics.estimates import (
    DRAWS,
    Estimate,
    Floats,
    StudyScores,
    exact_interval,
    logit_interval,
    resample,
)

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Studies of neighbouring scores: how many, their mean score, and the share abnormal."""

    studies: int
    score: float
    abnormal: float


def reliability_bins(studies: StudyScores, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Bins of equally many studies, by score; fewer where there are less than five a bin."""
    which = _bins(studies, bins)
    return tuple(
        ReliabilityBin(
            int(rows.sum()), float(studies.scores[rows].mean()), float(studies.labels[rows].mean())
        )
        for rows in (which == b for b in np.unique(which))
    )


def estimate_calibration_error(
    studies: StudyScores, *, bins: int = BINS, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean distance of score and frequency over bins of equally many studies (Naeini et al. 2015;
    Nixon et al. 2019 for such bins). Never negative: it is above 0 even for a calibrated model,
    and more so with few studies."""
    which = _bins(studies, bins)
    member = (which[:, None] == np.unique(which)).astype(np.float64)  # (M, bins)
    gap = (studies.scores - studies.labels)[:, None] * member

    def value(weights: Floats) -> Floats:
        return np.asarray(np.abs(weights @ gap).sum(1) / weights.sum(1))

    ones = np.ones((1, len(which)))
    estimate = float(value(ones)[0])
    return _estimate(studies, estimate, resample(value, studies.patients, draws, seed))


def estimate_brier(studies: StudyScores, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean squared distance of probability and label (Brier 1950); 0.25 is a coin's."""
    loss = (studies.scores - studies.labels) ** 2
    drawn = resample(lambda w: w @ loss / w.sum(1), studies.patients, draws, seed)
    return _estimate(studies, float(loss.mean()), drawn)


def _estimate(studies: StudyScores, value: float, drawn: Floats) -> Estimate:
    ends = logit_interval(value, drawn, studies.count_patients() - 1)
    if ends[0] == ends[1]:  # as sure as a share of 0 or 1 among the patients
        ends = exact_interval(value, studies.count_patients())
    return studies.estimate(value, ends)


def _bins(studies: StudyScores, bins: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Each study's bin; equal scores share one, so that their order does not matter."""
    n = len(studies.scores)
    bins = max(1, min(bins, n // 5))
    rank = np.searchsorted(np.sort(studies.scores), studies.scores, side="left")
    return np.asarray(rank * bins // n, dtype=np.int64)
