"""DeLong's comparison of two AUCs on the same studies, for studies that are independent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mura_tune.learning.intervals import Z
from mura_tune.learning.metrics import Floats, Studies, auc


@dataclass(frozen=True)
class DeLong:
    """AUC of the first minus that of the second, its standard error, and the two-sided p."""

    value: float
    low: float
    high: float
    error: float
    p: float


def delong(ours: Studies, theirs: Studies) -> DeLong:
    """The difference of two correlated AUCs by structural components (DeLong et al. 1988).

    It takes every study as independent: studies of one patient make it too sure. The
    patient-cluster bootstrap (`paired.auc_difference`) does not.

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


def placements(studies: Studies) -> tuple[Floats, Floats]:
    """For each abnormal study the share of normal ones below it, and for each normal study the
    share of abnormal ones above it; ties count half. Both have the AUC as their mean."""
    positive, negative = (studies.scores[studies.labels == label] for label in (1, 0))
    below, above = np.sort(negative), np.sort(positive)

    def mid(values: Floats, ordered: Floats) -> Floats:
        left, right = (np.searchsorted(ordered, values, side=s) for s in ("left", "right"))
        return np.asarray((left + right) / 2 / len(ordered))

    return mid(positive, below), 1 - mid(negative, above)
