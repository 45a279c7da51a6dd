"""How far probabilities are from frequencies: reliability, expected calibration error, Brier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mura_tune.metrics.estimates import (
    DRAWS,
    Estimate,
    Floats,
    StudyScores,
    resample,
    share_interval,
)

BINS = 10  # with at least 50 studies


@dataclass(frozen=True)
class ReliabilityBin:
    """Studies of neighbouring scores: how many, their mean score, and the share abnormal."""

    studies: int
    score: float
    abnormal: float


def reliability_bins(studies: StudyScores, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Bins of equally many studies, by score; fewer where there are less than five a bin."""
    numbers = _number_bins(studies, bins)
    members = (numbers == number for number in np.unique(numbers))  # (M,) each
    return tuple(
        ReliabilityBin(
            studies=int(member.sum()),
            score=float(studies.scores[member].mean()),
            abnormal=float(studies.labels[member].mean()),
        )
        for member in members
    )


def estimate_calibration_error(
    studies: StudyScores, *, bins: int = BINS, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The mean distance of score and frequency over bins of equally many studies.

    Naeini et al. 2015; Nixon et al. 2019 for such bins. The error is never negative. So it is above
    0 even for a calibrated model, and more so with few studies.
    """
    numbers = _number_bins(studies, bins)
    member = (numbers[:, None] == np.unique(numbers)).astype(np.float64)  # (M, bins)
    gap = (studies.scores - studies.labels)[:, None] * member

    def values(weights: Floats) -> Floats:
        return np.asarray(np.abs(weights @ gap).sum(1) / weights.sum(1))

    value = float(values(np.ones((1, len(numbers))))[0])
    return _estimate(studies, value, resample(values, studies.patients, draws, seed))


def estimate_brier(studies: StudyScores, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean squared distance of probability and label (Brier 1950); a constant 0.5 has 0.25."""
    loss = (studies.scores - studies.labels) ** 2
    drawn = resample(lambda w: w @ loss / w.sum(1), studies.patients, draws, seed)
    return _estimate(studies, float(loss.mean()), drawn)


def _estimate(studies: StudyScores, value: float, drawn: Floats) -> Estimate:
    return studies.estimate(value, share_interval(value, drawn, studies.count_patients()))


def _number_bins(studies: StudyScores, bins: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The number of each study's bin, (M,); equal scores share a bin, whatever their order."""
    n = len(studies.scores)
    bins = max(1, min(bins, n // 5))
    rank = np.searchsorted(np.sort(studies.scores), studies.scores, side="left")
    return np.asarray(rank * bins // n, dtype=np.int64)
