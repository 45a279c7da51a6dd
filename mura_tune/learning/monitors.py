"""The scores of a study's answers that may decide: AUC, or F1 or kappa at their best threshold.

F1 and kappa need a threshold, and nothing has chosen one while a network trains: 0.5 would judge
the class weight, which moves every probability. So each is taken at the threshold where it is
largest on the very studies it is measured on, which flatters it; a release's own thresholds are
chosen later, on calibrated probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mura_tune.learning.metrics import AUC, Floats, Measure, Studies

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
