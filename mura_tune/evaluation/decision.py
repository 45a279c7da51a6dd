"""What an abnormality release decides with, chosen on dev alone: calibration, thresholds, doubt.

A view's calibrated logit is (logit + offset) / temperature. A study's probability is the sigmoid
of the mean of these over its views; releases of schemas 1 and 2 take the mean of the views'
probabilities instead (`Calibration.aggregation`). The decision is abnormal at or above the
recommended threshold, except for studies in the band of doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.metrics.estimates import (
    Floats,
    StudyLogits,
    StudyScores,
    ViewScores,
    average_views,
    describe_error,
    logit,
    score_studies,
    sigmoid,
    upper_bound,
)
from mura_tune.metrics.operating_points import (
    conformal_threshold,
    f1_threshold,
    mean_youden_threshold,
    prevalence_threshold,
    promise_surest,
)
from mura_tune.release_format.entries import (
    AGGREGATIONS,
    MEAN_OF_SIGMOIDS,
    SIGMOID_OF_MEAN,
    BandEntry,
    CalibrationEntry,
    OperatingPointEntry,
    ThresholdEntry,
)
from mura_tune.release_format.manifest import AbnormalityManifest
from mura_tune.release_format.metrics_entries import AbstentionEntry
from mura_tune.training.batches import Split

SENSITIVITY = 0.90  # what `sensitivity_90` promises of a new abnormal study
COLDEST, HOTTEST = 0.05, 1e3  # a smaller temperature would make answers out of rounding
RIDGE, RIDGE_PATIENTS = 2.0, 50  # what holds the slope near 1, and from where on nothing does
DOUBT_ERROR = 0.10  # the error that remains where the band abstains
DOUBT_TAIL = 0.10  # the probability that its upper bound is too low
DOUBT_MOST = 0.5  # the band never takes more of the dev studies than this
RULES = {
    "prevalence": "share of abnormal studies on {split}, (n + 1) / (M + 2) of n among M",
    "max_youden": "mean over 200 resamplings of {split}'s patients of the threshold with the "
    "largest sensitivity + specificity - 1",
    "max_f1": "largest F1 on {split}",
    "sensitivity_90": "a new abnormal study scores at or above it with a probability of 0.90 or "
    "more, over draws of {split} (split conformal); the sensitivity of one release may be lower",
}
RECOMMENDED = "prevalence"
_ORDERS = {
    MEAN_OF_SIGMOIDS: "(view logit + offset) / temperature, sigmoid, mean over the views",
    SIGMOID_OF_MEAN: "(view logit + offset) / temperature, mean over the views, sigmoid",
}


@dataclass(frozen=True)
class Calibration:
    """From the logits of a study's views to a probability of each view and of the study.

    Attributes:
        temperature, offset: a view's calibrated logit is (logit + offset) / temperature.
        aggregation: one of AGGREGATIONS: what the study's probability is made of.
    """

    temperature: float = 1.0
    offset: float = 0.0
    aggregation: str = SIGMOID_OF_MEAN

    def __post_init__(self) -> None:
        if not (np.isfinite(self.offset) and 0 < self.temperature < np.inf):
            raise ValueError(f"temperature is {self.temperature}, offset {self.offset}")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation is {self.aggregation!r}")

    def logits(self, logits_n: NDArray[Any]) -> Floats:
        """Calibrated logits of views, (N,). Raises InputError for one that is not finite."""
        check_logits(logits_n)
        return (np.asarray(logits_n, dtype=np.float64) + self.offset) / self.temperature

    def probability(self, logits_v: NDArray[Any]) -> float:
        """The probability of *abnormal* of one study, from the logits (V,) of its views."""
        calibrated = self.logits(logits_v)
        if self.aggregation == MEAN_OF_SIGMOIDS:
            return float(sigmoid(calibrated).mean())
        return float(sigmoid(calibrated.mean()))

    def studies(self, logits_nk: Tensor, split: Split) -> StudyScores:
        """A calibrated probability of *abnormal* for each study."""
        logits_n = self.logits(_abnormality_logits(logits_nk))
        columns = split.labels.cpu().numpy(), split.studies, split.patients
        if self.aggregation == MEAN_OF_SIGMOIDS:
            return score_studies(logits_n, *columns)
        return average_views(logits_n, *columns).scores()

    def views(self, logits_nk: Tensor, split: Split) -> ViewScores:
        """A calibrated probability of *abnormal* for each image."""
        scores = sigmoid(self.logits(_abnormality_logits(logits_nk)))
        return ViewScores(split.studies, split.patients, split.labels.cpu().numpy(), scores)

    def undone(self) -> Calibration:
        """The same aggregation of logits that are not calibrated."""
        return replace(self, temperature=1.0, offset=0.0)


@dataclass(frozen=True)
class DoubtBand:
    """Probabilities from `low` up to `high` in which the release abstains.

    Attributes:
        share: of the dev studies that fall inside.
        error: of the answers that remain on dev.
        error_without: of all answers on dev, without a band.
        bound: the one-sided 90 % upper bound of `error`; None from releases of schemas 1 and 2.
        rule: how the band was chosen, in words.
    """

    low: float
    high: float
    share: float
    error: float
    error_without: float
    bound: float | None = None
    rule: str | None = None

    def holds(self, score: float) -> bool:
        """Whether the release abstains at this probability."""
        return self.low <= score < self.high


@dataclass(frozen=True)
class Decision:
    """Everything that was chosen on dev. `points` are thresholds by rule, see RULES.

    Attributes:
        split: what it was chosen on: dev, or the local studies of a recalibrated release.
    """

    calibration: Calibration
    points: Mapping[str, float]
    recommended: str
    band: DoubtBand
    split: str = "dev"

    @property
    def threshold(self) -> float:
        """The recommended operating point: a study is called abnormal at or above it."""
        return self.points[self.recommended]

    def entries(self) -> dict[str, Any]:
        """The fields of a manifest that store it; `threshold` repeats the recommended point."""
        rules = {name: RULES[name].format(split=self.split) for name in self.points}
        return {
            "calibration": CalibrationEntry(
                **asdict(self.calibration),
                order=_ORDERS[self.calibration.aggregation],
                fitted_on=self.split,
            ),
            "operating_points": {
                name: OperatingPointEntry(threshold=threshold, rule=rules[name])
                for name, threshold in self.points.items()
            },
            "recommended": self.recommended,
            "threshold": ThresholdEntry(value=self.threshold, rule=rules[self.recommended]),
            "abstain": BandEntry(**asdict(self.band)),
        }

    @staticmethod
    def from_manifest(manifest: AbnormalityManifest) -> Decision:
        """The decision that a manifest stores."""
        calibration, band = manifest.calibration, manifest.abstain
        return Decision(
            calibration=Calibration(
                calibration.temperature, calibration.offset, calibration.aggregation
            ),
            points={name: point.threshold for name, point in manifest.operating_points.items()},
            recommended=manifest.recommended,
            band=DoubtBand(
                low=band.low,
                high=band.high,
                share=band.share,
                error=band.error,
                error_without=band.error_without,
                bound=band.bound,
                rule=band.rule,
            ),
            split=calibration.fitted_on or "dev",
        )


def describe_calibration(entry: CalibrationEntry) -> str:
    """The steps from the logits of a study's views to its probability, in words."""
    sign = "-" if entry.offset < 0 else "+"
    view = f"(a view's logit {sign} {abs(entry.offset):.4g}) / {entry.temperature:.4g}"
    if entry.aggregation == MEAN_OF_SIGMOIDS:
        return f"{view}, the sigmoid, the mean over the study's views"
    return f"{view}, the mean over the study's views, the sigmoid"


