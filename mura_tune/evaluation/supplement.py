"""What reports show beside the scores of a split: calibration, net benefit, groups, small n."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.abstention import risk_coverage
from mura_tune.metrics.comparison import smallest_difference
from mura_tune.metrics.estimates import DRAWS, Floats, Names, StudyScores, resample_all
from mura_tune.metrics.groups import estimate_group
from mura_tune.metrics.net_benefit import estimate_net_benefit, predict_at_prevalences
from mura_tune.metrics.operating_points import threshold_metrics
from mura_tune.metrics.ranking import weighted_auc
from mura_tune.metrics.recalibration import estimate_recalibration
from mura_tune.release_format.supplement import (
    CoverageEntry,
    GroupEntry,
    NetBenefitEntry,
    PrevalenceEntry,
    RecalibrationEntry,
    SupplementEntry,
)

_MOST_VIEWS = 3  # studies of so many views and more are one group


def measure_supplement(
    studies: StudyScores,
    views_m: NDArray[np.int64],
    areas_m: Names,
    points: Mapping[str, float],
    threshold: float,
) -> SupplementEntry:
    """What a report shows of a split beside its scores.

    Args:
        views_m: how many views each study has, (M,).
        areas_m: the name of each study's area, (M,).
        points: the operating points' thresholds by name; `threshold` is the recommended one.
    """
    return SupplementEntry(
        recalibration=RecalibrationEntry(**estimate_recalibration(studies)),
        net_benefit={
            name: NetBenefitEntry(threshold=point, **vars(estimate_net_benefit(studies, point)))
            for name, point in points.items()
            if point < 1
        },
        predictive_values=tuple(
            PrevalenceEntry(**vars(row)) for row in predict_at_prevalences(studies, threshold)
        ),
        by_views=tuple(_by_views(studies, views_m, threshold)),
        by_area=tuple(_by_area(studies, areas_m, threshold)),
        risk_coverage=tuple(
            CoverageEntry(**vars(point)) for point in risk_coverage(studies, threshold)
        ),
        smallest_difference=_smallest_differences(studies, threshold),
    )


def _by_views(
    studies: StudyScores, views_m: NDArray[np.int64], threshold: float
) -> Iterator[GroupEntry]:
    counts = np.minimum(views_m, _MOST_VIEWS)
    for count in np.unique(counts):
        more = " or more" if count == _MOST_VIEWS else ""
        views = "view" if count == 1 else "views"
        yield _group(f"{count}{more} {views}", studies.take(counts == count), threshold)


def _by_area(studies: StudyScores, areas_m: Names, threshold: float) -> Iterator[GroupEntry]:
    areas = np.unique(areas_m)
    for area in areas if len(areas) > 1 else ():
        yield _group(str(area), studies.take(areas_m == area), threshold)


def _group(name: str, studies: StudyScores, threshold: float) -> GroupEntry:
    few = studies.rarer_patients
    estimates = None
    if few:
        known = estimate_group(studies, threshold, least=1)
        estimates = {name: estimate for name, estimate in known.items() if estimate}
    return GroupEntry(
        name=name,
        studies=len(studies.labels),
        abnormal=int(studies.labels.sum()),
        few=few,
        estimates=estimates,
    )


def _smallest_differences(studies: StudyScores, threshold: float) -> dict[str, float]:
    """By score, the difference that can be seen at this n; a class that is absent leaves none."""
    if not studies.rarer_patients:
        return {}
    called = studies.scores >= threshold

    def values(weights: Floats) -> dict[str, Floats]:
        return {
            "auc": weighted_auc(studies.scores, studies.labels, weights),
            "kappa": threshold_metrics(called, studies.labels, weights)["kappa"],
        }

    drawn = resample_all(values, studies.patients, DRAWS, 0)
    return {name: smallest_difference(values) for name, values in drawn.items()}
