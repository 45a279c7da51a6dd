"""Two releases on the same test studies: what differs, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mura_tune.errors import InputError
from mura_tune.learning.confusion import FIGURES, confusion
from mura_tune.learning.curves import weighted_average_precision
from mura_tune.learning.delong import DeLong, delong
from mura_tune.learning.metrics import DRAWS, Estimate, Floats, cluster_weights
from mura_tune.learning.paired import auc_difference
from mura_tune.release.evaluate import NAMES, SPLIT_NAMES, Measured


@dataclass(frozen=True, eq=False)
class Comparison:
    """The first release minus the second, figure by figure, each at its own operating point.

    Attributes:
        names: what the two are called by who compares them.
        differences: NAMES, with intervals from draws that take the same patients for both.
        delong: of the AUC; it takes studies for independent, patients with several make it too
            sure.
    """

    area: str
    names: tuple[str, str]
    ours: Measured
    theirs: Measured
    differences: Mapping[str, Estimate]
    delong: DeLong

    def describe(self) -> str:
        """The differences as lines for people."""
        studies = self.ours.studies
        head = (f"{self.area}: {self.names[0]} minus {self.names[1]}, "
                f"{SPLIT_NAMES[self.ours.part]}, {len(studies.labels)} studies of "
                f"{studies.patients_with()} patients")  # fmt: skip
        rows = (
            f"  {NAMES[name]:<18} {difference.value:+.3f} "
            f"[{difference.low:+.3f}, {difference.high:+.3f}]   "
            f"{self.ours.figures[name].value:.3f} and {self.theirs.figures[name].value:.3f}"
            for name, difference in self.differences.items()
        )
        told = self.delong
        other = (f"  DeLong, as if every study were a patient's only one: {told.value:+.3f} "
                 f"[{told.low:+.3f}, {told.high:+.3f}], p = {told.p:.3g}")  # fmt: skip
        return "\n".join([head, *rows, other])

    def to_json(self) -> dict[str, Any]:
        return {
            "area": self.area,
            "releases": list(self.names),
            "split": SPLIT_NAMES[self.ours.part],
            "differences": {name: one.to_json() for name, one in self.differences.items()},
            "delong": asdict(self.delong),
            "measured": [self.ours.to_json(), self.theirs.to_json()],
        }


def compare(area: str, names: tuple[str, str], ours: Measured, theirs: Measured) -> Comparison:
    """Compare two releases that were measured on the same part.

    Raises:
        InputError: they were not measured on the same studies.
    """
    if list(ours.studies.names) != list(theirs.studies.names):
        raise InputError(
            f"{names[0]} and {names[1]}: measured on other studies, so there is nothing to "
            "pair; name two releases of one area and the data that both were made with"
        )
    return Comparison(
        area=area,
        names=names,
        ours=ours,
        theirs=theirs,
        differences={"auc": auc_difference([ours.studies], [theirs.studies])}
        | _differences(ours, theirs),
        delong=delong(ours.studies, theirs.studies),
    )


def _differences(ours: Measured, theirs: Measured) -> dict[str, Estimate]:
    """All but the AUC's; percentiles of draws that take the same patients for both."""
    studies = ours.studies
    once = np.ones((1, len(studies.labels)))
    weights = np.concatenate([once, cluster_weights(studies.patients, DRAWS, 0)])
    first, second = (_values(one, weights) for one in (ours, theirs))
    found = {}
    for name, values in first.items():
        gap = values - second[name]
        drawn = gap[1:][np.isfinite(gap[1:])]
        ends = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
        found[name] = studies.estimate(float(gap[0]), (float(ends[0]), float(ends[1])))
    return found


def _values(one: Measured, weights: Floats) -> dict[str, Floats]:
    called = one.studies.scores >= one.chosen.threshold
    at_point = confusion(called, one.studies.labels, weights)
    ranked = {"average_precision": weighted_average_precision(one.studies, weights)}
    return ranked | {name: at_point[name] for name in FIGURES}
