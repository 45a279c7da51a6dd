"""How far probabilities are from frequencies: reliability, calibration error, Brier, log-loss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mura_tune.metrics.estimates import (
    DRAWS,
    NEAREST,
    Estimate,
    Floats,
    StudyScores,
    exact_interval,
    logit,
    logit_interval,
    resample,
    t_quantile,
)

BINS = 10  # with at least 50 studies
PERFECT_DRAWS = 500  # sets of labels that a perfect model would have had
_LARGEST_LOSS = -math.log(NEAREST)  # of a study, by `logit`


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error of a table, beside what a perfect model would show there.

    It has no interval: it is above 0 by chance alone, and resampling adds more of that chance, so
    an interval would not hold the truth. Of a perfect model's errors at this n `expected` is the
    mean, and 19 of 20 are below `expected_high`; both are None where they are not known.
    """

    value: float
    studies: int
    patients: int
    expected: float | None
    expected_high: float | None

    def brief(self) -> str:
        """The error, and a perfect model's: `0.084 (perfect: 0.090, up to 0.131)`."""
        if self.expected is None or self.expected_high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} (perfect: {self.expected:.3f}, up to {self.expected_high:.3f})"

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


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


def measure_calibration_error(
    studies: StudyScores, *, bins: int = BINS, draws: int = PERFECT_DRAWS, seed: int = 0
) -> CalibrationError:
    """The mean distance of score and frequency over bins of equally many studies.

    Naeini et al. 2015; Nixon et al. 2019 for such bins. A perfect model's error is that of labels
    drawn anew with the scores as probabilities, each study by itself.
    """
    numbers = _number_bins(studies, bins)
    member = (numbers[:, None] == np.unique(numbers)).astype(np.float64)  # (M, bins)
    rng = np.random.default_rng(seed)
    labels_bm = rng.random((draws, len(numbers))) < studies.scores
    labels_bm = np.concatenate([studies.labels[None] == 1, labels_bm])
    gaps = np.abs((studies.scores - labels_bm) @ member).sum(1) / len(numbers)
    return CalibrationError(
        value=float(gaps[0]),
        studies=len(numbers),
        patients=studies.count_patients(),
        expected=float(gaps[1:].mean()),
        expected_high=float(np.quantile(gaps[1:], 0.95)),
    )


def estimate_brier(studies: StudyScores, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean squared distance of probability and label (Brier 1950); a constant 0.5 has 0.25.

    The interval's standard error is that of resampled patients, and at least that of a calibrated
    model with these probabilities: sqrt(sum of p (1 - p) (1 - 2 p)^2) / M (Spiegelhalter 1986).
    Where a few large losses make most of the score, a sample that happens to have none of them
    would be too sure (`benchmarks/coverage.py`).
    """
    p = studies.scores
    loss = (p - studies.labels) ** 2
    value, patients = float(loss.mean()), studies.count_patients()
    drawn = resample(lambda w: w @ loss / w.sum(1), studies.patients, draws, seed)
    least = math.sqrt(float((p * (1 - p) * (1 - 2 * p) ** 2).sum())) / len(p)
    spread = float(drawn.std(ddof=1))
    if 0 < spread < least:
        drawn = value + (drawn - drawn.mean()) * (least / spread)
    low, high = logit_interval(value, drawn, patients - 1)
    return studies.estimate(value, (low, high) if low != high else exact_interval(value, patients))


def log_losses(studies: StudyScores) -> Floats:
    """Minus the log-likelihood of each study's label, (M,)."""
    logits = logit(studies.scores)
    return np.asarray(np.logaddexp(0, np.where(studies.labels == 1, -logits, logits)))


def estimate_log_loss(studies: StudyScores, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean log-loss, in nats; a constant 0.5 has 0.693.

    The interval is drawn on the log scale, and ends at the largest loss that a study can have. Its
    standard error is that of resampled patients, and at least that of a calibrated model with these
    probabilities, as in `estimate_brier`. NaN are the ends where there is one patient alone.
    """
    p, loss = studies.scores, log_losses(studies)
    value, freedom = float(loss.mean()), studies.count_patients() - 1
    if freedom < 1 or value <= 0:
        return studies.estimate(value, (np.nan, np.nan))
    drawn = resample(lambda w: w @ loss / w.sum(1), studies.patients, draws, seed)
    least = math.sqrt(float((p * (1 - p) * logit(p) ** 2).sum())) / len(p)
    reach = t_quantile(freedom) * max(float(drawn.std(ddof=1)), least) / value
    above = min(reach, math.log(max(_LARGEST_LOSS, value) / value))
    return studies.estimate(value, (value * math.exp(-reach), value * math.exp(above)))


def estimate_brier_change(
    before: StudyScores, after: StudyScores, *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """By how much the Brier score changes, `after` less `before`, where both have the same studies.

    The interval is t times the standard error of resampled patients; its ends are NaN where there
    is one patient alone.
    """
    losses = ((table.scores - table.labels) ** 2 for table in (before, after))
    return _estimate_change(before, *losses, draws=draws, seed=seed)


def estimate_log_loss_change(
    before: StudyScores, after: StudyScores, *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The same of the log-loss."""
    losses = (log_losses(table) for table in (before, after))
    return _estimate_change(before, *losses, draws=draws, seed=seed)


def _estimate_change(
    studies: StudyScores, before_m: Floats, after_m: Floats, *, draws: int, seed: int
) -> Estimate:
    change = after_m - before_m
    value, freedom = float(change.mean()), studies.count_patients() - 1
    if freedom < 1:
        return studies.estimate(value, (np.nan, np.nan))
    drawn = resample(lambda w: w @ change / w.sum(1), studies.patients, draws, seed)
    reach = t_quantile(freedom) * float(drawn.std(ddof=1))
    return studies.estimate(value, (value - reach, value + reach))


def _number_bins(studies: StudyScores, bins: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The number of each study's bin, (M,); equal scores share a bin, whatever their order."""
    n = len(studies.scores)
    bins = max(1, min(bins, n // 5))
    rank = np.searchsorted(np.sort(studies.scores), studies.scores, side="left")
    return np.asarray(rank * bins // n, dtype=np.int64)
