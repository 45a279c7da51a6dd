"""Numbers with intervals: studies from views, rank AUC, and resampling of whole patients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.learning.intervals import exact, interval, pooled

Floats = NDArray[np.float64]
Names = NDArray[np.object_]  # strings that their table has, so that a row costs a pointer
DRAWS = 2000
AT_ONCE = 125_000  # weights of draws that a figure is taken of at once: 1 MB, and a few copies


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and the studies and patients it was measured on.

    A value that is not defined there (the precision of no call at all) is NaN. `images` is set
    where a row was an image.
    """

    value: float
    low: float
    high: float
    studies: int
    patients: int
    images: int | None = None

    def __str__(self) -> str:
        rows = f"{self.images} images of " if self.images else ""
        return f"{self.brief()} (n = {rows}{self.studies} studies)"

    def brief(self) -> str:
        """The value and its interval alone."""
        if math.isnan(self.value):
            return "undefined"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, Any]:
        plain = {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }
        return plain if self.images else {k: v for k, v in plain.items() if k != "images"}


@dataclass(frozen=True, eq=False)
class Studies:
    """One row a study: `names`, `patients`, `labels` (0 or 1), `scores` in [0, 1]."""

    names: Names
    patients: Names
    labels: NDArray[np.int64]
    scores: Floats

    def estimate(self, value: float, ends: tuple[float, float]) -> Estimate:
        """`value` and its interval with what it was measured on."""
        low, high = ends
        return Estimate(value, low, high, len(self.labels), self.patients_with())

    def patients_with(self, label: int | None = None) -> int:
        """How many patients there are, or have a study of that label."""
        chosen = self.patients if label is None else self.patients[self.labels == label]
        return len(np.unique(chosen))

    @property
    def rarer(self) -> int:
        """Patients with a study of the class that has fewer of them."""
        return min(self.patients_with(0), self.patients_with(1))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a figure that rests on both classes."""
        both = pooled(self.patients_with(0), self.patients_with(1))
        return min(both, self.patients_with() - 1)


@dataclass(frozen=True, eq=False)
class Views(Studies):
    """One row an image: `names` are its study's, `labels` its study's, `scores` its own."""

    def estimate(self, value: float, ends: tuple[float, float]) -> Estimate:
        low, high = ends
        return Estimate(
            value, low, high, len(np.unique(self.names)), self.patients_with(), len(self.labels)
        )


def sigmoid(logits: NDArray[Any]) -> Floats:
    """Probabilities in float64, so that large logits keep their order."""
    clipped = np.clip(np.asarray(logits, dtype=np.float64), -700, 700)
    return np.asarray(1 / (1 + np.exp(-clipped)))


def by_study(
    logits_n: NDArray[Any],
    labels_n: NDArray[Any],
    studies_n: Names,
    patients_n: Names,
) -> Studies:
    """Studies in the order of their names; a study's score is the mean probability of its views
    (Rajpurkar et al. 2018, section 3.1)."""
    names, first, inverse = np.unique(studies_n, return_index=True, return_inverse=True)
    totals = np.bincount(inverse, weights=sigmoid(logits_n), minlength=len(names))
    return Studies(
        names=names,
        patients=patients_n[first],
        labels=np.asarray(labels_n, dtype=np.int64)[first],
        scores=totals / np.bincount(inverse),
    )


def auc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Area under the ROC curve, ties counted half (the Mann-Whitney statistic).

    Raises:
        ValueError: one class only, or a score that is not a number.
    """
    return float(weighted_auc(scores, labels, np.ones((1, len(labels))))[0])


