"""How probabilities and outcomes agree: calibration intercept and slope, and a smooth curve.

Intercept and slope are those of Cox (1958) as Van Calster et al. (2019) name them. The intercept
says whether probabilities are too low (above 0) or too high on average, at a slope of 1. The
slope says whether they are too timid (above 1) or too extreme (below 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.estimates import (
    DRAWS,
    Estimate,
    Floats,
    StudyScores,
    logit,
    patient_weights,
    resample_all,
    sigmoid,
    t_quantile,
)

STEEPEST = 20.0  # slope per deviation of the logits: what separates labels has no finite one
_FLAT = 0.05  # deviation of logits below which the probabilities are one and have no slope
_STEPS, _CLOSE, _FURTHEST = 25, 1e-8, 2.0  # of Newton's method
SPAN = 0.75  # share of the studies that each point of the smooth curve rests on
CURVE_POINTS, CURVE_DRAWS = 41, 200


def estimate_recalibration(
    studies: StudyScores, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Estimate]:
    """Calibration `slope` and `intercept` of probabilities, with 95 % intervals.

    The slope b and its own constant maximise the likelihood of sigmoid(a + b logit(p)), the
    intercept that of sigmoid(a + logit(p)). An interval is t times a standard error: the larger of
    that of resampled patients and that of Fisher's information, of which the first is too small
    where the classes are nearly separated (`benchmarks/coverage.py`).

    A value is NaN where a class has fewer than two patients. The slope is NaN also where
    probabilities separate the classes (no finite slope is the most likely one) or hardly differ.
    """
    logits, freedom = logit(studies.scores), studies.freedom
    if freedom < 1:
        nothing = studies.estimate(np.nan, (np.nan, np.nan))
        return {"slope": nothing, "intercept": nothing}

    def values(weights: Floats) -> dict[str, Floats]:
        return {
            "slope": fit_slopes(logits, studies.labels, weights),
            "intercept": fit_intercepts(logits, studies.labels, weights),
        }

    once = {name: float(v[0]) for name, v in values(np.ones((1, len(logits)))).items()}
    drawn = resample_all(values, studies.patients, draws, seed)
    errors = {
        "slope": _slope_error(logits, studies.labels, once["slope"]),
        "intercept": _intercept_error(logits, once["intercept"]),
    }
    estimates = {}
    for name, value in once.items():
        if not np.isfinite(value):
            estimates[name] = studies.estimate(np.nan, (np.nan, np.nan))
            continue
        # half of the middle 68 %: draws that nearly separate the classes have slopes of any size
        low, high = np.nanpercentile(drawn[name], [15.8655, 84.1345])
        reach = t_quantile(freedom) * max(float(high - low) / 2, errors[name])
        estimates[name] = studies.estimate(value, (value - reach, value + reach))
    return estimates


def fit_slopes(logits_m: Floats, labels_m: NDArray[np.int64], weights_bm: Floats) -> Floats:
    """The slope of a logistic regression of labels on logits under each row of weights, (B,).

    NaN where a class has no weight, no finite slope is the most likely one, or logits hardly
    differ.
    """
    middle, spread = float(logits_m.mean()), float(logits_m.std())
    if spread < _FLAT:
        return np.full(len(weights_bm), np.nan)
    z_m = (logits_m - middle) / spread
    level, slope = np.zeros(len(weights_bm)), np.full(len(weights_bm), spread)
    last = np.full(len(weights_bm), np.inf)
    for _ in range(_STEPS):
        p_bm = sigmoid(level[:, None] + slope[:, None] * z_m)
        rest = weights_bm * (labels_m - p_bm)
        curve = weights_bm * p_bm * (1 - p_bm)
        g0, g1 = rest.sum(1), rest @ z_m
        h00, h01, h11 = curve.sum(1) + 1e-12, curve @ z_m, curve @ z_m**2 + 1e-12
        size = np.maximum(h00 * h11 - h01**2, 1e-12)
        steps = ((h11 * g0 - h01 * g1) / size, (h00 * g1 - h01 * g0) / size)
        level, slope = (
            value + np.clip(step, -_FURTHEST, _FURTHEST)
            for value, step in zip((level, slope), steps, strict=True)
        )
        last = np.maximum(*map(np.abs, steps))
        if last.max() < _CLOSE:
            break
    usable = _both(labels_m, weights_bm) & (last < 1e-4) & (np.abs(slope) < STEEPEST)
    return np.where(usable, slope / spread, np.nan)


def fit_intercepts(logits_m: Floats, labels_m: NDArray[np.int64], weights_bm: Floats) -> Floats:
    """What has to be added to logits for a mean probability of the share abnormal, under each row
    of weights, (B,); NaN where a class has no weight."""
    added = np.zeros(len(weights_bm))
    for _ in range(_STEPS):
        p_bm = sigmoid(added[:, None] + logits_m)
        rest = (weights_bm * (labels_m - p_bm)).sum(1)
        step = rest / np.maximum((weights_bm * p_bm * (1 - p_bm)).sum(1), 1e-12)
        added = added + np.clip(step, -_FURTHEST, _FURTHEST)
        if np.abs(step).max() < _CLOSE:
            break
    return np.where(_both(labels_m, weights_bm), added, np.nan)


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """The share abnormal over the probability, smoothed, (G,) each, with a 95 % band."""

    probabilities: Floats
    abnormal: Floats
    low: Floats
    high: Floats


def smooth_calibration(
    studies: StudyScores, *, draws: int = CURVE_DRAWS, seed: int = 0
) -> CalibrationCurve:
    """A smooth calibration curve between the least and the largest probability.

    Local linear regression with tricube weights over the nearest SPAN of the studies (Cleveland
    1979; Austin and Steyerberg 2014). The band has percentiles of curves of resampled patients.
    """
    p_m = studies.scores
    grid_g = np.linspace(p_m.min(), p_m.max(), CURVE_POINTS)
    distance = np.abs(p_m[:, None] - grid_g)  # (M, G)
    nearest = min(len(p_m) - 1, int(np.ceil(SPAN * len(p_m))))
    reach = np.maximum(np.sort(distance, axis=0)[nearest], 0.05)
    kernel = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
    offset = p_m[:, None] - grid_g

    def curves(weights_bm: Floats) -> Floats:
        y = studies.labels[:, None]
        s0, s1, s2 = (weights_bm @ (kernel * offset**power) for power in (0, 1, 2))
        t0, t1 = (weights_bm @ (kernel * offset**power * y) for power in (0, 1))
        size = s0 * s2 - s1**2
        flat = size < 1e-9 * np.maximum(s0, 1e-9) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            fitted = np.where(flat, t0 / s0, (s2 * t0 - s1 * t1) / np.where(flat, 1, size))
        return np.asarray(np.clip(fitted, 0, 1))

    blocks = [curves(weights) for weights in patient_weights(studies.patients, draws, seed)]
    low, high = np.nanpercentile(np.concatenate(blocks), [2.5, 97.5], axis=0)
    return CalibrationCurve(grid_g, curves(np.ones((1, len(p_m))))[0], low, high)


def _slope_error(logits_m: Floats, labels_m: NDArray[np.int64], slope: float) -> float:
    """The standard error of a slope by Fisher's information, its constant fitted to it."""
    if not np.isfinite(slope):
        return np.nan
    once = np.ones((1, len(logits_m)))
    centred = slope * (logits_m - logits_m.mean())
    p = sigmoid(fit_intercepts(centred, labels_m, once)[0] + centred)
    weights = p * (1 - p)
    middle = float((weights * logits_m).sum() / weights.sum())
    return float(1 / np.sqrt((weights * (logits_m - middle) ** 2).sum()))


def _intercept_error(logits_m: Floats, intercept: float) -> float:
    """The standard error of an intercept by Fisher's information."""
    p = sigmoid(intercept + logits_m)
    return float(1 / np.sqrt((p * (1 - p)).sum()))


def _both(labels_m: NDArray[np.int64], weights_bm: Floats) -> NDArray[np.bool_]:
    positive = weights_bm @ (labels_m == 1)
    return np.asarray((positive > 0) & (positive < weights_bm.sum(1)))
