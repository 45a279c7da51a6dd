"""What a report shows beside a release's scores, as it stands in bundle.json; see `Entry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from mura_tune.metrics.estimates import Estimate
from mura_tune.release_format.schema import (
    SHARE,
    Entry,
    each,
    estimate,
    estimates,
    named,
    number,
    real_estimate,
    text,
    whole,
)

GROUP_ESTIMATES = ("auc", "sensitivity", "specificity", "kappa")


class RecalibrationEntry(Entry):
    """Calibration slope and intercept of a study's probability; perfect are 1 and 0."""

    slope: Annotated[Estimate, real_estimate]
    intercept: Annotated[Estimate, real_estimate]


class NetBenefitEntry(Entry):
    """Net benefit at an operating point: the model's, that of calling every study abnormal, and
    by how much the model beats the better of calling all and calling none."""

    threshold: Annotated[float, SHARE]
    model: Annotated[Estimate, real_estimate]
    treat_all: Annotated[float, number()]
    gain: Annotated[Estimate, real_estimate]


class PrevalenceEntry(Entry):
    """PPV and NPV where a share `prevalence` is abnormal, and how many of 100 studies are called
    so, at the recommended operating point."""

    prevalence: Annotated[float, SHARE]
    ppv: Annotated[Estimate, estimate]
    npv: Annotated[Estimate, estimate]
    flags: Annotated[float, number(0, 100)]


class GroupEntry(Entry):
    """Some of the studies, such as those of three views.

    Attributes:
        few: patients with a study of the class that has fewer of them.
        estimates: GROUP_ESTIMATES by name; None where a class is absent.
    """

    name: Annotated[str, text]
    studies: Annotated[int, whole(1)]
    abnormal: Annotated[int, whole()]
    few: Annotated[int, whole()]
    estimates: Annotated[Mapping[str, Estimate] | None, estimates(GROUP_ESTIMATES)] = None


class CoverageEntry(Entry):
    """Of the surest studies, a share `coverage` of all, how many are answered wrong."""

    coverage: Annotated[float, SHARE]
    answered: Annotated[int, whole(1)]
    wrong: Annotated[int, whole()]


class SupplementEntry(Entry):
    """What TRIPOD+AI, CLAIM 2024 and Metrics Reloaded ask for beside the scores of a split.

    Attributes:
        net_benefit: by operating point.
        predictive_values: at other prevalences.
        by_views: studies of 1, 2, and 3 or more views; by_area: where there are several areas.
        risk_coverage: errors where the least sure studies are not answered.
        smallest_difference: by score, the difference from a fixed number that is found with a
            probability of 0.8 at this n.
    """

    recalibration: RecalibrationEntry
    net_benefit: Annotated[Mapping[str, NetBenefitEntry], named(NetBenefitEntry.parse)]
    predictive_values: Annotated[tuple[PrevalenceEntry, ...], each(PrevalenceEntry.parse)]
    by_views: Annotated[tuple[GroupEntry, ...], each(GroupEntry.parse)]
    by_area: Annotated[tuple[GroupEntry, ...], each(GroupEntry.parse)]
    risk_coverage: Annotated[tuple[CoverageEntry, ...], each(CoverageEntry.parse)]
    smallest_difference: Annotated[Mapping[str, float], named(number(0))]
