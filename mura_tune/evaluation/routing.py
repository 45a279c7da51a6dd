"""A router: how sure it is of the area that a study shows, when it abstains, its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mura_tune.evaluation.decision import check_logits, describe_rest, measure_abstention
from mura_tune.evaluation.evaluate import SPLIT_NAMES
from mura_tune.evaluation.familiarity import describe_unfamiliar
from mura_tune.evaluation.split_uses import describe_uses, uses_to_json
from mura_tune.metrics.areas import AreaLogits, AreaRecognition, softmax
from mura_tune.metrics.estimates import Floats
from mura_tune.metrics.operating_points import answer_surest
from mura_tune.release_format.entries import ConfidenceEntry, RouterCalibrationEntry
from mura_tune.release_format.manifest import RouterManifest
from mura_tune.release_format.metrics_entries import AbstentionEntry, UnfamiliarEntry
from mura_tune.training.batches import Split
from mura_tune.training.tasks import recognise_areas, study_logits

ERROR = 0.01  # of the answers that remain on dev, at most
# The share of dev's studies from which a router abstains: at least _LEAST, even where every answer
# is right, so that a study that looks like nothing known is not answered; and at most _MOST.
_LEAST = 0.01
_MOST = 0.5


@dataclass(frozen=True)
class RouterDecision:
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
            f"{_LEAST:.0%} to {_MOST:.0%} of it below"
        )

    def probabilities(self, logits_mk: Floats) -> Floats:
        """Probabilities of the areas, (M, K), from the mean logits of each study's views.

        Raises InputError for one that is not a finite number.
        """
        check_logits(logits_mk)
        return softmax(logits_mk, self.temperature)

    def entries(self) -> dict[str, Any]:
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
    def from_manifest(manifest: RouterManifest) -> RouterDecision:
        """What a router's manifest stores."""
        abstain = manifest.abstain
        return RouterDecision(
            temperature=manifest.calibration.temperature,
            confidence=abstain.confidence,
            share=abstain.share,
            error=abstain.error,
            error_without=abstain.error_without,
        )


@dataclass(frozen=True, eq=False)
class RouterEvaluation:
    """A router on one split of a dataset.

    Attributes:
        split: a key of SPLIT_NAMES.
        images: how many there are.
        decision: temperature and least confidence, chosen on dev.
        recognition: how well the areas are told apart.
        confidence: of each study, in the area that is called, (M,).
        uses_before: how often these studies were measured before; None where that is not known.
        unfamiliar: studies that are refused; None from an older release, which refuses none.
    """

    split: str
    images: int
    decision: RouterDecision
    recognition: AreaRecognition
    confidence: Floats
    uses_before: int | None = None
    unfamiliar: UnfamiliarEntry | None = None

    def abstention(self) -> AbstentionEntry:
        """Studies below the confidence, and the error of the answers with and without them."""
        doubtful = self.confidence < self.decision.confidence
        return measure_abstention(doubtful, ~self.recognition.right)

    def describe(self) -> str:
        """The estimates as lines for people."""
        abstention, n = self.abstention(), len(self.confidence)
        notes = [describe_unfamiliar(self.unfamiliar), describe_uses(self.uses_before)]
        return "\n".join(
            [
                f"{SPLIT_NAMES[self.split]}, {n} studies, {self.images} images",
                *self.recognition.lines(),
                f"  {abstention.studies} studies below a confidence of "
                f"{self.decision.confidence:.3f}; {describe_rest(abstention, n)}",
                *(f"  {line}" for line in notes if line),
            ]
        )

    def brief(self) -> str:
        """Studies and accuracy in a line."""
        accuracy = self.recognition.scores["accuracy"].brief()
        return f"{len(self.confidence):>7}  accuracy {accuracy}"

    def to_json(self) -> dict[str, Any]:
        """The part of bundle.json that holds it."""
        return {
            "split": SPLIT_NAMES[self.split],
            "studies": len(self.confidence),
            "patients": len(np.unique(self.recognition.studies.patients)),
            "images": self.images,
            **self.recognition.to_json(),
            "abstain": self.abstention().to_json(),
            **({"unfamiliar": self.unfamiliar.to_json()} if self.unfamiliar else {}),
            **uses_to_json(self.uses_before),
        }


def choose_router_decision(logits_nk: Tensor, dev: Split) -> RouterDecision:
    """Fit the temperature on dev's studies, then choose the confidence on their probabilities."""
    studies = study_logits(logits_nk, dev)
    check_logits(studies.logits)
    temperature = _fit_temperature(studies)
    probabilities = softmax(studies.logits, temperature)
    confidence, wrong = probabilities.max(1), probabilities.argmax(1) != studies.areas
    order, n = answer_surest(confidence, wrong, error=ERROR, most=_MOST, least=_LEAST)
    threshold = confidence[order][n - 1]
    if n < len(order):  # halfway to the next, so that it is stable
        threshold = (threshold + confidence[order][n]) / 2
    return RouterDecision(
        temperature=temperature,
        confidence=float(threshold),
        share=1 - n / len(order),
        error=float(wrong[order][:n].mean()),
        error_without=float(wrong.mean()),
    )


def evaluate_router(logits_nk: Tensor, split: Split, decision: RouterDecision) -> RouterEvaluation:
    """An evaluation from the logits (N, K) of a split's views; `decision` was made on dev."""
    recognition = recognise_areas(logits_nk, split)
    confidence = decision.probabilities(recognition.studies.logits).max(1)
    return RouterEvaluation(split.name, len(split), decision, recognition, confidence)


def _fit_temperature(studies: AreaLogits) -> float:
    """The temperature with the least cross-entropy of dev's studies, as if one more study among
    them had been missed: a few that happen to be all right do not make the router certain."""
    m, k = studies.logits.shape
    missed = 1 / (m + 1)
    target = np.full((m, k), missed / max(1, k - 1))
    target[np.arange(m), studies.areas] = 1 - missed
    centre, reach = 0.0, 4.0  # logarithms, on a grid that closes in
    for _ in range(10):
        grid = np.linspace(centre - reach, centre + reach, 17)
        losses = [
            -(target * np.log(softmax(studies.logits, np.exp(t)) + 1e-300)).sum() for t in grid
        ]
        centre, reach = float(grid[int(np.argmin(losses))]), reach / 4
    return float(np.exp(centre))
