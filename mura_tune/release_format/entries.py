"""The parts of bundle.json: each is what stands under one of its keys; see `Entry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.metrics.areas import AREA_METRICS
from mura_tune.metrics.calibration_error import CalibrationError
from mura_tune.metrics.estimates import Estimate
from mura_tune.metrics.operating_points import THRESHOLD_METRICS
from mura_tune.recipe import SIZES
from mura_tune.release_format.schema import (
    FLAT,
    LATER,
    Entry,
    Key,
    area_name,
    each,
    estimate,
    estimates,
    flag,
    maybe,
    named,
    number,
    one_of,
    text,
    tree,
    whole,
)
from mura_tune.release_format.supplement import SupplementEntry
from mura_tune.strict import check_value, join_path

MOST_AREAS = 999  # more than any dataset has
MEAN_OF_SIGMOIDS = "mean of sigmoids"  # of the calibrated logits of a study's views
SIGMOID_OF_MEAN = "sigmoid of the mean logit"  # calibrated, too
AGGREGATIONS = (MEAN_OF_SIGMOIDS, SIGMOID_OF_MEAN)
ESTIMATES = ("auc", "average_precision", *THRESHOLD_METRICS)
_LATER_ESTIMATES = ("balanced_accuracy",)

_SHARE = number(0, 1)
_SCORE = number(-1, 1)
_AREA_NAMES = each(area_name, least=1, most=MOST_AREAS)


class PreprocessingEntry(Entry):
    """What happens to an image before a network sees it.

    Attributes:
        steps: the whole mapping as it is stored; `size` is the side of the square in pixels.
        decoding: the version of the decoder; releases without one were made by version 1.
    """

    size: Annotated[int, whole(SIZES[0], SIZES[-1])]
    decoding: Annotated[int, whole(1)] = 1
    steps: Annotated[Mapping[str, Any], FLAT, lambda value, where: dict(value)]

    def to_json(self) -> dict[str, Any]:
        return dict(self.steps)

    @classmethod
    def of(cls, steps: Mapping[str, Any]) -> PreprocessingEntry:
        """The entry of a mapping that this version writes."""
        return cls(size=steps["size"], decoding=steps.get("decoding", 1), steps=steps)


class CalibrationEntry(Entry):
    """From the logits of a study's views to a probability of each view and of the study.

    A view's calibrated logit is (logit + offset) / temperature, its probability the sigmoid of it.

    Attributes:
        aggregation: one of AGGREGATIONS: what the study's probability is made of. Releases of
            schemas 1 and 2 store none, and take the mean of the views' probabilities.
        order: the steps in words, for people.
    """

    temperature: Annotated[float, number(1e-6, 1e6)]
    offset: Annotated[float, number()]
    aggregation: Annotated[str, one_of(*AGGREGATIONS)] = MEAN_OF_SIGMOIDS
    order: Annotated[str | None, text] = None
    fitted_on: Annotated[str | None, text] = None


class RouterCalibrationEntry(Entry):
    """The temperature of the softmax over a study's mean logits."""

    temperature: Annotated[float, number(1e-6, 1e6)]
    order: Annotated[str | None, text] = None
    fitted_on: Annotated[str | None, text] = None


class OperatingPointEntry(Entry):
    """A threshold and its rule in words."""

    threshold: Annotated[float, _SHARE]
    rule: Annotated[str, text, Key("chosen")]


class ThresholdEntry(Entry):
    """The recommended operating point again, as schema 1 stored its only one."""

    value: Annotated[float, _SHARE]
    rule: Annotated[str, text, Key("chosen")]


class BandEntry(Entry):
    """Probabilities from `low` up to `high` in which a release abstains.

    Attributes:
        share: of dev's studies that fall inside.
        error: of the answers that remain on dev; `error_without` of all answers on dev.
        bound: the one-sided 90 % upper bound of `error` (Clopper and Pearson 1934); None in
            releases of schemas 1 and 2, whose bands were chosen by `error` alone.
        rule: how the band was chosen, in words.
    """

    low: Annotated[float, _SHARE]
    high: Annotated[float, _SHARE]
    share: Annotated[float, _SHARE]
    error: Annotated[float, _SHARE]
    error_without: Annotated[float, _SHARE]
    bound: Annotated[float | None, _SHARE] = None
    rule: Annotated[str | None, text, Key("chosen")] = None

    def check_agreement(self, where: str) -> None:
        check_value(self.low <= self.high, f"{where}.low", self.low, "at most abstain.high")


