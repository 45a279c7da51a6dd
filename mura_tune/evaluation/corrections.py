"""Corrected labels: the same answers against the labels of the dataset, and against other ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mura_tune.data.index import parse_label
from mura_tune.data.listing import StudyNames, read_rows
from mura_tune.errors import InputError
from mura_tune.metrics.comparison import FEW, compare_metrics
from mura_tune.metrics.estimates import DRAWS, Estimate, StudyScores
from mura_tune.metrics.operating_points import (
    METRIC_NAMES,
    estimate_at_threshold,
    estimate_metrics,
    weigh_metrics,
)


@dataclass(frozen=True, eq=False)
class CorrectedScores:
    """What the answers of a release are worth by corrected labels.

    Attributes:
        to_abnormal, to_normal: studies whose label changes.
        patients: with such a study.
        estimates: METRIC_NAMES by the corrected labels.
        differences: by metric, corrected minus published, with intervals from draws that take the
            same patients for both; None as `compare_labels` says.
    """

    to_abnormal: int
    to_normal: int
    patients: int
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Estimate | None]

    def lines(self, published: Mapping[str, Estimate]) -> Iterator[str]:
        """The estimates as lines for people, beside those by the `published` labels."""
        yield (
            f"  corrected labels: {self.to_abnormal} studies become abnormal, {self.to_normal} "
            f"normal, of {self.patients} patients"
        )
        yield f"  {'':<18} {'published':<22} {'corrected':<22} difference"
        for name, estimate in self.estimates.items():
            gap = self.differences[name]
            yield (
                f"  {METRIC_NAMES[name]:<18} {published[name].brief():<22} "
                f"{estimate.brief():<22} {gap.signed() if gap else ''}"
            ).rstrip()
        if self.patients < FEW:
            yield (
                f"  no interval of a difference: it takes {FEW} patients whose labels change, and "
                f"{self.patients} have one"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "to_abnormal": self.to_abnormal,
            "to_normal": self.to_normal,
            "patients": self.patients,
            "estimates": {name: each.to_json() for name, each in self.estimates.items()},
            "differences": {
                name: each.to_json() if each else None for name, each in self.differences.items()
            },
        }


def read_corrections(table: Path, studies: Collection[str], area: str) -> dict[str, int]:
    """The labels of a table with the columns study and label, by the names of the studies.

    Args:
        studies: the full names of test's studies. A cell may leave out what a name begins with, as
            long as one study alone ends so, or have more in front, as the paths of MURA's CSVs do.
        area: of the release, for messages.

    Raises:
        InputError: with its line, another label than 0 or 1, a study that is not in test or has a
            row above; a table without the columns, or without a row.
    """
    names = StudyNames(studies)
    labels: dict[str, int] = {}
    for where, row in read_rows(table, ("study", "label")):
        study = names.find(row["study"])
        if study is None:
            raise InputError(
                f"{where}: study {row['study']!r} is not in test of {area}, or several end so; "
                "name studies as answers.csv does, and leave out those of other splits"
            )
        if study in labels:
            raise InputError(f"{where}: study {study} has a row above; keep one row")
        labels[study] = parse_label(row["label"], where)
    if not labels:
        raise InputError(f"{table}: corrects no label; add a row (study,label) under its header")
    return labels


def correct_scores(
    studies: StudyScores, corrections: Mapping[str, int], threshold: float, source: Path
) -> CorrectedScores:
    """Measure the same scores by the labels of `corrections`, where it has one for a study.

    Args:
        source: the table, for messages.

    Raises:
        InputError: one class is left.
    """
    pairs = zip(studies.names, studies.labels, strict=True)
    labels = np.array([corrections.get(name, label) for name, label in pairs], dtype=np.int64)
    if len(np.unique(labels)) < 2:
        raise InputError(f"{source}: with these labels test has one class; both are needed")
    changed = labels != studies.labels
    corrected = replace(studies, labels=labels)
    return CorrectedScores(
        to_abnormal=int((labels[changed] == 1).sum()),
        to_normal=int((labels[changed] == 0).sum()),
        patients=len(np.unique(studies.patients[changed])),
        estimates=estimate_metrics(corrected, estimate_at_threshold(corrected, threshold)),
        differences=compare_labels(studies, corrected, threshold),
    )


def compare_labels(
    published: StudyScores,
    corrected: StudyScores,
    threshold: float,
    *,
    least: int = FEW,
    draws: int = DRAWS,
) -> dict[str, Estimate | None]:
    """METRIC_NAMES by `corrected` labels minus those by `published` ones, of the same scores.

    A difference rests on the patients whose labels change: t has their number, less one, as its
    degrees of freedom. It is None with fewer than `least` of them (2 or more), where it is not
    defined, and where no draw differs: that would be certainty.
    """
    patients = len(np.unique(published.patients[corrected.labels != published.labels]))
    gaps = compare_metrics(
        published,
        lambda weights: weigh_metrics(corrected, threshold, weights),
        lambda weights: weigh_metrics(published, threshold, weights),
        lambda name: patients,
        least=least,
        draws=draws,
    )
    return {
        name: gap if patients >= least and gap.low < gap.high else None
        for name, gap in gaps.items()
    }
