"""How well a group of studies is told apart, and by how much it differs from the rest.

A group's estimates are those of any table of studies. The interval of a difference is made of the
intervals of its two sides, so that it is right where a side is perfect and draws do not spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mura_tune.metrics.estimates import DRAWS, Estimate, Floats, StudyScores, resample_all
from mura_tune.metrics.operating_points import estimate_at_threshold, threshold_metrics
from mura_tune.metrics.ranking import estimate_auc, weighted_auc

GROUP_METRICS = ("auc", "sensitivity", "specificity", "kappa")
# Kappa moves with the share of abnormal studies, which groups need not have in common.
DIFFERENCE_METRICS = ("auc", "sensitivity", "specificity")
# Patients that a group's number rests on, below which nothing is said: with fewer, the interval of
# a sensitivity takes more than half of the scale (benchmarks/subgroups.py).
LEAST = 15


def rests_on(studies: StudyScores) -> dict[str, int]:
    """The patients that each of GROUP_METRICS rests on: those with a study of its class, or of the
    class that has fewer."""
    few = studies.rarer_patients
    abnormal, normal = studies.count_patients(1), studies.count_patients(0)
    return {"auc": few, "sensitivity": abnormal, "specificity": normal, "kappa": few}


def estimate_group(
    studies: StudyScores, threshold: float, *, least: int = LEAST, draws: int = DRAWS, seed: int = 0
) -> dict[str, Estimate | None]:
    """GROUP_METRICS of a group, None where a number rests on fewer than `least` patients.

    Args:
        threshold: the operating point of the whole release; a group has none of its own.
        least: 1 or more.
    """
    says = {name for name, patients in rests_on(studies).items() if patients >= least}
    at_point = estimate_at_threshold(studies, threshold, draws=draws, seed=seed) if says else {}
    estimates: dict[str, Estimate | None] = {}
    for name in GROUP_METRICS:
        if name not in says:
            estimates[name] = None
        elif name == "auc":
            estimates[name] = estimate_auc(studies, draws=draws, seed=seed)
        else:
            estimates[name] = at_point[name]
    return estimates


def compare_groups(
    ours: StudyScores,
    theirs: StudyScores,
    estimates: tuple[Mapping[str, Estimate | None], Mapping[str, Estimate | None]],
    threshold: float,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Estimate | None]:
    """DIFFERENCE_METRICS of one group minus another's, no study in both; None where a side has
    none.

    The interval of p - q, of sides with the intervals (l, u) and (m, v), is p - q less the root of
    (p - l)^2 + (v - q)^2 - 2 r (p - l)(v - q), and likewise above (Zou 2007, equation 4; Newcombe
    1998 for r = 0). r is the correlation of both numbers over the patient bootstrap; it is 0
    unless a patient has studies in both groups.

    Args:
        estimates: what `estimate_group` gives of either.
    """
    pairs = {
        name: (mine, other)
        for name in DIFFERENCE_METRICS
        if (mine := estimates[0][name]) is not None and (other := estimates[1][name]) is not None
    }
    correlations = _correlate(ours, theirs, list(pairs), threshold, draws, seed)
    patients = len(np.unique(np.concatenate([ours.patients, theirs.patients])))
    differences: dict[str, Estimate | None] = dict.fromkeys(DIFFERENCE_METRICS)
    for name, (mine, other) in pairs.items():
        value, r = mine.value - other.value, correlations[name]
        low = value - _reach(mine.value - mine.low, other.high - other.value, r)
        high = value + _reach(mine.high - mine.value, other.value - other.low, r)
        studies = len(ours.labels) + len(theirs.labels)
        differences[name] = Estimate(value, max(low, -1.0), min(high, 1.0), studies, patients)
    return differences


def _reach(ours: float, theirs: float, r: float) -> float:
    return math.sqrt(max(0.0, ours**2 + theirs**2 - 2 * r * ours * theirs))


def _correlate(
    ours: StudyScores,
    theirs: StudyScores,
    names: list[str],
    threshold: float,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """The correlation of each metric of two groups over draws of their patients."""
    if not names or not np.isin(ours.patients, theirs.patients).any():
        return dict.fromkeys(names, 0.0)
    first = len(ours.labels)

    def values(weights: Floats) -> dict[str, Floats]:
        sides = {
            "ours": _metrics(ours, weights[:, :first], names, threshold),
            "theirs": _metrics(theirs, weights[:, first:], names, threshold),
        }
        return {f"{side} {name}": of[name] for side, of in sides.items() for name in names}

    patients = np.concatenate([ours.patients, theirs.patients])
    drawn = resample_all(values, patients, draws, seed)
    return {name: _correlation(drawn[f"ours {name}"], drawn[f"theirs {name}"]) for name in names}


def _metrics(
    studies: StudyScores, weights: Floats, names: list[str], threshold: float
) -> dict[str, Floats]:
    """As `weigh_metrics`, of a table that may lack a class where no AUC is named."""
    called = studies.scores >= threshold
    values = threshold_metrics(called, studies.labels, weights)
    if "auc" in names:
        values["auc"] = weighted_auc(studies.scores, studies.labels, weights)
    return {name: values[name] for name in names}


def _correlation(first: Floats, second: Floats) -> float:
    """Pearson's, of draws in which both numbers are defined; 0 where one does not spread."""
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    if len(first) < 2 or min(first.std(), second.std()) < 1e-12:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
