"""A release on groups of test's studies: each group's numbers, and how it differs from the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mura_tune.evaluation.columns import StudyColumn
from mura_tune.metrics.estimates import Estimate, StudyScores
from mura_tune.metrics.groups import GROUP_METRICS, LEAST, compare_groups, estimate_group
from mura_tune.metrics.operating_points import METRIC_NAMES

NOTHING = "too few"


@dataclass(frozen=True, eq=False)
class Subgroup:
    """One group of the studies, and the rest: the studies of the other groups of its column.

    Attributes:
        studies, abnormal: how many there are.
        patients_abnormal, patients_normal: patients with a study of the class.
        estimates: GROUP_METRICS; None where one rests on fewer than LEAST patients.
        differences: DIFFERENCE_METRICS minus those of the rest; None where either has none.
    """

    name: str
    studies: int
    abnormal: int
    patients_abnormal: int
    patients_normal: int
    estimates: Mapping[str, Estimate | None]
    differences: Mapping[str, Estimate | None]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "studies": self.studies,
            "abnormal": self.abnormal,
            "patients_abnormal": self.patients_abnormal,
            "patients_normal": self.patients_normal,
            "estimates": _to_json(self.estimates),
            "differences": _to_json(self.differences),
        }


@dataclass(frozen=True, eq=False)
class Subgroups:
    """The groups of one column.

    Attributes:
        column: its name; `source` says where it stands.
        not_given: studies without a value, which are in no group and in no rest.
    """

    column: str
    source: str
    groups: tuple[Subgroup, ...]
    not_given: int

    def lines(self) -> Iterator[str]:
        """The estimates as lines for people."""
        wide = max(18, *(len(group.name) + 2 for group in self.groups))
        yield (
            f"  by {self.column} ({self.source}): {len(self.groups)} groups; a number takes "
            f"{LEAST} patients with a study of its class"
        )
        heads = (f"{METRIC_NAMES[name]:<22}" for name in GROUP_METRICS)
        yield f"  {'':<{wide}} {'studies (abnormal)':<19} {' '.join(heads)}".rstrip()
        for group in self.groups:
            n = f"{group.studies} ({group.abnormal})"
            cells = (f"{_brief(each):<22}" for each in group.estimates.values())
            yield f"  {group.name:<{wide}} {n:<19} {' '.join(cells)}".rstrip()
            if any(group.differences.values()):
                gaps = (f"{_signed(each):<22}" for each in group.differences.values())
                yield f"  {'  minus the rest':<{wide}} {'':<19} {' '.join(gaps)}".rstrip()
        if self.not_given:
            yield f"  {self.not_given} studies have no {self.column}, and are in no group"
        if any(any(group.differences.values()) for group in self.groups):
            yield (
                f"  intervals of {len(self.groups)} groups are not adjusted for being many, so "
                "some differences may exclude 0 by chance"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.column,
            "source": self.source,
            "least_patients": LEAST,
            "not_given": self.not_given,
            "groups": [group.to_json() for group in self.groups],
        }


def measure_subgroups(studies: StudyScores, column: StudyColumn, threshold: float) -> Subgroups:
    """Measure each group of a column, at the operating point of the whole release."""
    groups_m = np.array([column.groups.get(name, "") for name in studies.names], dtype=object)
    given = studies.take(groups_m != "")
    groups_m = groups_m[groups_m != ""]
    groups = []
    for name in column.names:
        own, rest = given.take(groups_m == name), given.take(groups_m != name)
        estimates = estimate_group(own, threshold), estimate_group(rest, threshold)
        groups.append(
            Subgroup(
                name=name,
                studies=len(own.labels),
                abnormal=int(own.labels.sum()),
                patients_abnormal=own.count_patients(1),
                patients_normal=own.count_patients(0),
                estimates=estimates[0],
                differences=compare_groups(own, rest, estimates, threshold),
            )
        )
    not_given = len(studies.labels) - len(given.labels)
    return Subgroups(column.name, column.source, tuple(groups), not_given)


def _brief(estimate: Estimate | None) -> str:
    return estimate.brief() if estimate else NOTHING


def _signed(difference: Estimate | None) -> str:
    return difference.signed() if difference else NOTHING


def _to_json(estimates: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: each.to_json() if each else None for name, each in estimates.items()}
