"""The studies that judge a trial, without the scores that a trial gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.estimates import Names, StudyScores


@dataclass(frozen=True, eq=False)
class DevFold:
    """The studies that judge, of one fold or of the one dev split, a row each.

    Attributes:
        labels: (S,).
        patients: (S,), by number.
        studies: (S,), by number; None where no other split is looked at, and rows will do.
    """

    labels: NDArray[np.int64]
    patients: Names
    studies: Names | None = None

    def with_scores(self, scores: NDArray[np.float64]) -> StudyScores:
        """The table of these studies with one trial's scores (S,)."""
        numbers = np.arange(len(scores)) if self.studies is None else self.studies
        names = np.array([str(number) for number in numbers])
        return StudyScores(names, self.patients, self.labels, scores)

    def to_json(self) -> dict[str, Any]:
        """The fields as lists, without those that are None."""
        stored = {key: value for key, value in vars(self).items() if value is not None}
        return {key: value.tolist() for key, value in stored.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DevFold:
        """What `to_json` made."""
        studies = np.array(stored["studies"]) if "studies" in stored else None
        labels = np.array(stored["labels"], dtype=np.int64)
        return cls(labels, np.array(stored["patients"]), studies)


def number_through(folds: Sequence[DevFold]) -> list[DevFold]:
    """The same folds, which have no patient in common, with numbers that none shares with another.

    Patients and studies of each fold are numbered from 0.
    """
    numbered, patients, studies = [], 0, 0
    for fold in folds:
        rows = np.arange(studies, studies + len(fold.labels))
        numbered.append(DevFold(fold.labels, fold.patients + patients, rows.astype(object)))
        patients += int(fold.patients.max()) + 1
        studies += len(fold.labels)
    return numbered
