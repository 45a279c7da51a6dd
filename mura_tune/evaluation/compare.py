"""Two releases on the same test studies: what differs, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mura_tune.errors import InputError
from mura_tune.evaluation.evaluate import NAMES, SPLIT_NAMES, Measured
from mura_tune.evaluation.routing import Routed
from mura_tune.metrics.areas import AREA_METRICS, AreaRecognition
from mura_tune.metrics.comparison import DeLong, compare_aucs, compare_by_delong
from mura_tune.metrics.estimates import DRAWS, Estimate, Floats, StudyScores, resample_all
from mura_tune.metrics.operating_points import THRESHOLD_METRICS, threshold_metrics
from mura_tune.metrics.ranking import weighted_average_precision

Figures = Measured | Routed
Under = Callable[[Floats], Mapping[str, Floats]]  # figures by name, under rows of study weights


@dataclass(frozen=True, eq=False)
class Comparison:
    """The first release minus the second, figure by figure, each at its own operating point.

    Attributes:
        names: what the two are called by who compares them.
        labels: of the figures, for people.
        differences: by figure, with intervals from draws that take the same patients for both.
        values: the two of each figure.
        delong: of the AUC; it takes studies for independent, patients with several make it too
            sure. None between routers.
    """

    area: str
    names: tuple[str, str]
    ours: Figures
    theirs: Figures
    labels: Mapping[str, str]
    differences: Mapping[str, Estimate]
    values: Mapping[str, tuple[float, float]]
    delong: DeLong | None

    def describe(self) -> str:
        """The differences as lines for people."""
        first = next(iter(self.differences.values()))
        head = (
            f"{self.area}: {self.names[0]} minus {self.names[1]}, "
            f"{SPLIT_NAMES[self.ours.part]}, {first.studies} studies of "
            f"{first.patients} patients"
        )
        wide = max(18, *(len(name) for name in self.labels.values()))
        rows = (
            f"  {self.labels[key]:<{wide}} {difference.signed()}   "
            f"{self.values[key][0]:.3f} and {self.values[key][1]:.3f}"
            for key, difference in self.differences.items()
        )
        return "\n".join([head, *rows, *self._other()])

    def _other(self) -> Iterator[str]:
        if self.delong:
            yield (
                "  DeLong, as if every study were a patient's only one: "
                f"{self.delong.signed()}, p = {self.delong.p:.3g}"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "area": self.area,
            "releases": list(self.names),
            "split": SPLIT_NAMES[self.ours.part],
            "differences": {name: one.to_json() for name, one in self.differences.items()},
            "delong": asdict(self.delong) if self.delong else None,
            "measured": [self.ours.to_json(), self.theirs.to_json()],
        }


def compare(area: str, names: tuple[str, str], ours: Measured, theirs: Measured) -> Comparison:
    """Compare two releases that were measured on the same part; where both name the body part,
    that too.

    Raises:
        InputError: they were not measured on the same studies.
    """
    _same_studies(names, ours.studies.names, theirs.studies.names)
    differences = {"auc": compare_aucs([ours.studies], [theirs.studies])}
    differences |= _differences(ours.studies, _at_point(ours), _at_point(theirs))
    values = {name: (ours.figures[name].value, theirs.figures[name].value) for name in differences}
    labels = dict(NAMES)
    if ours.seen and theirs.seen:
        told, gaps, pairs = _recognition(ours.studies, ours.seen, theirs.seen)
        labels |= {f"part {key}": f"body part: {name}" for key, name in told.items()}
        differences |= {f"part {key}": gap for key, gap in gaps.items()}
        values |= {f"part {key}": pair for key, pair in pairs.items()}
    return Comparison(
        area,
        names,
        ours,
        theirs,
        labels,
        differences,
        values,
        compare_by_delong(ours.studies, theirs.studies),
    )


def compare_routers(area: str, names: tuple[str, str], ours: Routed, theirs: Routed) -> Comparison:
    """Compare two routers; raises InputError as `compare`."""
    mine, other = ours.seen.studies, theirs.seen.studies
    _same_studies(names, mine.names, other.names)
    studies = StudyScores(mine.names, mine.patients, mine.areas, ours.confidence)
    return Comparison(
        area, names, ours, theirs, *_recognition(studies, ours.seen, theirs.seen), None
    )


def _same_studies(names: tuple[str, str], ours: Any, theirs: Any) -> None:
    if list(ours) != list(theirs):
        raise InputError(
            f"{names[0]} and {names[1]}: measured on other studies, so there is nothing to "
            "pair; name two releases of one area and the data that both were made with"
        )


def _recognition(
    studies: StudyScores, ours: AreaRecognition, theirs: AreaRecognition
) -> tuple[dict[str, str], dict[str, Estimate], dict[str, tuple[float, float]]]:
    """Labels, differences and values of what two networks recognise."""
    labels = dict(AREA_METRICS) | {
        f"recall {number}": f"{area} recognised"
        for number, area in enumerate(ours.areas)
        if area in ours.recall
    }
    gaps = _differences(studies, ours.weighted, theirs.weighted)
    once = np.ones((1, len(studies.names)))
    pair = [one.weighted(once) for one in (ours, theirs)]
    values = {key: (float(pair[0][key][0]), float(pair[1][key][0])) for key in labels}
    return labels, {key: gaps[key] for key in labels}, values


def _differences(studies: StudyScores, ours: Under, theirs: Under) -> dict[str, Estimate]:
    """Percentiles of draws that take the same patients for both."""

    def gaps(weights: Floats) -> dict[str, Floats]:
        first, second = ours(weights), theirs(weights)
        return {name: values - second[name] for name, values in first.items()}

    once = gaps(np.ones((1, len(studies.labels))))
    found = {}
    for name, values in resample_all(gaps, studies.patients, DRAWS, 0).items():
        drawn = values[np.isfinite(values)]
        ends = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
        found[name] = studies.estimate(float(once[name][0]), (float(ends[0]), float(ends[1])))
    return found


def _at_point(one: Measured) -> Under:
    """All figures but the AUC, at the release's own operating point."""
    called = one.studies.scores >= one.chosen.threshold

    def under(weights: Floats) -> Mapping[str, Floats]:
        at_point = threshold_metrics(called, one.studies.labels, weights)
        ranked = {"average_precision": weighted_average_precision(one.studies, weights)}
        return ranked | {name: at_point[name] for name in THRESHOLD_METRICS}

    return under
