"""What an abnormality release decides with, chosen on dev alone: calibration, thresholds, doubt.

A study's probability has one order of steps everywhere: each view's logit, (logit + offset) /
temperature, the sigmoid, the mean over the study's views. The decision is abnormal at or above
the recommended threshold, except for studies in the band of doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.metrics.estimates import (
    Floats,
    StudyScores,
    ViewScores,
    describe_error,
    score_studies,
    sigmoid,
    upper_bound,
)
from mura_tune.metrics.operating_points import (
    answer_surest,
    f1_threshold,
    sensitivity_threshold,
    youden_threshold,
)
from mura_tune.release_format.entries import (
    MEAN_OF_SIGMOIDS,
    AbstentionEntry,
    BandEntry,
    CalibrationEntry,
    OperatingPointEntry,
    ThresholdEntry,
)
from mura_tune.release_format.manifest import AbnormalityManifest
from mura_tune.training.batches import Split

SENSITIVITY = 0.90  # what the third operating point guarantees on dev
COLDEST = 0.05  # the least temperature: a smaller one would make answers out of rounding
DOUBT_ERROR = 0.10  # the error on dev that remains when the band abstains
DOUBT_TAIL = 0.10  # the probability that the error's upper bound is too low
DOUBT_MOST = 0.5  # the band never takes more of the dev studies than this
RULES = {
    "max_youden": "largest sensitivity + specificity - 1 on dev",
    "max_f1": "largest F1 on dev",
    "sensitivity_90": "highest threshold with a sensitivity of 0.90 or more on dev",
}


@dataclass(frozen=True)
class Calibration:
    """From a view's logit to its probability: sigmoid((logit + offset) / temperature)."""

    temperature: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.offset) and 0 < self.temperature < np.inf):
            raise ValueError(f"temperature is {self.temperature}, offset {self.offset}")

    def logits(self, logits_n: NDArray[Any]) -> Floats:
        """Calibrated logits of views, (N,). Raises InputError for one that is not finite."""
        check_logits(logits_n)
        return (np.asarray(logits_n, dtype=np.float64) + self.offset) / self.temperature

    def studies(self, logits_nk: Tensor, split: Split) -> StudyScores:
        """A calibrated probability of *abnormal* for each study."""
        logits_n = self.logits(_abnormality_logits(logits_nk))
        return score_studies(logits_n, split.labels.cpu().numpy(), split.studies, split.patients)

    def views(self, logits_nk: Tensor, split: Split) -> ViewScores:
        """A calibrated probability of *abnormal* for each image."""
        scores = sigmoid(self.logits(_abnormality_logits(logits_nk)))
        return ViewScores(split.studies, split.patients, split.labels.cpu().numpy(), scores)


@dataclass(frozen=True)
class DoubtBand:
    """Probabilities from `low` up to `high` in which the release abstains.

    Attributes:
        share: of the dev studies that fall inside.
        error: of the answers that remain on dev.
        error_without: of all answers on dev, without a band.
        bound: the one-sided 90 % upper bound of `error`; None from releases of schemas 1 and 2.
    """

    low: float
    high: float
    share: float
    error: float
    error_without: float
    bound: float | None = None

    @property
    def rule(self) -> str:
        """How it was chosen, in words."""
        wanted = f"an error of {DOUBT_ERROR:.2f} or less on dev"
        if self.error <= DOUBT_ERROR:
            return f"smallest band around the recommended threshold that leaves {wanted}"
        return (
            f"band that leaves the least error, {self.error:.3f}, on dev; {wanted} is out of "
            f"reach without abstaining from more than {DOUBT_MOST:.0%} of it"
        )

    def holds(self, score: float) -> bool:
        """Whether the release abstains at this probability."""
        return self.low <= score < self.high


@dataclass(frozen=True)
class Decision:
    """Everything that was chosen on dev. `points` are thresholds by rule, see RULES."""

    calibration: Calibration
    points: Mapping[str, float]
    recommended: str
    band: DoubtBand

    @property
    def threshold(self) -> float:
        """The recommended operating point: a study is called abnormal at or above it."""
        return self.points[self.recommended]

    def entries(self) -> dict[str, Any]:
        """The fields of a manifest that store it; `threshold` repeats the recommended point."""
        return {
            "calibration": CalibrationEntry(
                temperature=self.calibration.temperature,
                offset=self.calibration.offset,
                aggregation=MEAN_OF_SIGMOIDS,
                order="(view logit + offset) / temperature, sigmoid, mean over the views",
                fitted_on="dev",
            ),
            "operating_points": {
                name: OperatingPointEntry(threshold=threshold, rule=RULES[name])
                for name, threshold in self.points.items()
            },
            "recommended": self.recommended,
            "threshold": ThresholdEntry(value=self.threshold, rule=RULES[self.recommended]),
            "abstain": BandEntry(**asdict(self.band), rule=self.band.rule),
        }

    @staticmethod
    def from_manifest(manifest: AbnormalityManifest) -> Decision:
        """The decision that a manifest stores."""
        band = manifest.abstain
        return Decision(
            calibration=Calibration(manifest.calibration.temperature, manifest.calibration.offset),
            points={name: point.threshold for name, point in manifest.operating_points.items()},
            recommended=manifest.recommended,
            band=DoubtBand(
                low=band.low,
                high=band.high,
                share=band.share,
                error=band.error,
                error_without=band.error_without,
                bound=band.bound,
            ),
        )


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


