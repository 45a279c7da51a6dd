"""What a recalibrated release says of its parent and its local studies; see `Entry`."""

from __future__ import annotations

import re
from typing import Annotated

from mura_tune.metrics.estimates import Estimate
from mura_tune.release_format.entries import CalibrationEntry
from mura_tune.release_format.metrics_entries import UnfamiliarEntry
from mura_tune.release_format.schema import (
    SHARE,
    Entry,
    estimate,
    flag,
    real_estimate,
    text,
    whole,
)
from mura_tune.strict import check_value, join_path


class LocalFiguresEntry(Entry):
    """What a release is worth on local studies, at its recommended operating point.

    Attributes:
        threshold: of that point.
        slope, intercept: of calibration; perfect are 1 and 0.
    """

    threshold: Annotated[float, SHARE]
    slope: Annotated[Estimate, real_estimate]
    intercept: Annotated[Estimate, real_estimate]
    brier: Annotated[Estimate, estimate]
    log_loss: Annotated[Estimate, real_estimate]
    sensitivity: Annotated[Estimate, estimate]
    specificity: Annotated[Estimate, estimate]


class RecalibrationOriginEntry(Entry):
    """Where the decision of a recalibrated release comes from.

    Attributes:
        parent: sha256 of the SHA256SUMS of the release that it was made from, which has the same
            weights.
        parent_calibration: the calibration of that release.
        dataset: what the local set is called; `fingerprint` changes with its images and labels.
        images, studies, patients: of the local set; `abnormal` counts studies.
        overlap_checked: whether the pictures were held against those that the network was trained
            on; a release of an older version does not know these.
        folds: of patients, for the figures `after`.
        auc: of the local studies, which recalibration does not change.
        before: the parent on the local studies.
        after: each study by a decision that was chosen without its patient's fold.
        brier_change, log_loss_change: by how much these differ, after less before.
        unfamiliar: local studies that the release refuses, since they are not like the radiographs
            that it was trained on; a release of an older version does not tell.
    """

    parent: Annotated[str, text]
    parent_calibration: CalibrationEntry
    dataset: Annotated[str, text]
    fingerprint: Annotated[str, text]
    images: Annotated[int, whole(1)]
    studies: Annotated[int, whole(1)]
    patients: Annotated[int, whole(1)]
    abnormal: Annotated[int, whole(1)]
    overlap_checked: Annotated[bool, flag]
    folds: Annotated[int, whole(2)]
    auc: Annotated[Estimate, estimate]
    before: LocalFiguresEntry
    after: LocalFiguresEntry
    brier_change: Annotated[Estimate, real_estimate]
    log_loss_change: Annotated[Estimate, real_estimate]
    unfamiliar: Annotated[UnfamiliarEntry | None, UnfamiliarEntry.parse] = None

    def check_agreement(self, where: str) -> None:
        digest = re.fullmatch("[0-9a-f]{64}", self.parent) is not None
        check_value(digest, join_path(where, "parent"), self.parent, "a sha256")
        some = self.abnormal < self.studies <= self.images
        rule = "fewer than the studies, of which there are at most as many as images"
        check_value(some, join_path(where, "abnormal"), self.abnormal, rule)
