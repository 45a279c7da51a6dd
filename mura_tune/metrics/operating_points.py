"""Figures at an operating point: what calling a study abnormal at or above a threshold costs.

The scores of a study's answers that may decide: AUC, or F1 or kappa at their best threshold.

F1 and kappa need a threshold, and nothing has chosen one while a network trains: 0.5 would judge
the class weight, which moves every probability. So each is taken at the threshold where it is
largest on the very studies it is measured on, which flatters it; a release's own thresholds are
chosen later, on calibrated probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.estimates import (
    AUC,
    DRAWS,
    TAIL,
    Estimate,
    Floats,
    Measure,
    Studies,
    all_over_draws,
    exact,
    interval,
)

FIGURES = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1", "kappa")


def at_threshold(
    studies: Studies, threshold: float, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Estimate]:
    """FIGURES of calling a study abnormal at or above `threshold`, with patient-cluster intervals.

    PPV and NPV are those at this set's share of abnormal studies; kappa is Cohen's (1960). A figure
    without spread (a perfect score) gets bounds from exact ones, see `_corners`.
    """
    called = studies.scores >= threshold

    def figures(weights: Floats) -> dict[str, Floats]:
        return confusion(called, studies.labels, weights)

    values = figures(np.ones((1, len(called))))
    resampled = all_over_draws(figures, studies.patients, draws, seed)
    patients = len(np.unique(studies.patients))
    rests_on = {
        "sensitivity": studies.patients_with(1),
        "specificity": studies.patients_with(0),
        "ppv": len(np.unique(studies.patients[called])),
        "npv": len(np.unique(studies.patients[~called])),
        "accuracy": patients,
    }
    found = {}
    for name in FIGURES:
        value, floor = float(values[name][0]), -1.0 if name == "kappa" else 0.0
        freedom = rests_on[name] - 1 if name in rests_on else studies.freedom
        ends = interval(value, resampled[name], freedom, floor=floor)
        if ends[0] == ends[1]:
            share = name in rests_on
            ends = exact(value, rests_on[name]) if share else _corners(name, studies, called)
        found[name] = studies.estimate(value, ends)
    return found


def counts(studies: Studies, threshold: float) -> dict[str, int]:
    """Studies by label and call: true and false positives and negatives."""
    called, abnormal = studies.scores >= threshold, studies.labels == 1
    pairs = {
        "tp": called & abnormal,
        "fp": called & ~abnormal,
        "fn": ~called & abnormal,
        "tn": ~called & ~abnormal,
    }
    return {name: int(rows.sum()) for name, rows in pairs.items()}


def confusion(
    called: NDArray[np.bool_], labels: NDArray[np.int64], weights: Floats
) -> dict[str, Floats]:
    """Each of FIGURES for each row of weights (B, M); NaN where it is not defined."""
    abnormal = labels == 1
    tp, fp = weights @ (called & abnormal), weights @ (called & ~abnormal)
    fn, tn = weights @ (~called & abnormal), weights @ (~called & ~abnormal)
    n = tp + fp + fn + tn
    chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "accuracy": (tp + tn) / n,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "kappa": ((tp + tn) / n - chance) / (1 - chance),
        }


def _corners(name: str, studies: Studies, called: NDArray[np.bool_]) -> tuple[float, float]:
    """Bounds of F1 or kappa from exact ones of sensitivity and specificity.

    At a fixed share of abnormal studies both rise with both of them (Kraemer 1979 for kappa), so
    the corners of a rectangle that holds the pair with 95 % bound them. Each side of it gets
    half of the error (Bonferroni), which makes the bounds careful rather than tight.
    """
    share = float((studies.labels == 1).mean())
    sides = [
        exact(
            float((called[studies.labels == label] == bool(label)).mean()),
            studies.patients_with(label),
            TAIL / 2,
        )
        for label in (1, 0)
    ]
    low, high = (_composed(name, share, sides[0][end], sides[1][end]) for end in (0, 1))
    return low, high


def _composed(name: str, share: float, sensitivity: float, specificity: float) -> float:
    """F1 or kappa of a population with `share` abnormal."""
    hit, alarm = share * sensitivity, (1 - share) * (1 - specificity)
    called = hit + alarm
    if name == "f1":
        return 2 * hit / (share + called)
    chance = called * share + (1 - called) * (1 - share)
    return (hit + (1 - share) * specificity - chance) / (1 - chance)


# From hits and calls at each threshold (B, T), the abnormal ones (B, 1) and all (B, 1).
Figure = Callable[[Floats, Floats, Floats, Floats], Floats]


def _largest(figure: Figure) -> Callable[[Studies, Floats], Floats]:
    """The largest value of a figure over all thresholds, for each row of weights (B, M); NaN where
    a class has no weight."""

    def values(studies: Studies, weights: Floats) -> Floats:
        if not np.isfinite(studies.scores).all():
            return np.full(len(weights), np.nan)
        order = np.argsort(-studies.scores, kind="stable")
        scores, abnormal = studies.scores[order], studies.labels[order] == 1
        last = np.concatenate((scores[1:] < scores[:-1], [True]))  # equal scores are one threshold
        w = weights[:, order]
        hits, calls = np.cumsum(w * abnormal, 1), np.cumsum(w, 1)
        positives, total = hits[:, -1:], calls[:, -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            found = figure(hits[:, last], calls[:, last], positives, total)
        best = np.where(np.isnan(found), -np.inf, found).max(1)
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


def _measure(name: str, figure: Figure) -> Measure:
    return Measure(name, _largest(figure), lambda s: s.freedom, lambda s: s.rarer)


F1, KAPPA = _measure("best-threshold F1", _f1), _measure("best-threshold kappa", _kappa)
MONITORS: Mapping[str, Measure] = {"auc": AUC, "f1": F1, "kappa": KAPPA}