def choose_decision(logits_nk: Tensor, dev: Split) -> Decision:
    """Fit the calibration on dev, then choose thresholds and the band on its calibrated scores."""
    calibration = fit_calibration(logits_nk, dev)
    studies = calibration.studies(logits_nk, dev)
    points = {
        "max_youden": youden_threshold(studies),
        "max_f1": f1_threshold(studies),
        "sensitivity_90": sensitivity_threshold(studies, SENSITIVITY),
    }
    recommended = "max_youden"
    return Decision(calibration, points, recommended, choose_band(studies, points[recommended]))


def fit_calibration(logits_nk: Tensor, dev: Split) -> Calibration:
    """The temperature and offset with the least cross-entropy of dev's study probabilities.

    A temperature alone (Guo et al. 2017) cannot move a network's base rate, and training with
    weighted classes puts that at one half: it would stretch or squeeze the scores to imitate the
    share of abnormal studies. So there is an offset beside it, which makes it Platt's scaling
    (1999), with his softened labels (n+ + 1) / (n+ + 2) and 1 / (n- + 2): a few dozen studies that
    happen to be separated do not make the model certain. A network whose logits hardly differ gets
    the share of abnormal studies for everyone, by a least temperature of COLDEST. Where every study
    has one view this is scikit-learn's `method="sigmoid"`; the mean over several views is what
    that cannot fit.
    """
    logits_n = _abnormality_logits(logits_nk)
    names, inverse = np.unique(dev.studies, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(names)))
    views = np.diff(np.append(starts, len(inverse)))
    labels = dev.labels.cpu().numpy()[order][starts]
    positives, negatives = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle, spread = float(logits_n.mean()), max(float(logits_n.std()), 1e-6)
    z_n = (logits_n[order] - middle) / spread

    def loss(slope: Floats, level: Floats) -> Floats:
        p_gv = sigmoid(slope[:, None] * z_n + level[:, None])
        p = np.clip(np.add.reduceat(p_gv, starts, axis=1) / views, 1e-12, 1 - 1e-12)
        return np.asarray(-(target * np.log(p) + (1 - target) * np.log1p(-p)).mean(1))

    # slope and level at the middle of the logits hardly depend on each other: a grid that closes in
    centre, reach = np.array([0.0, 0.0]), np.array([np.log(20.0), 6.0])
    for _ in range(14):
        slopes, levels = np.meshgrid(
            *(np.linspace(c - r, c + r, 13) for c, r in zip(centre, reach, strict=True))
        )
        slopes = np.minimum(slopes, np.log(spread / COLDEST))
        at = int(np.argmin(loss(np.exp(slopes.ravel()), levels.ravel())))
        centre, reach = np.array([slopes.ravel()[at], levels.ravel()[at]]), reach / 3
    slope = float(np.exp(centre[0]))
    return Calibration(
        temperature=spread / slope, offset=spread / slope * float(centre[1]) - middle
    )


def choose_band(studies: StudyScores, threshold: float) -> DoubtBand:
    """The band of studies nearest to the threshold, in logits, which step aside until the answers
    that remain are wrong in DOUBT_ERROR of cases at most."""
    middle = _logit(np.array(threshold))
    distance = np.abs(_logit(studies.scores) - middle)
    wrong = (studies.scores >= threshold) != (studies.labels == 1)
    order, n = answer_surest(distance, wrong, error=DOUBT_ERROR, most=DOUBT_MOST)
    error_without = float(wrong.mean())
    if n == len(order):
        bound = upper_bound(int(wrong.sum()), len(order), DOUBT_TAIL)
        return DoubtBand(threshold, threshold, 0.0, error_without, error_without, bound)
    reach = float(distance[order][n - 1] + distance[order][n]) / 2
    low, high = sigmoid(np.array([middle - reach, middle + reach]))
    return DoubtBand(
        low=float(low),
        high=float(high),
        share=1 - n / len(order),
        error=float(wrong[order][:n].mean()),
        error_without=error_without,
        bound=upper_bound(int(wrong[order][:n].sum()), n, DOUBT_TAIL),
    )


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p / (1 - p)))


def _abnormality_logits(logits_nk: Tensor) -> Floats:
    """The logit of *abnormal* for each view."""
    return np.asarray(logits_nk[:, 0].double().cpu().numpy())
