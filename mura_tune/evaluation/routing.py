"""Which area a study shows: how sure a release is, when it abstains, and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mura_tune.evaluation.calibration import check_finite
from mura_tune.evaluation.evaluate import SPLIT_NAMES
from mura_tune.metrics.areas import AreaLogits, AreaRecognition, softmax
from mura_tune.metrics.estimates import Floats, describe_error
from mura_tune.release_format.entries import ConfidenceEntry, RouterCalibrationEntry
from mura_tune.release_format.manifest import RouterManifest
from mura_tune.release_format.schema import Entry
from mura_tune.training.batches import Split
from mura_tune.training.tasks import recognise_areas, study_logits

ERROR = 0.01  # of the answers on dev that may remain
LEAST = 0.01  # share of dev that abstains even where every answer is right: what looks like nothing
MOST = 0.5  # known, and never more than this share


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
        return (
            f"least confidence that leaves an error of {ERROR:.2f} or less on dev, with "
            f"{LEAST:.0%} to {MOST:.0%} of it below"
        )

    def confidences(self, logits_mk: Floats) -> Floats:
        """Probabilities of the areas, (M, K), from the mean logits of each study's views.

        Raises InputError for one that is not a finite number.
        """
        check_finite(logits_mk)
        return softmax(logits_mk, self.temperature)

    def entries(self) -> dict[str, Entry]:
        """The fields of a router's manifest that store it."""
        return {
            "calibration": RouterCalibrationEntry(
                temperature=self.temperature,
                order="mean of the views' logits, over temperature, softmax",
                fitted_on="dev",
            ),
            "abstain": ConfidenceEntry(
                confidence=self.confidence,
                share=self.share,
                error=self.error,
                error_without=self.error_without,
                rule=self.rule,
            ),
        }

    @staticmethod
    def from_manifest(manifest: RouterManifest) -> Routing:
        """What a router's manifest stores."""
        abstain = manifest.abstain
        return Routing(
            temperature=manifest.calibration.temperature,
            confidence=abstain.confidence,
            share=abstain.share,
            error=abstain.error,
            error_without=abstain.error_without,
        )


@dataclass(frozen=True, eq=False)
class Routed:
    """A router on one part of a dataset; `confidence` is each study's, of the area called."""

    part: str
    images: int
    chosen: Routing
    seen: AreaRecognition
    confidence: Floats

    def abstention(self) -> dict[str, Any]:
        """Studies below the confidence, and the error of the answers with and without them."""
        sure = self.confidence >= self.chosen.confidence
        wrong = ~self.seen.right
        return {
            "studies": int((~sure).sum()),
            "error": float(wrong[sure].mean()) if sure.any() else None,
            "error_without": float(wrong.mean()),
        }

    def describe(self) -> str:
        """The figures as lines for people."""
        told = self.abstention()
        n, answered = len(self.seen.studies.called), "none is answered"
        if told["error"] is not None:
            answered = f"of the others {describe_error(told['error'], n - told['studies'])}"
        return "\n".join(
            [
                f"{SPLIT_NAMES[self.part]}, {n} studies, {self.images} images",
                *self.seen.lines(),
                f"  {told['studies']} studies below a confidence of "
                f"{self.chosen.confidence:.3f}; {answered}",
            ]
        )

    def brief(self) -> str:
        """Studies and accuracy in a line."""
        return (
            f"{len(self.seen.studies.called):>7}  accuracy {self.seen.scores['accuracy'].brief()}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "split": SPLIT_NAMES[self.part],
            "studies": len(self.seen.studies.called),
            "patients": len(np.unique(self.seen.studies.patients)),
            "images": self.images,
            **self.seen.to_json(),
            "abstain": self.abstention(),
        }


def choose(logits_nk: Tensor, dev: Split) -> Routing:
    """Fit the temperature on dev's studies, then the confidence on what it gives."""
    found = study_logits(logits_nk, dev)
    check_finite(found.logits)
    temperature = _temperature(found)
    chances = softmax(found.logits, temperature)
    confidence, right = chances.max(1), chances.argmax(1) == found.areas
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
        temperature=temperature,
        confidence=float(least),
        share=1 - (keep + 1) / n,
        error=float(error[keep]),
        error_without=float((~right).mean()),
    )


def measured(logits_nk: Tensor, split: Split, chosen: Routing) -> Routed:
    """Figures from logits (N, K), each with its interval from resampling whole patients."""
    seen = recognise_areas(logits_nk, split)
    confidence = chosen.confidences(seen.studies.logits).max(1)
    return Routed(split.name, len(split), chosen, seen, confidence)


def _temperature(found: AreaLogits) -> float:
    """The temperature with the least cross-entropy of dev's studies, as if one more study among
    them had been missed: a few that happen to be all right do not make the router certain."""
    m, k = found.logits.shape
    missed = 1 / (m + 1)
    target = np.full((m, k), missed / max(1, k - 1))
    target[np.arange(m), found.areas] = 1 - missed
    centre, reach = 0.0, 4.0  # logarithms, on a grid that closes in
    for _ in range(10):
        grid = np.linspace(centre - reach, centre + reach, 17)
        losses = [-(target * np.log(softmax(found.logits, np.exp(t)) + 1e-300)).sum() for t in grid]
        centre, reach = float(grid[int(np.argmin(losses))]), reach / 4
    return float(np.exp(centre))
