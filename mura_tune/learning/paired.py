"""Two models on the same studies: their difference, resampled patient by patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mura_tune.learning.metrics import (
    DRAWS,
    Estimate,
    Floats,
    Studies,
    cluster_weights,
    weighted_auc,
)


def auc_difference(
    ours: Sequence[Studies], theirs: Sequence[Studies], *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean study AUC of `ours` minus that of `theirs`, with a 95 % percentile interval.

    Each side is one model, trained once or more (a seed each). Every draw takes the same patients
    for all of them, so what makes a patient hard for both cancels out (Efron and Tibshirani
    1993, chapter 8: bootstrap of paired data).

    Raises:
        ValueError: a side without a run, or runs over different studies.
    """
    if not ours or not theirs:
        raise ValueError("a difference needs a run on either side")
    first = ours[0]
    for run in (*ours, *theirs):
        if not np.array_equal(run.names, first.names):
            raise ValueError("the runs do not cover the same studies")
    weights = np.concatenate(
        [np.ones((1, len(first.names))), cluster_weights(first.patients, draws, seed)]
    )
    value, *drawn = _mean_auc(ours, weights) - _mean_auc(theirs, weights)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    patients = len(np.unique(first.patients))
    return Estimate(float(value), float(low), float(high), len(first.names), patients)


def _mean_auc(runs: Sequence[Studies], weights: Floats) -> NDArray[np.float64]:
    return np.mean([weighted_auc(run.scores, run.labels, weights) for run in runs], axis=0)