def check_logits(logits: NDArray[Any]) -> None:
    """Refuse answers that are no numbers: compared with a threshold they would all be normal.

    Raises:
        InputError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise InputError(
            "the network answers a picture with what is no finite number; its weights "
            "are damaged: fetch or make the release again"
        )


def measure_abstention(doubtful: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> AbstentionEntry:
    """What abstaining costs and gains, from whether each study is doubtful, (M,), and whether its
    answer is wrong, (M,)."""
    return AbstentionEntry(
        studies=int(doubtful.sum()),
        error=float(wrong[~doubtful].mean()) if not doubtful.all() else None,
        error_without=float(wrong.mean()),
    )


def describe_rest(abstention: AbstentionEntry, studies: int) -> str:
    """How many of the answers that remain are wrong, where there are so many studies in all."""
    if abstention.error is None:
        return "none is answered"
    return f"of the others {describe_error(abstention.error, studies - abstention.studies)}"


def choose_decision(
    dev: StudyLogits, *, ridge: float | None = None, split: str = "dev"
) -> Decision:
    """Fit the calibration on dev's studies, then choose thresholds and the band of doubt.

    Args:
        dev: studies that the network was not trained on, with their views' mean logits.
        ridge: see `fit_calibration`.
        split: what they are called, for people.

    Raises:
        InputError: a logit is not finite.
    """
    calibration = fit_calibration(dev, ridge)
    studies = replace(dev, logits=calibration.logits(dev.logits)).scores()
    points = {
        "prevalence": prevalence_threshold(studies),
        "max_youden": mean_youden_threshold(studies),
        "max_f1": f1_threshold(studies),
        "sensitivity_90": conformal_threshold(studies, SENSITIVITY),
    }
    band = choose_band(studies, points[RECOMMENDED], split=split)
    return Decision(calibration, points, RECOMMENDED, band, split)


def average_split(logits_nk: Tensor, split: Split) -> StudyLogits:
    """The studies of a split, with the mean of their views' logits of *abnormal*."""
    return average_views(
        _abnormality_logits(logits_nk),
        split.labels.cpu().numpy(),
        split.studies,
        split.patients,
    )


