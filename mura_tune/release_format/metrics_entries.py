"""A release's scores on dev and test, as they stand under bundle.json's `metrics`; see `Entry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mura_tune.metrics.areas import AREA_METRICS
from mura_tune.metrics.calibration_error import CalibrationError
from mura_tune.metrics.estimates import Estimate
from mura_tune.metrics.operating_points import THRESHOLD_METRICS
from mura_tune.release_format.schema import (
    FLAT,
    MOST_AREAS,
    SHARE,
    Entry,
    Key,
    area_names,
    each,
    estimate,
    estimates,
    maybe,
    named,
    text,
    whole,
)
from mura_tune.release_format.supplement import SupplementEntry

# What test is: the dataset's own valid studies, or patients held out where it publishes none.
PUBLISHED_TEST, HELD_OUT_TEST = "test (published valid)", "test (held out, as none is published)"
ESTIMATES = ("auc", "average_precision", *THRESHOLD_METRICS)
_LATER_ESTIMATES = ("balanced_accuracy",)


class AbstentionEntry(Entry):
    """How many studies of a split a release abstains from.

    Attributes:
        error: of the answers that remain; None where no study is answered.
        error_without: of all answers.
    """

    studies: Annotated[int, whole()]
    error: Annotated[float | None, maybe(SHARE)]
    error_without: Annotated[float, SHARE]


class UnfamiliarEntry(Entry):
    """How many studies of a split are not like the radiographs that a release was trained on; from
    these it abstains.

    Attributes:
        share: of all studies, with its interval.
    """

    studies: Annotated[int, whole()]
    share: Annotated[Estimate, estimate]


class EvaluationEntry(Entry):
    """A release on one split: what every task stores.

    Attributes:
        split: what it is, in words.
        uses_before: how often the split was measured before, where that is known.
        unfamiliar: studies that are refused; older releases refuse none.
    """

    split: Annotated[str, text]
    studies: Annotated[int, whole(1)]
    patients: Annotated[int, whole(1)]
    images: Annotated[int, whole(1)]
    uses_before: Annotated[int | None, whole()] = None
    unfamiliar: Annotated[UnfamiliarEntry | None, UnfamiliarEntry.parse] = None

    @property
    def is_held_out(self) -> bool:
        """Whether it is a test split that the dataset does not publish."""
        return self.split == HELD_OUT_TEST


class ConfusionEntry(Entry):
    """Counts of studies at the recommended operating point."""

    tp: Annotated[int, whole()]
    fp: Annotated[int, whole()]
    fn: Annotated[int, whole()]
    tn: Annotated[int, whole()]


class PointEvaluationEntry(Entry):
    """An operating point's estimates, THRESHOLD_METRICS by name."""

    threshold: Annotated[float, SHARE]
    estimates: Annotated[
        Mapping[str, Estimate], FLAT, estimates(THRESHOLD_METRICS, later=_LATER_ESTIMATES)
    ]


class BinnedErrorEntry(Entry):
    """Expected calibration error; see CalibrationError.

    Attributes:
        low, high: ends of an interval that earlier versions wrote, and that is none.
    """

    value: Annotated[float, SHARE]
    low: Annotated[float | None, SHARE] = None
    high: Annotated[float | None, SHARE] = None
    studies: Annotated[int | None, whole()] = None
    patients: Annotated[int | None, whole()] = None
    expected: Annotated[float | None, SHARE] = None
    expected_high: Annotated[float | None, SHARE] = None

    @property
    def error(self) -> CalibrationError:
        """The error as pages show it."""
        counts = (self.studies or 0, self.patients or 0)
        return CalibrationError(self.value, *counts, self.expected, self.expected_high)


class CalibrationErrorEntry(Entry):
    """Expected calibration error and Brier score."""

    ece: BinnedErrorEntry
    brier: Annotated[Estimate, estimate]


class CalibrationErrorsEntry(Entry):
    """The same before calibration and after it."""

    before: CalibrationErrorEntry
    after: CalibrationErrorEntry


class AbnormalityEvaluationEntry(EvaluationEntry):
    """A release that answers normal or abnormal, on one split.

    Attributes:
        abnormal: studies that are labelled so.
        estimates: ESTIMATES by name, at study level, at the recommended operating point.
        by_image: the same where each image is judged by itself.
        operating_points: by name.
        reliability: bins of studies with neighbouring scores, as plain values.
        auc_by_area: of areas with both classes, where the release is for several areas.
        supplement: what a report shows beside the scores; older releases have none.
    """

    abnormal: Annotated[int, whole()]
    threshold: Annotated[float, SHARE]
    estimates: Annotated[Mapping[str, Estimate], FLAT, estimates(ESTIMATES, later=_LATER_ESTIMATES)]
    confusion: ConfusionEntry
    by_image: Annotated[Mapping[str, Estimate], estimates(ESTIMATES, later=_LATER_ESTIMATES)]
    operating_points: Annotated[
        Mapping[str, PointEvaluationEntry], named(PointEvaluationEntry.parse)
    ]
    calibration: CalibrationErrorsEntry
    reliability: Annotated[Any, lambda value, where: value] = None
    abstain: AbstentionEntry
    auc_by_area: Annotated[Mapping[str, Estimate] | None, named(estimate)] = None
    supplement: Annotated[SupplementEntry | None, SupplementEntry.parse] = None


class RecognitionEntry(Entry):
    """How surely the area of a study is recognised.

    Attributes:
        estimates: AREA_METRICS by name, at study level.
        recall: by area.
        by_image: the accuracy where each image is judged by itself.
        confusion: counts of studies, a row an area, a column the area that was called.
    """

    estimates: Annotated[Mapping[str, Estimate], FLAT, estimates(tuple(AREA_METRICS))]
    recall: Annotated[Mapping[str, Estimate], named(estimate)]
    by_image: Annotated[Mapping[str, Estimate], estimates(("accuracy",))]
    areas: Annotated[tuple[str, ...], area_names()]
    confusion: Annotated[tuple[tuple[int, ...], ...], each(each(whole()), least=1, most=MOST_AREAS)]


class MultitaskEvaluationEntry(AbnormalityEvaluationEntry):
    """The same of a release that tells the area, too."""

    recognition: Annotated[RecognitionEntry, RecognitionEntry.parse, Key("body_part")]


class RouterEvaluationEntry(EvaluationEntry):
    """A router on one split."""

    recognition: Annotated[RecognitionEntry, FLAT, RecognitionEntry.parse]
    abstain: AbstentionEntry


class MetricsEntry(Entry):
    """Evaluations on dev, where things were chosen, and on test, where nothing was."""

    dev: EvaluationEntry
    test: EvaluationEntry


class AbnormalityMetricsEntry(MetricsEntry):
    dev: AbnormalityEvaluationEntry
    test: AbnormalityEvaluationEntry


class MultitaskMetricsEntry(AbnormalityMetricsEntry):
    dev: MultitaskEvaluationEntry
    test: MultitaskEvaluationEntry


class RouterMetricsEntry(MetricsEntry):
    dev: RouterEvaluationEntry
    test: RouterEvaluationEntry