@dataclass(frozen=True)
class Measure:
    """What a task is judged by: one number of a table of studies, between 0 and 1.

    Attributes:
        values: the number under each row of integer weights (B, M) on the studies, (B,).
        freedom: degrees of freedom of its interval.
        rests_on: patients that its exact bound rests on, where resampling sees no spread.
    """

    name: str
    values: Callable[[Studies, Floats], Floats]
    freedom: Callable[[Studies], float]
    rests_on: Callable[[Studies], int]

    def of(self, studies: Studies) -> float:
        """The number itself."""
        return float(self.values(studies, np.ones((1, len(studies.labels))))[0])

    def estimate(self, studies: Studies, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
        """The number with its interval from resampling whole patients."""
        value = self.of(studies)
        drawn = over_draws(lambda w: self.values(studies, w), studies.patients, draws, seed)
        low, high = interval(value, drawn, self.freedom(studies))
        if low == high:  # as sure as there are patients, no surer
            low, high = exact(value, self.rests_on(studies))
        return studies.estimate(value, (low, high))


def auc_interval(studies: Studies, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Study AUC with its interval from resampling whole patients."""
    return AUC.estimate(studies, draws=draws, seed=seed)


def over_draws(value: Callable[[Floats], Floats], patients: Names, draws: int, seed: int) -> Floats:
    """A figure in each draw, (draws,): patients are drawn with replacement, and `value` is given
    how often that makes each row count, (B, M), for some draws at a time."""
    return np.concatenate([value(w) for w in cluster_weights(patients, draws, seed)])


def all_over_draws(
    values: Callable[[Floats], Mapping[str, Floats]], patients: Names, draws: int, seed: int
) -> dict[str, Floats]:
    """`over_draws` of several figures, by name."""
    blocks = [values(w) for w in cluster_weights(patients, draws, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def cluster_weights(patients: Names, draws: int, seed: int) -> Iterator[Floats]:
    """How often each row counts in each draw, AT_ONCE at a time: (B, M) and in all `draws` rows."""
    names, inverse = np.unique(patients, return_inverse=True)
    drawn = _drawn(len(names), draws, seed)
    for block in _blocks(draws, len(inverse)):
        yield drawn[block, inverse].astype(np.float64)


@functools.lru_cache(maxsize=2)  # every figure of a table is drawn from the same patients
def _drawn(patients: int, draws: int, seed: int) -> NDArray[np.uint8]:
    """How often each patient is drawn, (draws, patients): once on average, and 256 times with a
    probability below 1e-500 where there are so many."""
    rng, alike = np.random.default_rng(seed), np.full(patients, 1 / patients)
    drawn = np.empty((draws, patients), np.uint8)
    for block in _blocks(draws, patients):
        drawn[block] = rng.multinomial(patients, alike, size=len(drawn[block]))
    drawn.flags.writeable = False
    return drawn


def _blocks(draws: int, rows: int) -> Iterator[slice]:
    """As many draws at a time as AT_ONCE allows for so many rows."""
    step = max(1, AT_ONCE // rows)
    return (slice(start, start + step) for start in range(0, draws, step))


def youden(studies: Studies) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden 1950); a study is
    abnormal at or above it. Halfway between two neighbouring scores, so that it is stable."""
    cuts, hits, alarms = cut_points(studies)
    index = hits / max(hits[0], 1) - alarms / max(alarms[0], 1)
    return float(cuts[np.argmax(index)])


def cut_points(studies: Studies) -> tuple[Floats, Floats, Floats]:
    """Every threshold that divides the studies differently, from 0 up to 1, with the abnormal
    and the normal studies at or above it: (cuts, hits, false alarms)."""
    order = np.argsort(studies.scores, kind="stable")
    scores, labels = studies.scores[order], studies.labels[order]
    cuts = np.concatenate(([0.0], (scores[1:] + scores[:-1]) / 2, [1.0]))
    usable = np.concatenate(([True], scores[1:] > scores[:-1], [True]))
    hits = labels.sum() - np.concatenate(([0], np.cumsum(labels)))
    alarms = (1 - labels).sum() - np.concatenate(([0], np.cumsum(1 - labels)))
    return cuts[usable], hits[usable].astype(np.float64), alarms[usable].astype(np.float64)


def weighted_auc(scores: NDArray[Any], labels: NDArray[Any], weights: Floats) -> Floats:
    """AUC under each row of integer weights (B, M); NaN where a class has no weight."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"AUC needs both classes; all {len(labels)} labels are one class")
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], labels[order] == 1
    w = weights[:, order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] > ordered[:-1])))
    pos = np.add.reduceat(w * positive, starts, axis=1)
    neg = np.add.reduceat(w * ~positive, starts, axis=1)
    below = np.cumsum(neg, axis=1) - neg / 2  # negatives under each score, ties counted half
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((pos * below).sum(1) / (pos.sum(1) * neg.sum(1)))


AUC = Measure(
    name="AUC",
    values=lambda studies, weights: weighted_auc(studies.scores, studies.labels, weights),
    freedom=lambda studies: studies.freedom,
    rests_on=lambda studies: studies.rarer,
)
# Of a table whose scores are 1 where the answer was right and 0 where it was not.
ACCURACY = Measure(
    name="accuracy",
    values=lambda studies, weights: weights @ studies.scores / weights.sum(1),
    freedom=lambda studies: studies.patients_with() - 1,
    rests_on=lambda studies: studies.patients_with(),
)