class ConfidenceEntry(Entry):
    """The probability of the area that a router calls, below which it abstains; see BandEntry."""

    confidence: Annotated[float, _SHARE]
    share: Annotated[float, _SHARE]
    error: Annotated[float, _SHARE]
    error_without: Annotated[float, _SHARE]
    rule: Annotated[str | None, text, Key("chosen")] = None


class AbstentionEntry(Entry):
    """How many studies of a split a release abstains from.

    Attributes:
        error: of the answers that remain; None where no study is answered.
        error_without: of all answers.
    """

    studies: Annotated[int, whole()]
    error: Annotated[float | None, maybe(_SHARE)]
    error_without: Annotated[float, _SHARE]


class EvaluationEntry(Entry):
    """A release on one split: what every task stores.

    Attributes:
        uses_before: how often the split was measured before, where that is known.
    """

    split: Annotated[str, text]
    studies: Annotated[int, whole(1)]
    patients: Annotated[int, whole(1)]
    images: Annotated[int, whole(1)]
    uses_before: Annotated[int | None, whole()] = None


class ConfusionEntry(Entry):
    """Counts of studies at the recommended operating point."""

    tp: Annotated[int, whole()]
    fp: Annotated[int, whole()]
    fn: Annotated[int, whole()]
    tn: Annotated[int, whole()]


class PointEvaluationEntry(Entry):
    """An operating point's estimates, THRESHOLD_METRICS by name."""

    threshold: Annotated[float, _SHARE]
    estimates: Annotated[
        Mapping[str, Estimate], FLAT, estimates(THRESHOLD_METRICS, later=_LATER_ESTIMATES)
    ]


class BinnedErrorEntry(Entry):
    """Expected calibration error; see CalibrationError.

    Attributes:
        low, high: ends of an interval that earlier versions wrote, and that is none.
    """

    value: Annotated[float, _SHARE]
    low: Annotated[float | None, _SHARE] = None
    high: Annotated[float | None, _SHARE] = None
    studies: Annotated[int | None, whole()] = None
    patients: Annotated[int | None, whole()] = None
    expected: Annotated[float | None, _SHARE] = None
    expected_high: Annotated[float | None, _SHARE] = None

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
    threshold: Annotated[float, _SHARE]
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
    areas: Annotated[tuple[str, ...], _AREA_NAMES]
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


class ConfirmationEntry(Entry):
    """A candidate's scores with new seeds, and their mean."""

    trial: Annotated[int, whole()]
    scores: Annotated[tuple[float, ...], each(maybe(number()))]
    mean: Annotated[float, maybe(number())]


class TrialEntry(Entry):
    """A trial in the history of a search; `state` is Optuna's word."""

    number: Annotated[int, whole()]
    state: Annotated[str, text]
    score: Annotated[float | None, maybe(number())]


class SearchEntry(Entry):
    """The search that a release comes from.

    Attributes:
        monitor: what a score is, such as study AUC.
        trial: the winner's number; `params` are the values that it drew.
        dev_score: the winner's in the search; `dev_interval` are the ends of its 95 % interval.
        dev_studies: that the score was measured on.
        new_seeds: the winner's mean score over new seeds; absent where nothing was confirmed, and
            in schemas 1 and 2.
        baseline_new_seeds: the baseline's.
        trial_counts: by state.
        config: the search's settings as plain values; see `read_config`.
    """

    name: Annotated[str, text, LATER]
    monitor: Annotated[str, text, LATER]
    trial: Annotated[int, whole(), LATER]
    params: Annotated[Mapping[str, Any], tree, LATER]
    dev_score: Annotated[float, _SCORE, LATER]
    dev_interval: Annotated[tuple[float, float], each(_SCORE, least=2, most=2), LATER]
    dev_studies: Annotated[int | None, whole(1)] = None
    baseline_dev_score: Annotated[float | None, maybe(_SCORE), LATER]
    confirmed: Annotated[tuple[ConfirmationEntry, ...] | None, each(ConfirmationEntry.parse)] = None
    new_seeds: Annotated[Estimate | None, estimate] = None
    baseline_new_seeds: Annotated[Estimate | None, estimate] = None
    verdict: Annotated[str | None, text] = None
    history: Annotated[tuple[TrialEntry, ...], each(TrialEntry.parse), LATER]
    trial_counts: Annotated[Mapping[str, int], named(whole()), Key("trials"), LATER]
    config: Annotated[Mapping[str, Any], tree]

    @property
    def dev_estimate(self) -> Estimate:
        """The dev score with its interval; counts that the file does not hold are 0."""
        low, high = self.dev_interval
        return Estimate(self.dev_score, low, high, studies=self.dev_studies or 0, patients=0)

    def read_config(self, source: object) -> SearchConfig:
        """The search's settings; InputError, opened by `source`, where this version reads none."""
        return config.config_from_dict(self.config, str(source))


