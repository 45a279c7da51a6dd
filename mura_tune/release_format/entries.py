"""The parts of bundle.json: each is what stands under one of its keys; see `Entry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.metrics.estimates import Estimate
from mura_tune.recipe import SIZES
from mura_tune.release_format.schema import (
    FLAT,
    LATER,
    SHARE,
    Entry,
    Key,
    each,
    estimate,
    flag,
    maybe,
    named,
    number,
    one_of,
    text,
    tree,
    weights_file,
    whole,
)
from mura_tune.strict import check_value, join_path

MEAN_OF_SIGMOIDS = "mean of sigmoids"  # of the calibrated logits of a study's views
SIGMOID_OF_MEAN = "sigmoid of the mean logit"  # calibrated, too
AGGREGATIONS = (MEAN_OF_SIGMOIDS, SIGMOID_OF_MEAN)

_SCORE = number(-1, 1)


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

    threshold: Annotated[float, SHARE]
    rule: Annotated[str, text, Key("chosen")]


class ThresholdEntry(Entry):
    """The recommended operating point again, as schema 1 stored its only one."""

    value: Annotated[float, SHARE]
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

    low: Annotated[float, SHARE]
    high: Annotated[float, SHARE]
    share: Annotated[float, SHARE]
    error: Annotated[float, SHARE]
    error_without: Annotated[float, SHARE]
    bound: Annotated[float | None, SHARE] = None
    rule: Annotated[str | None, text, Key("chosen")] = None

    def check_agreement(self, where: str) -> None:
        check_value(self.low <= self.high, f"{where}.low", self.low, "at most abstain.high")


class ConfidenceEntry(Entry):
    """The probability of the area that a router calls, below which it abstains; see BandEntry."""

    confidence: Annotated[float, SHARE]
    share: Annotated[float, SHARE]
    error: Annotated[float, SHARE]
    error_without: Annotated[float, SHARE]
    rule: Annotated[str | None, text, Key("chosen")] = None


class FamiliarityEntry(Entry):
    """How a release tells that a study is not like the radiographs it was trained on.

    Attributes:
        file: the name of the file that holds what these look like to its network.
        threshold: a study whose distance is larger is refused.
        share: the probability that a new study like dev's is refused, at most.
        studies: of dev, that chose the threshold; `views` of train, that the file rests on.
        rule: how the threshold was chosen, in words.
    """

    file: Annotated[str, weights_file]
    threshold: Annotated[float, number(0)]
    share: Annotated[float, SHARE]
    studies: Annotated[int, whole(1)]
    views: Annotated[int, whole(1)]
    rule: Annotated[str, text, Key("chosen")]


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
