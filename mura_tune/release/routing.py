"""Which area a study shows: how sure a release is, when it abstains, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.learning.batches import Split
from mura_tune.learning.intervals import exact, interval
from mura_tune.learning.metrics import DRAWS, Estimate, Floats, Studies, cluster_weights
from mura_tune.learning.parts import Parts, softmax, study_logits
from mura_tune.release.evaluate import SPLIT_NAMES
from mura_tune.release.page import wrong

ERROR = 0.01  # of the answers on dev that may remain
LEAST = 0.01  # share of dev that abstains even where every answer is right: what looks like nothing
MOST = 0.5  # known, and never more than this share
NAMES = {
    "accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "macro_f1": "Macro-F1",
}  # fmt: skip


@dataclass(frozen=True)
class Routing:
    """What was chosen on dev.

    Attributes:
        temperature: of the softmax over a study's logits (Guo et al. 2017).
        confidence: a study is answered from this probability of its area on.
        share: of dev's studies that abstain.
        error: of the answers that remain on dev; `error_without` of all of them.
    """

    temperature: float
    confidence: float
    share: float
    error: float
    error_without: float

    def __post_init__(self) -> None:
        if not (0 < self.temperature < np.inf and 0 <= self.confidence <= 1):
            raise ValueError(f"temperature is {self.temperature}, confidence {self.confidence}")

    @property
    def rule(self) -> str:
        """How the confidence was chosen, in words."""
        return (f"least confidence that leaves an error of {ERROR:.2f} or less on dev, with "
                f"{LEAST:.0%} to {MOST:.0%} of it below")  # fmt: skip

    def confidences(self, logits_mk: Floats) -> Floats:
        """Probabilities of the areas, (M, K), from the mean logits of each study's views."""
        return softmax(logits_mk, self.temperature)

    def to_json(self) -> dict[str, Any]:
        """The part of bundle.json that holds it."""
        return {
            "calibration": {
                "temperature": self.temperature,
                "order": "mean of the views' logits, over temperature, softmax",
                "fitted_on": "dev",
            },
            "abstain": {k: v for k, v in asdict(self).items() if k != "temperature"}
            | {"chosen": self.rule},
        }

    @staticmethod
    def from_json(manifest: Mapping[str, Any]) -> Routing:
        """What `to_json` wrote into a bundle.json."""
        told = manifest["abstain"]
        kept = {key: told[key] for key in ("confidence", "share", "error", "error_without")}
        return Routing(temperature=manifest["calibration"]["temperature"], **kept)


@dataclass(frozen=True, eq=False)
class Routed:
    """A router on one part of a dataset.

    Attributes:
        studies: their true areas (as numbers) and logits; `called` what they were taken for.
        figures: NAMES at study level; `recall` by area.
        image_accuracy: where every image is judged by itself.
        confusion: studies by true area (rows) and by the one called (columns), (K, K).
    """

    part: str
    images: int
    areas: Sequence[str]
    chosen: Routing
    studies: Parts
    called: NDArray[np.int64]
    confidence: Floats
    figures: Mapping[str, Estimate]
    recall: Mapping[str, Estimate]
    image_accuracy: Estimate
    confusion: NDArray[np.int64]

    def abstention(self) -> dict[str, Any]:
        """Studies below the confidence, and the error of the answers with and without them."""
        sure = self.confidence >= self.chosen.confidence
        wrong = self.called != self.studies.parts
        return {
            "studies": int((~sure).sum()),
            "error": float(wrong[sure].mean()) if sure.any() else None,
            "error_without": float(wrong.mean()),
        }

    def describe(self) -> str:
        """The figures as lines for people."""
        told = self.abstention()
        answered, rest = "none is answered", len(self.called) - told["studies"]
        if told["error"] is not None:
            answered = f"of the others {wrong(told['error'], rest)}"
        rows = [
            f"{SPLIT_NAMES[self.part]}, {len(self.called)} studies, {self.images} images",
            *(f"  {NAMES[key]:<18} {estimate.brief()}" for key, estimate in self.figures.items()),
            f"  {'by image':<18} {self.image_accuracy.brief()} accuracy",
            f"  recognised, of each area{'':>16}  and called",
        ]
        for area, row in zip(self.areas, self.confusion, strict=True):
            if row.sum():
                others = ", ".join(f"{n} {self.areas[i]}" for i, n in enumerate(row) if n)
                rows.append(f"  {area:<18} {self.recall[area].brief():<22} {others}")
        return "\n".join([*rows, f"  {told['studies']} studies below a confidence of "
                          f"{self.chosen.confidence:.3f}; {answered}"])  # fmt: skip

    def brief(self) -> str:
        """Studies and accuracy in a line."""
        return f"{len(self.called):>7}  accuracy {self.figures['accuracy'].brief()}"

    def to_json(self) -> dict[str, Any]:
        patients = np.unique(self.studies.patients)
        return {
            "split": SPLIT_NAMES[self.part],
            "studies": len(self.called),
            "patients": len(patients),
            "images": self.images,
            **{name: estimate.to_json() for name, estimate in self.figures.items()},
            "recall": {area: estimate.to_json() for area, estimate in self.recall.items()},
            "by_image": {"accuracy": self.image_accuracy.to_json()},
            "areas": list(self.areas),
            "confusion": self.confusion.tolist(),
            "abstain": self.abstention(),
        }


