"""How often a study's area is recognised, with intervals, and which area it was taken for.

A study's area is that of its largest logit, averaged over its views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.estimates import (
    DRAWS,
    Estimate,
    Floats,
    Measure,
    Names,
    StudyScores,
    ViewScores,
    resample_all,
    share_interval,
)

AREA_METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
}
# Of a table whose scores are 1 where the answer was right and 0 where it was not.
ACCURACY = Measure(
    name="accuracy",
    values=lambda studies, weights: weights @ studies.scores / weights.sum(1),
    freedom=lambda studies: studies.count_patients() - 1,
    rests_on=lambda studies: studies.count_patients(),
)


@dataclass(frozen=True, eq=False)
class AreaLogits:
    """A table with a row a study: its name, its patient and its area's number, (M,) each, and the
    logit of each area, (M, K)."""

    names: Names
    patients: Names
    areas: NDArray[np.int64]
    logits: Floats

    @property
    def called(self) -> NDArray[np.int64]:
        """The area with the largest logit, (M,)."""
        return np.asarray(self.logits.argmax(1))

    def correctness(self) -> StudyScores:
        """The studies with their area as the label, and as the score 1 if it is called, else 0."""
        right = (self.called == self.areas).astype(np.float64)
        return StudyScores(self.names, self.patients, self.areas, right)


def average_logits(
    logits_nk: NDArray[Any], areas_n: NDArray[np.int64], studies_n: Names, patients_n: Names
) -> AreaLogits:
    """The studies of N views, in the order of their names.

    A study's logits are the arithmetic mean of its views'. That is the geometric mean of their
    probabilities, in which one sure view outweighs several doubtful ones.
    """
    names, first, inverse = np.unique(studies_n, return_index=True, return_inverse=True)
    sums = np.zeros((len(names), logits_nk.shape[1]))
    np.add.at(sums, inverse, np.asarray(logits_nk, dtype=np.float64))
    return AreaLogits(
        names=names,
        patients=patients_n[first],
        areas=areas_n[first],
        logits=sums / np.bincount(inverse)[:, None],
    )


def softmax(logits_mk: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities (M, K) of logits over a temperature (Guo et al. 2017)."""
    scaled = logits_mk / temperature
    grown = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(grown / grown.sum(1, keepdims=True))


@dataclass(frozen=True, eq=False)
class AreaRecognition:
    """How well a network tells areas apart, on one split.

    Attributes:
        areas: the names of the K areas.
        studies: their true areas and logits.
        scores: AREA_METRICS at study level.
        recall: the share recognised of each area that occurs.
        image_accuracy: the accuracy where every image is judged by itself.
        confusion: studies by true area (rows) and by the area called (columns), (K, K).
    """

    areas: Sequence[str]
    studies: AreaLogits
    scores: Mapping[str, Estimate]
    recall: Mapping[str, Estimate]
    image_accuracy: Estimate
    confusion: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each study's area was recognised, (M,)."""
        return np.asarray(self.studies.called == self.studies.areas)

    def weighted(self, weights_bm: Floats) -> dict[str, Floats]:
        """AREA_METRICS, and `recall N` of the area with number N, under each row of study
        weights, (B,) each."""
        table = self.studies
        return _weighted_metrics(table.areas, table.called, len(self.areas), weights_bm)

    def lines(self) -> Iterator[str]:
        """The estimates as lines for people."""
        for key, estimate in self.scores.items():
            yield f"  {AREA_METRICS[key]:<18} {estimate.brief()}"
        yield f"  {'by image':<18} {self.image_accuracy.brief()} accuracy"
        yield f"  recognised, of each area{'':>16}  and called"
        for area, row in zip(self.areas, self.confusion, strict=True):
            if row.sum():
                others = ", ".join(f"{n} {self.areas[i]}" for i, n in enumerate(row) if n)
                yield f"  {area:<18} {self.recall[area].brief():<22} {others}"

    def to_json(self) -> dict[str, Any]:
        """The part of bundle.json that holds it."""
        return {
            **{name: estimate.to_json() for name, estimate in self.scores.items()},
            "recall": {area: estimate.to_json() for area, estimate in self.recall.items()},
            "by_image": {"accuracy": self.image_accuracy.to_json()},
            "areas": list(self.areas),
            "confusion": self.confusion.tolist(),
        }


def evaluate_areas(
    logits_nk: NDArray[Any],
    areas_n: NDArray[np.int64],
    studies_n: Names,
    patients_n: Names,
    areas: Sequence[str],
) -> AreaRecognition:
    """Estimates of how well the K `areas` are told apart, from the logits of N views, (N, K)."""
    table = average_logits(logits_nk, areas_n, studies_n, patients_n)
    called, k = table.called, len(areas)

    def metrics(weights_bm: Floats) -> dict[str, Floats]:
        return _weighted_metrics(table.areas, called, k, weights_bm)

    values = metrics(np.ones((1, len(called))))
    resampled = resample_all(metrics, table.patients, DRAWS, 0)
    rows = table.correctness()
    sizes = [rows.count_patients(area) for area in range(k)]
    fewest = min(size for size in sizes if size)

    def estimate(key: str, patients: int) -> Estimate:
        value = float(values[key][0])
        return rows.estimate(value, share_interval(value, resampled[key], patients))

    rests_on = {"accuracy": rows.count_patients(), "balanced_accuracy": fewest, "macro_f1": fewest}
    view_right = (logits_nk.argmax(1) == areas_n).astype(np.float64)
    return AreaRecognition(
        areas=areas,
        studies=table,
        scores={name: estimate(name, patients) for name, patients in rests_on.items()},
        recall={
            area: estimate(f"recall {number}", sizes[number])
            for number, area in enumerate(areas)
            if sizes[number]
        },
        image_accuracy=ACCURACY.estimate(ViewScores(studies_n, patients_n, areas_n, view_right)),
        confusion=confusion_matrix(table.areas, called, k),
    )


def confusion_matrix(
    areas: NDArray[np.int64], called: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Studies by true area (rows) and by the area called (columns), (K, K)."""
    return np.bincount(areas * k + called, minlength=k * k).reshape(k, k)


def _weighted_metrics(
    areas: NDArray[np.int64], called: NDArray[np.int64], k: int, weights_bm: Floats
) -> dict[str, Floats]:
    """Each metric under each row of weights; areas that are not drawn are left out of means."""
    pairs = np.zeros((len(called), k * k))
    pairs[np.arange(len(called)), areas * k + called] = 1
    confusion_bkk = (weights_bm @ pairs).reshape(-1, k, k)
    true, answers = confusion_bkk.sum(2), confusion_bkk.sum(1)
    hits = np.diagonal(confusion_bkk, axis1=1, axis2=2)
    there = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / true
        f1 = 2 * hits / (true + answers)
        means = {
            "accuracy": hits.sum(1) / true.sum(1),
            "balanced_accuracy": np.where(there, recall, 0).sum(1) / there.sum(1),
            "macro_f1": np.where(there, f1, 0).sum(1) / there.sum(1),
        }
    return means | {f"recall {area}": recall[:, area] for area in range(k)}
