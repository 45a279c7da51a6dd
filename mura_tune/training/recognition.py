"""Which body part a study shows: the logits of its views, averaged.

How often a study's area is recognised, with intervals, and what was taken for what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.metrics.estimates import (
    DRAWS,
    Estimate,
    Floats,
    Names,
    Studies,
    all_over_draws,
    exact,
    interval,
    over_draws,
)
from mura_tune.training.batches import Split


@dataclass(frozen=True, eq=False)
class Parts:
    """A row a study, by name: its patient, its area's number, and its logits (M, K)."""

    names: Names
    patients: Names
    parts: NDArray[np.int64]
    logits: Floats


def study_logits(logits_nk: Tensor, split: Split) -> Parts:
    """Each study's logits: the arithmetic mean of its views', so the geometric mean of their
    probabilities, in which one sure view outweighs several doubtful ones."""
    names, first, inverse = np.unique(split.studies, return_index=True, return_inverse=True)
    logits = logits_nk.double().cpu().numpy()
    sums = np.zeros((len(names), logits.shape[1]))
    np.add.at(sums, inverse, logits)
    return Parts(
        names=names,
        patients=split.patients[first],
        parts=split.parts.cpu().numpy()[first],
        logits=sums / np.bincount(inverse)[:, None],
    )


def softmax(logits_mk: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities (M, K) of logits over a temperature (Guo et al. 2017)."""
    scaled = logits_mk / temperature
    grown = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(grown / grown.sum(1, keepdims=True))


NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
}


@dataclass(frozen=True, eq=False)
class Recognition:
    """The areas that a network tells apart, on one part of a dataset.

    Attributes:
        studies: their true areas (as numbers) and logits; `called` what they were taken for.
        figures: NAMES at study level.
        recall: the share recognised of each area that occurs.
        image_accuracy: where every image is judged by itself.
        confusion: studies by true area (rows) and by the one called (columns), (K, K).
    """

    areas: Sequence[str]
    studies: Parts
    called: NDArray[np.int64]
    figures: Mapping[str, Estimate]
    recall: Mapping[str, Estimate]
    image_accuracy: Estimate
    confusion: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each study was recognised."""
        return np.asarray(self.called == self.studies.parts)

    def under(self, weights_bm: Floats) -> dict[str, Floats]:
        """NAMES, and `recall N` of the area with number N, under each row of study weights."""
        return _under(self.studies.parts, self.called, len(self.areas), weights_bm)

    def lines(self) -> Iterator[str]:
        """The figures for people."""
        for key, estimate in self.figures.items():
            yield f"  {NAMES[key]:<18} {estimate.brief()}"
        yield f"  {'by image':<18} {self.image_accuracy.brief()} accuracy"
        yield f"  recognised, of each area{'':>16}  and called"
        for area, row in zip(self.areas, self.confusion, strict=True):
            if row.sum():
                others = ", ".join(f"{n} {self.areas[i]}" for i, n in enumerate(row) if n)
                yield f"  {area:<18} {self.recall[area].brief():<22} {others}"

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: estimate.to_json() for name, estimate in self.figures.items()},
            "recall": {area: estimate.to_json() for area, estimate in self.recall.items()},
            "by_image": {"accuracy": self.image_accuracy.to_json()},
            "areas": list(self.areas),
            "confusion": self.confusion.tolist(),
        }


def recognised(logits_nk: Tensor, split: Split) -> Recognition:
    """Figures of the areas' logits (N, K), each with its interval from resampling whole patients.

    A study's area is that of the largest logit, averaged over its views.
    """
    found = study_logits(logits_nk, split)
    called = found.logits.argmax(1)
    k = len(split.areas)

    def figures(weights_bm: Floats) -> dict[str, Floats]:
        return _under(found.parts, called, k, weights_bm)

    values = figures(np.ones((1, len(called))))
    resampled = all_over_draws(figures, found.patients, DRAWS, 0)
    rows = Studies(
        found.names, found.patients, found.parts, (called == found.parts).astype(np.float64)
    )
    sizes = [rows.patients_with(part) for part in range(k)]
    fewest = min(size for size in sizes if size)

    def estimate(key: str, patients: int) -> Estimate:
        value = float(values[key][0])
        ends = interval(value, resampled[key], patients - 1)
        return rows.estimate(value, exact(value, patients) if ends[0] == ends[1] else ends)

    rests_on = {"accuracy": rows.patients_with(), "balanced_accuracy": fewest, "macro_f1": fewest}
    return Recognition(
        areas=split.areas,
        studies=found,
        called=called,
        figures={name: estimate(name, patients) for name, patients in rests_on.items()},
        recall={
            area: estimate(f"recall {part}", sizes[part])
            for part, area in enumerate(split.areas)
            if sizes[part]
        },
        image_accuracy=_by_image(logits_nk, split),
        confusion=confusion(found.parts, called, k),
    )


def confusion(parts: NDArray[np.int64], called: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Studies by true area (rows) and by the one called (columns), (K, K)."""
    return np.bincount(parts * k + called, minlength=k * k).reshape(k, k)


def _under(
    parts: NDArray[np.int64], called: NDArray[np.int64], k: int, weights_bm: Floats
) -> dict[str, Floats]:
    """Each figure under each row of weights; areas that are not drawn are left out of means."""
    pairs = np.zeros((len(called), k * k))
    pairs[np.arange(len(called)), parts * k + called] = 1
    confusion_bkk = (weights_bm @ pairs).reshape(-1, k, k)
    true, answers = confusion_bkk.sum(2), confusion_bkk.sum(1)
    hits = np.diagonal(confusion_bkk, axis1=1, axis2=2)
    there = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / true
        f1 = 2 * hits / (true + answers)
        found = {
            "accuracy": hits.sum(1) / true.sum(1),
            "balanced_accuracy": np.where(there, recall, 0).sum(1) / there.sum(1),
            "macro_f1": np.where(there, f1, 0).sum(1) / there.sum(1),
        }
    return found | {f"recall {part}": recall[:, part] for part in range(k)}


def _by_image(logits_nk: Tensor, split: Split) -> Estimate:
    """Accuracy of single views."""
    right = (logits_nk.argmax(1).cpu() == split.parts.cpu()).numpy().astype(np.float64)
    drawn = over_draws(lambda w: w @ right / w.sum(1), split.patients, DRAWS, 0)
    patients = len(np.unique(split.patients))
    value = float(right.mean())
    ends = interval(value, drawn, patients - 1)
    ends = exact(value, patients) if ends[0] == ends[1] else ends
    return Estimate(value, *ends, len(np.unique(split.studies)), patients, len(right))