def fit_calibration(dev: StudyLogits, ridge: float | None = None) -> Calibration:
    """The temperature and offset with the least cross-entropy of dev's studies, by Platt's scaling
    (1999) of their mean logits.

    A temperature alone (Guo et al. 2017) cannot move a network's base rate, and training with
    weighted classes puts that at one half: it would stretch or squeeze the scores to imitate the
    share of abnormal studies. Labels are softened as Platt's, (n+ + 1) / (n+ + 2) and
    1 / (n- + 2): a few dozen studies that happen to be separated do not make the model certain.
    Below RIDGE_PATIENTS patients a ridge also holds the slope, 1 / temperature, near 1, the more
    the fewer there are. A network whose logits hardly differ gets the share of abnormal studies
    for everyone, by a temperature of COLDEST at least and HOTTEST at most. From RIDGE_PATIENTS
    patients on this is scikit-learn's `method="sigmoid"`.

    Args:
        ridge: holds the slope near 1, as in `fit_logistic`, in place of that of few patients.

    Raises:
        InputError: a logit is not finite.
    """
    check_logits(dev.logits)
    positives, negatives = dev.labels.sum(), (1 - dev.labels).sum()
    target = np.where(dev.labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    patients = len(np.unique(dev.patients))
    if ridge is None:
        ridge = RIDGE * max(0.0, 1 - patients / RIDGE_PATIENTS)
    slope, intercept = fit_logistic(dev.logits, target, ridge)
    if not 1 / HOTTEST <= slope <= 1 / COLDEST:
        slope = float(np.clip(slope, 1 / HOTTEST, 1 / COLDEST))
        _, intercept = fit_logistic(slope * dev.logits, target, np.inf)
    return Calibration(temperature=1 / slope, offset=intercept / slope)


def fit_logistic(x_m: Floats, target_m: Floats, ridge: float) -> tuple[float, float]:
    """The slope and intercept of the least cross-entropy of sigmoid(slope x + intercept), plus
    ridge / 2 x (slope - 1)^2; an infinite ridge fixes the slope at 1.

    Newton's method, halving a step that goes too far. Where all of x is equal, and nothing holds
    the slope, it is 0.
    """
    middle = float(x_m.mean())
    rows_2m = np.stack((x_m - middle, np.ones_like(x_m)))
    fixed = np.isinf(ridge)
    pull = np.array([0.0 if fixed else ridge, 0.0])
    wanted = np.array([1.0, 0.0])
    at = wanted if fixed else np.zeros(2)

    def loss(at: Floats) -> float:
        u_m = at @ rows_2m
        entropy = (np.logaddexp(0, u_m) - target_m * u_m).sum()
        return float(entropy + pull @ (at - wanted) ** 2 / 2)

    for _ in range(100):
        p_m = sigmoid(at @ rows_2m)
        gradient = rows_2m @ (p_m - target_m) + pull * (at - wanted)
        curvature = (rows_2m * p_m * (1 - p_m)) @ rows_2m.T + np.diag(pull + 1e-12)
        if fixed:
            step = np.array([0.0, gradient[1] / curvature[1, 1]])
        else:
            step = np.linalg.solve(curvature, gradient)
        while loss(at - step) > loss(at) and np.abs(step).max() > 1e-12:
            step = step / 2
        at = at - step
        if np.abs(step).max() < 1e-10:
            break
    return float(at[0]), float(at[1] - at[0] * middle)


def choose_band(studies: StudyScores, threshold: float, *, split: str = "dev") -> DoubtBand:
    """The band of studies nearest to the threshold, in logits, which step aside until the error of
    the answers that remain has an upper bound of DOUBT_ERROR; an empty band where none has."""
    middle = logit(threshold)
    distance = np.abs(logit(studies.scores) - middle)
    wrong = (studies.scores >= threshold) != (studies.labels == 1)
    order, answered = promise_surest(
        distance, wrong, error=DOUBT_ERROR, tail=DOUBT_TAIL, most=DOUBT_MOST
    )
    n = answered or len(order)
    low = high = threshold
    if n < len(order):
        reach = float(distance[order][n - 1] + distance[order][n]) / 2
        low, high = map(float, sigmoid(np.array([middle - reach, middle + reach])))
    mistakes = int(wrong[order][:n].sum())
    return DoubtBand(
        low=low,
        high=high,
        share=1 - n / len(order),
        error=mistakes / n,
        error_without=float(wrong.mean()),
        bound=upper_bound(mistakes, n, DOUBT_TAIL),
        rule=_describe_band(answered, len(order), split),
    )


def _describe_band(answered: int, studies: int, split: str) -> str:
    """How a band was chosen, where so many of a split's studies are answered."""
    promise = f"an error of {DOUBT_ERROR:.2f}"
    if not answered:
        return (
            f"no band can promise {promise} on {studies} studies, without abstaining from more "
            f"than {DOUBT_MOST:.0%} of them"
        )
    bound = f"whose one-sided {1 - DOUBT_TAIL:.0%} bound on {split} is {DOUBT_ERROR:.2f} or less"
    if answered == studies:
        return f"no band is needed for {promise}: all answers have an error {bound}"
    return f"smallest band around the recommended threshold that leaves an error {bound}"


def _abnormality_logits(logits_nk: Tensor) -> Floats:
    """The logit of *abnormal* for each view."""
    return np.asarray(logits_nk[:, 0].double().cpu().numpy())
