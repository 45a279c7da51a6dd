"""Two releases on the same test studies: the differences of their metrics, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mura_tune.errors import InputError
from mura_tune.evaluation.evaluate import SPLIT_NAMES, Evaluation
from mura_tune.evaluation.routing import RouterEvaluation
from mura_tune.evaluation.split_uses import describe_uses
from mura_tune.metrics.areas import AREA_METRICS, AreaRecognition
from mura_tune.metrics.comparison import (
    FEW,
    DeLong,
    WeightedMetrics,
    compare_by_delong,
    compare_metrics,
    smallest_seen,
)
from mura_tune.metrics.estimates import Estimate, Names, StudyScores
from mura_tune.metrics.operating_points import METRIC_NAMES, weigh_metrics

UNDEFINED = "undefined"  # such as the PPV of a release that calls nothing abnormal
AnyEvaluation = Evaluation | RouterEvaluation


@dataclass(frozen=True, eq=False)
class Comparison:
    """The first release minus the second, metric by metric, each at its own operating point.

    One measure is primary. The intervals of the others are not adjusted for being many.

    Attributes:
        area: what both are releases for.
        names: what the two are called by who compares them.
        labels: of the metrics, for people.
        differences: by metric, with intervals from draws that take the same patients for both.
        values: the two values of each metric.
        primary: the measure that the comparison is about, a key of `differences`.
        few: patients that the primary measure rests on: those of the rarer class.
        delong: the difference of AUCs by DeLong, which takes studies as independent: patients
            with several make it too sure. None between routers, and with few patients.
    """

    area: str
    names: tuple[str, str]
    ours: AnyEvaluation
    theirs: AnyEvaluation
    labels: Mapping[str, str]
    differences: Mapping[str, Estimate]
    values: Mapping[str, tuple[float, float]]
    primary: str
    few: int
    delong: DeLong | None

    @property
    def smallest_difference(self) -> float | None:
        """The difference of the primary measure that is found at this n with a probability of
        0.8; None with few patients."""
        if self.few < FEW:
            return None
        return smallest_seen(self.differences[self.primary], self.few)

    def describe(self) -> str:
        """The differences as lines for people."""
        first = next(iter(self.differences.values()))
        head = (
            f"{self.area}: {self.names[0]} minus {self.names[1]}, "
            f"{SPLIT_NAMES[self.ours.split]}, {first.studies} studies of "
            f"{first.patients} patients"
        )
        wide = max(18, *(len(name) for name in self.labels.values()))
        rows = (
            f"  {self.labels[key]:<{wide}} {self._describe(difference):<25}   "
            + " and ".join(map(_describe_value, self.values[key]))
            for key, difference in self.differences.items()
        )
        return "\n".join([head, *rows, *self._describe_claims(), *self._describe_delong()])

    def _describe(self, difference: Estimate) -> str:
        """The difference, and its interval where there is a claim in it."""
        if math.isnan(difference.value):
            return UNDEFINED
        claims = (difference.low, difference.high) != (-1, 1)
        return difference.signed() if claims else f"{difference.value:+.3f} (too few patients)"

    def _describe_claims(self) -> Iterator[str]:
        name = self.labels[self.primary]
        if self.few < FEW:
            yield (
                f"  no claim: the rarer class has {self.few} patients here, and an interval needs "
                f"{FEW} or more"
            )
        else:
            yield (
                f"  {name} is the primary measure; the other {len(self.differences) - 1} intervals "
                "are not adjusted for being many, so some may exclude 0 by chance"
            )
            yield (
                f"  a difference of {self.smallest_difference:.3f} in {name} is found with a "
                "probability of 0.8 with these patients, a smaller one less often"
            )
        if line := describe_uses(self.ours.uses_before):
            yield f"  {line}"

    def _describe_delong(self) -> Iterator[str]:
        if self.delong:
            yield (
                "  DeLong, as if every study were a patient's only one: "
                f"{self.delong.signed()}, p = {self.delong.p:.3g}"
            )

    def to_json(self) -> dict[str, Any]:
        """What `mura compare --json` prints."""
        return {
            "area": self.area,
            "releases": list(self.names),
            "split": SPLIT_NAMES[self.ours.split],
            "differences": {
                name: difference.to_json() for name, difference in self.differences.items()
            },
            "primary": self.primary,
            "rarer_patients": self.few,
            "smallest_difference": self.smallest_difference,
            "delong": asdict(self.delong) if self.delong else None,
            "measured": [self.ours.to_json(), self.theirs.to_json()],
        }


def compare_releases(
    area: str, names: tuple[str, str], ours: Evaluation, theirs: Evaluation
) -> Comparison:
    """Compare two releases that were evaluated on the same split; where both name the area of a
    study, that too.

    Raises:
        InputError: they were not evaluated on the same studies.
    """
    _check_same_studies(names, ours.studies.names, theirs.studies.names)
    few = ours.studies.rarer_patients
    differences = compare_metrics(
        ours.studies, _weighted(ours), _weighted(theirs), lambda name: few
    )
    values = {
        name: (ours.by_study[name].value, theirs.by_study[name].value) for name in differences
    }
    labels = dict(METRIC_NAMES)
    if ours.recognition and theirs.recognition:
        area_labels, gaps, pairs = _compare_recognition(
            ours.studies, ours.recognition, theirs.recognition
        )
        labels |= {f"part {key}": f"body part: {name}" for key, name in area_labels.items()}
        differences |= {f"part {key}": gap for key, gap in gaps.items()}
        values |= {f"part {key}": pair for key, pair in pairs.items()}
    delong = compare_by_delong(ours.studies, theirs.studies) if few >= FEW else None
    return Comparison(area, names, ours, theirs, labels, differences, values, "auc", few, delong)


def compare_routers(
    area: str, names: tuple[str, str], ours: RouterEvaluation, theirs: RouterEvaluation
) -> Comparison:
    """Compare two routers that were evaluated on the same split.

    Raises:
        InputError: they were not evaluated on the same studies.
    """
    mine, other = ours.recognition.studies, theirs.recognition.studies
    _check_same_studies(names, mine.names, other.names)
    studies = StudyScores(mine.names, mine.patients, mine.areas, ours.confidence)
    compared = _compare_recognition(studies, ours.recognition, theirs.recognition)
    patients = studies.count_patients()
    return Comparison(area, names, ours, theirs, *compared, "accuracy", patients, None)


def _check_same_studies(names: tuple[str, str], ours: Names, theirs: Names) -> None:
    if list(ours) != list(theirs):
        raise InputError(
            f"{names[0]} and {names[1]}: measured on other studies, so there is nothing to "
            "pair; name two releases of one area and the data that both were made with"
        )


def _compare_recognition(
    studies: StudyScores, ours: AreaRecognition, theirs: AreaRecognition
) -> tuple[dict[str, str], dict[str, Estimate], dict[str, tuple[float, float]]]:
    """Labels, differences and values of how well two networks tell areas apart."""
    labels = dict(AREA_METRICS) | {
        f"recall {number}": f"{area} recognised"
        for number, area in enumerate(ours.areas)
        if area in ours.recall
    }
    sizes = _count_by_area(ours)
    gaps = compare_metrics(
        studies,
        ours.weighted,
        theirs.weighted,
        lambda name: sizes.get(name, min(size for size in sizes.values() if size)),
    )
    once = np.ones((1, len(studies.names)))
    pair = [recognition.weighted(once) for recognition in (ours, theirs)]
    values = {key: (float(pair[0][key][0]), float(pair[1][key][0])) for key in labels}
    return labels, {key: gaps[key] for key in labels}, values


def _count_by_area(recognition: AreaRecognition) -> dict[str, int]:
    """Patients that `accuracy` and `recall N` rest on, by the names of these metrics."""
    table = recognition.studies
    sizes = {
        f"recall {number}": len(np.unique(table.patients[table.areas == number]))
        for number in range(len(recognition.areas))
    }
    return sizes | {"accuracy": len(np.unique(table.patients))}


def _weighted(evaluation: Evaluation) -> WeightedMetrics:
    """All metrics, at the release's own operating point."""
    return lambda weights: weigh_metrics(evaluation.studies, evaluation.decision.threshold, weights)


def _describe_value(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"