def choose(logits_nk: Tensor, dev: Split) -> Routing:
    """Fit the temperature on dev's studies, then the confidence on what it gives."""
    found = study_logits(logits_nk, dev)
    temperature = _temperature(found)
    chances = softmax(found.logits, temperature)
    confidence, right = chances.max(1), chances.argmax(1) == found.parts
    order = np.argsort(-confidence, kind="stable")
    n = len(order)
    answered = np.arange(1, n + 1)
    error = np.cumsum(~right[order]) / answered
    last = np.append(np.diff(confidence[order]) < 0, True)  # equal ones go together
    usable = last & (answered >= n * (1 - MOST)) & (answered <= max(1, n * (1 - LEAST)))
    usable = usable if usable.any() else last
    good = usable & (error <= ERROR)
    candidates = good if good.any() else usable & (error == error[usable].min())
    keep = int(np.flatnonzero(candidates)[-1])
    least = confidence[order][keep]
    if keep + 1 < n:  # halfway to the next, so that it is stable
        least = (least + confidence[order][keep + 1]) / 2
    return Routing(
        temperature=temperature, confidence=float(least), share=1 - (keep + 1) / n,
        error=float(error[keep]), error_without=float((~right).mean()),
    )  # fmt: skip


def measured(logits_nk: Tensor, split: Split, chosen: Routing) -> Routed:
    """Figures from logits (N, K), each with its interval from resampling whole patients."""
    found = study_logits(logits_nk, split)
    chances = chosen.confidences(found.logits)
    called = found.logits.argmax(1)
    k = len(split.areas)
    pairs = np.zeros((len(called), k * k))
    pairs[np.arange(len(called)), found.parts * k + called] = 1
    once = np.ones((1, len(called)))
    drawn = cluster_weights(found.patients, DRAWS, 0)
    values, resampled = (_figures((w @ pairs).reshape(-1, k, k)) for w in (once, drawn))
    rows = Studies(found.names, found.patients, found.parts, chances.max(1))
    sizes = [rows.patients_with(part) for part in range(k)]
    rests_on = {"accuracy": rows.patients_with()} | dict.fromkeys(
        ("balanced_accuracy", "macro_f1"), min(size for size in sizes if size)
    )
    rests_on |= {area: size for area, size in zip(split.areas, sizes, strict=True) if size}

    def estimate(name: str, key: str) -> Estimate:
        value = float(values[key][0])
        ends = interval(value, resampled[key], rests_on[name] - 1)
        ends = exact(value, rests_on[name]) if ends[0] == ends[1] else ends
        return rows.estimate(value, ends)

    return Routed(
        part=split.name,
        images=len(split),
        areas=split.areas,
        chosen=chosen,
        studies=found,
        called=called,
        confidence=chances.max(1),
        figures={name: estimate(name, name) for name in NAMES},
        recall={
            area: estimate(area, f"recall {part}")
            for part, area in enumerate(split.areas)
            if sizes[part]
        },
        image_accuracy=_by_image(logits_nk, split),
        confusion=pairs.sum(0).reshape(k, k).astype(np.int64),
    )


def _figures(confusion_bkk: Floats) -> dict[str, Floats]:
    """NAMES and each area's recall under each draw; areas that are not drawn are left out."""
    true, called = confusion_bkk.sum(2), confusion_bkk.sum(1)
    hits = np.diagonal(confusion_bkk, axis1=1, axis2=2)
    there = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / true
        f1 = 2 * hits / (true + called)
        found = {
            "accuracy": hits.sum(1) / true.sum(1),
            "balanced_accuracy": np.where(there, recall, 0).sum(1) / there.sum(1),
            "macro_f1": np.where(there, f1, 0).sum(1) / there.sum(1),
        }
    return found | {f"recall {part}": recall[:, part] for part in range(recall.shape[1])}


def _by_image(logits_nk: Tensor, split: Split) -> Estimate:
    """Accuracy of single views."""
    right = (logits_nk.argmax(1).cpu() == split.parts.cpu()).numpy().astype(np.float64)
    weights = cluster_weights(split.patients, DRAWS, 0)
    patients = len(np.unique(split.patients))
    value = float(right.mean())
    ends = interval(value, weights @ right / weights.sum(1), patients - 1)
    ends = exact(value, patients) if ends[0] == ends[1] else ends
    return Estimate(value, *ends, len(np.unique(split.studies)), patients, len(right))


def _temperature(found: Parts) -> float:
    """The temperature with the least cross-entropy of dev's studies, as if one more study among
    them had been missed: a few that happen to be all right do not make the router certain."""
    m, k = found.logits.shape
    missed = 1 / (m + 1)
    target = np.full((m, k), missed / max(1, k - 1))
    target[np.arange(m), found.parts] = 1 - missed
    centre, reach = 0.0, 4.0  # logarithms, on a grid that closes in
    for _ in range(10):
        grid = np.linspace(centre - reach, centre + reach, 17)
        losses = [-(target * np.log(softmax(found.logits, np.exp(t)) + 1e-300)).sum() for t in grid]
        centre, reach = float(grid[int(np.argmin(losses))]), reach / 4
    return float(np.exp(centre))