class EpochEntry(Entry):
    """An epoch of the final training."""

    number: Annotated[int, whole(1)]
    phase: Annotated[int, whole()]
    depth: Annotated[int, whole()]
    loss: Annotated[float, number(-1e30, 1e30)]
    score: Annotated[float, _SCORE]
    seconds: Annotated[float, number(0)]


class TrainingEntry(Entry):
    """The final training's epochs; `best_epoch` is the number of the one that is released.

    Attributes:
        folds: patient folds whose networks gave the number of epochs, their scores and all that
            is said of dev, while the release was trained on train and dev; absent where it was
            trained on train alone.
    """

    best_epoch: Annotated[int, whole(1)]
    epochs: Annotated[tuple[EpochEntry, ...], each(EpochEntry.parse, least=1, most=100_000)]
    folds: Annotated[int | None, whole(2)] = None

    def check_agreement(self, where: str) -> None:
        numbers = [epoch.number for epoch in self.epochs]
        place = join_path(where, "best_epoch")
        check_value(
            self.best_epoch in numbers, place, self.best_epoch, "the number of one of the epochs"
        )


class FindingEntry(Entry):
    """An image that was left out, and why."""

    kind: Annotated[str, text]
    path: Annotated[str, text]
    detail: Annotated[str, text]


class DataEntry(Entry):
    """The dataset and its split.

    Attributes:
        counts: by split, then by what is counted, such as "studies".
        name: what the dataset is called, for people.
        found: images, studies and patients before any was left out.
    """

    fingerprint: Annotated[str, text]
    split_hash: Annotated[str, text]
    counts: Annotated[Mapping[str, Mapping[str, int]], named(named(whole(), least=1)), LATER]
    left_out: Annotated[tuple[FindingEntry, ...], each(FindingEntry.parse), LATER]
    name: Annotated[str | None, text] = None
    found: Annotated[Mapping[str, int] | None, named(whole())] = None

    def check_agreement(self, where: str) -> None:
        if not self.has("counts") or not self.counts:
            return
        place, train = join_path(where, "counts"), self.counts.get("train")
        check_value(train is not None, place, [*self.counts], "counts of train and others")
        names = list(train or ())
        for split, own in self.counts.items():
            same = set(own) == set(names)
            check_value(same, f"{place}.{split}", [*own], f"counts of {', '.join(names)}")


class RunEntry(Entry):
    """One of several final runs that differ in their seed."""

    seed: Annotated[int, whole(0, 2**32)]
    best_epoch: Annotated[int, whole(1)]
    released: Annotated[bool, flag]
    dev_score: Annotated[Estimate, estimate]
    test_score: Annotated[Estimate, estimate]


class SpreadEntry(Entry):
    """Mean, standard deviation and ends of the runs' scores on one split."""

    mean: Annotated[float, _SCORE]
    sd: Annotated[float, number(0)]
    low: Annotated[float, _SCORE]
    high: Annotated[float, _SCORE]


class RunsEntry(Entry):
    """Several final runs; `rule` says which of them are released, `measure` what a score is."""

    rule: Annotated[str, text]
    measure: Annotated[str, text]
    runs: Annotated[tuple[RunEntry, ...], each(RunEntry.parse, least=1)]
    dev_score: SpreadEntry
    test_score: SpreadEntry

    def check_agreement(self, where: str) -> None:
        released = [run for run in self.runs if run.released]
        check_value(
            bool(released), join_path(where, "runs"), len(self.runs), "one released or more"
        )
