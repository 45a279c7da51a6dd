"""Numbers with intervals: rank AUC, studies from views, and the patient-cluster bootstrap."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and the studies and patients it was measured on."""

    value: float
    low: float
    high: float
    studies: int
    patients: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.studies} studies)"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Studies:
    """One row a study: `names`, `patients`, `labels` (0 or 1), `scores` in [0, 1]."""

    names: NDArray[np.str_]
    patients: NDArray[np.str_]
    labels: NDArray[np.int64]
    scores: Floats


def sigmoid(logits: NDArray[Any]) -> Floats:
    """Probabilities in float64, so that large logits keep their order."""
    clipped = np.clip(np.asarray(logits, dtype=np.float64), -700, 700)
    return np.asarray(1 / (1 + np.exp(-clipped)))


def by_study(
    logits_n: NDArray[Any],
    labels_n: NDArray[Any],
    studies_n: NDArray[np.str_],
    patients_n: NDArray[np.str_],
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


def auc_interval(
    studies: Studies, *, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Study AUC with a percentile interval from resampling whole patients."""
    weights = cluster_weights(studies.patients, draws, seed)
    values = weighted_auc(studies.scores, studies.labels, weights)
    low, high = _percentiles(values, level)  # a draw without one of the classes has no AUC
    value = auc(studies.scores, studies.labels)
    if low == high and value in (0.0, 1.0):  # as sure as its rarer class has patients, no surer
        low, high = _exact(value, min(_patients(studies, label) for label in (0, 1)))
    return Estimate(
        value=value,
        low=low,
        high=high,
        studies=len(studies.labels),
        patients=len(np.unique(studies.patients)),
    )


def cluster_weights(patients: NDArray[np.str_], draws: int, seed: int) -> Floats:
    """How often each row counts in each draw, (draws, M): patients are drawn with replacement."""
    names, inverse = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return drawn[:, inverse].astype(np.float64)


def youden(studies: Studies) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden 1950); a study is
    abnormal at or above it. Halfway between two neighbouring scores, so that it is stable."""
    order = np.argsort(studies.scores, kind="stable")
    scores, labels = studies.scores[order], studies.labels[order]
    positives, negatives = labels.sum(), (1 - labels).sum()
    missed = np.concatenate(([0], np.cumsum(labels))) / positives
    cleared = np.concatenate(([0], np.cumsum(1 - labels))) / negatives
    cuts = np.concatenate(([0.0], (scores[1:] + scores[:-1]) / 2, [1.0]))
    usable = np.concatenate(([True], scores[1:] > scores[:-1], [True]))
    return float(cuts[np.argmax(np.where(usable, cleared - missed, -np.inf))])


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


def at_threshold(
    studies: Studies, threshold: float, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Estimate]:
    """Sensitivity, specificity, accuracy, F1 and Cohen's kappa (Cohen 1960) of calling a study
    abnormal at or above `threshold`, each with its patient-cluster interval."""
    called = studies.scores >= threshold
    ones = np.ones((1, len(called)))
    weights = cluster_weights(studies.patients, draws, seed)
    values, resampled = (_confusion(called, studies.labels, w) for w in (ones, weights))
    patients = len(np.unique(studies.patients))
    counted = {
        "sensitivity": _patients(studies, 1),
        "specificity": _patients(studies, 0),
        "accuracy": patients,
    }
    found = {}
    for name, value in values.items():
        low, high = _percentiles(resampled[name])
        if low == high and name in counted:
            low, high = _exact(float(value[0]), counted[name])
        found[name] = Estimate(float(value[0]), low, high, len(called), patients)
    return found


def _confusion(
    called: NDArray[np.bool_], labels: NDArray[np.int64], weights: Floats
) -> dict[str, Floats]:
    """Each metric for each row of weights; NaN where it is not defined."""
    abnormal = labels == 1
    tp, fp = weights @ (called & abnormal), weights @ (called & ~abnormal)
    fn, tn = weights @ (~called & abnormal), weights @ (~called & ~abnormal)
    n = tp + fp + fn + tn
    chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / n**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "accuracy": (tp + tn) / n,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "kappa": ((tp + tn) / n - chance) / (1 - chance),
        }


def _patients(studies: Studies, label: int) -> int:
    """How many patients have a study of that label."""
    return len(np.unique(studies.patients[studies.labels == label]))


def _exact(share: float, n: int) -> tuple[float, float]:
    """The interval of a share of 0 or 1 among `n` patients (Clopper and Pearson 1934), where
    resampling sees no spread and would claim certainty."""
    bound = 0.025 ** (1 / n)
    return (bound, 1.0) if share == 1 else (0.0, 1 - bound)


def _percentiles(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of the draws in which the value is defined."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    tail = (1 - level) / 2 * 100
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
