"""An evaluation: what an abnormality release is worth on one split, by study and by image.

The published `valid` studies are the test split, or, where none are published, patients that are
held out whatever the seed; no other module measures a release there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.evaluation.decision import (
    Decision,
    describe_rest,
    measure_abstention,
)
from mura_tune.evaluation.familiarity import describe_unfamiliar
from mura_tune.evaluation.split_uses import describe_uses, uses_to_json
from mura_tune.evaluation.supplement import measure_supplement
from mura_tune.metrics.areas import AreaRecognition
from mura_tune.metrics.calibration_error import (
    CalibrationError,
    estimate_brier,
    measure_calibration_error,
    reliability_bins,
)
from mura_tune.metrics.estimates import Estimate, Names, StudyScores, ViewScores, describe_error
from mura_tune.metrics.operating_points import (
    METRIC_NAMES,
    count_calls,
    estimate_at_threshold,
    estimate_metrics,
)
from mura_tune.metrics.ranking import estimate_auc
from mura_tune.release_format.entries import DataEntry
from mura_tune.release_format.metrics_entries import (
    HELD_OUT_TEST,
    PUBLISHED_TEST,
    AbstentionEntry,
    UnfamiliarEntry,
)
from mura_tune.release_format.supplement import SupplementEntry
from mura_tune.training.batches import Split, load_split

if TYPE_CHECKING:  # inference imports this module, and does without pandas
    from mura_tune.data.prepare import Prepared
    from mura_tune.evaluation.corrections import CorrectedScores
    from mura_tune.evaluation.subgroups import Subgroups

SPLIT_NAMES = {
    "dev": "dev (patients held out of train)",
    "folds": "dev (every patient of train and dev, by the fold that held the patient out)",
    "test": PUBLISHED_TEST,
    "held-out test": HELD_OUT_TEST,
    "external": "external set (a study is a picture with its copies)",
}


@dataclass(frozen=True)
class ProbabilityErrors:
    """How far a study's probability is from its label: over bins, and as a mean square."""

    ece: CalibrationError
    brier: Estimate


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One network on one split of a dataset.

    Attributes:
        split: a key of SPLIT_NAMES.
        images: how many there are.
        decision: calibration, operating points and band of doubt, chosen on dev.
        studies, views: calibrated scores.
        uncalibrated: the same studies without calibration.
        by_study: METRIC_NAMES at study level, at the recommended operating point.
        by_image: the same where every image is judged by itself.
        at_points: THRESHOLD_METRICS at study level at each operating point.
        calibration_errors: `before` and `after` calibration.
        study_areas: the name of each study's area, (M,).
        auc_by_area: of each area that has both classes, where there are several areas.
        recognition: how often the area is recognised, where that is a second task.
        uses_before: how often these studies were measured before; None where that is not known.
        unfamiliar: studies that are refused; None from an older release, which refuses none.
        subgroups: by column, where groups were asked for.
        corrected: the same by corrected labels, where these were given.
    """

    split: str
    images: int
    decision: Decision
    studies: StudyScores
    views: ViewScores
    uncalibrated: StudyScores
    by_study: Mapping[str, Estimate]
    by_image: Mapping[str, Estimate]
    at_points: Mapping[str, Mapping[str, Estimate]]
    calibration_errors: Mapping[str, ProbabilityErrors]
    study_areas: Names
    auc_by_area: Mapping[str, Estimate]
    recognition: AreaRecognition | None = None
    uses_before: int | None = None
    unfamiliar: UnfamiliarEntry | None = None
    subgroups: tuple[Subgroups, ...] = ()
    corrected: CorrectedScores | None = None

    @functools.cached_property
    def supplement(self) -> SupplementEntry:
        """What a report shows beside the scores."""
        _, views_m = np.unique(self.views.names, return_counts=True)
        decision = self.decision
        return measure_supplement(
            self.studies, views_m, self.study_areas, decision.points, decision.threshold
        )

    def describe(self) -> str:
        """The estimates as lines for people."""
        head = f"{SPLIT_NAMES[self.split]}, {len(self.studies.labels)} studies, "
        head += f"{self.images} images; abnormal from {self.decision.threshold:.3f} on "
        head += f"({self.decision.recommended})"
        columns = f"  {'':<18} {'by study':<22} by image"
        rows = (
            f"  {METRIC_NAMES[name]:<18} {estimate.brief():<22} {self.by_image[name].brief()}"
            for name, estimate in self.by_study.items()
        )
        before, after = self.calibration_errors["before"], self.calibration_errors["after"]
        slope = self.supplement.recalibration
        errors = (
            f"  {'Calibration slope':<18} {slope.slope.brief()}; intercept "
            f"{slope.intercept.brief()}",
            f"  {'Calibration error':<18} {after.ece.brief()}; before calibration "
            f"{before.ece.value:.3f}",
            f"  {'Brier score':<18} {after.brier.brief():<22} (before calibration "
            f"{before.brier.brief()})",
        )
        areas = (f"  {'AUC, ' + area:<18} {auc}" for area, auc in self.auc_by_area.items())
        lines = [head, columns, *rows, *errors, *areas, self._describe_doubt()]
        notes = [describe_unfamiliar(self.unfamiliar), describe_uses(self.uses_before)]
        lines += [f"  {line}" for line in notes if line]
        if self.recognition:
            lines += ["  the body part, its second task, by study", *self.recognition.lines()]
        for subgroups in self.subgroups:
            lines += subgroups.lines()
        if self.corrected:
            lines += self.corrected.lines(self.by_study)
        return "\n".join(lines)

    def brief(self) -> str:
        """Studies, AUC and kappa in a line, as a table of releases has them."""
        auc, kappa = (self.by_study[key].brief() for key in ("auc", "kappa"))
        return f"{len(self.studies.labels):>7}  {auc}  {kappa}"

    def _describe_doubt(self) -> str:
        abstention, n = self.abstention(), len(self.studies.labels)
        if not abstention.studies:
            error = describe_error(abstention.error_without, n)
            return f"  no study falls into the band of doubt; {error}"
        rest = describe_rest(abstention, n)
        return f"  {abstention.studies} studies in the band of doubt; {rest}"

    def abstention(self) -> AbstentionEntry:
        """Studies inside the band, and the error of the answers with and without it."""
        band, scores = self.decision.band, self.studies.scores
        inside = (scores >= band.low) & (scores < band.high)
        wrong = (scores >= self.decision.threshold) != (self.studies.labels == 1)
        return measure_abstention(inside, wrong)

    def to_json(self) -> dict[str, Any]:
        """The part of bundle.json that holds it."""
        return {
            "split": SPLIT_NAMES[self.split],
            "studies": len(self.studies.labels),
            "patients": self.studies.count_patients(),
            "images": self.images,
            "abnormal": int(self.studies.labels.sum()),
            "threshold": self.decision.threshold,
            **_to_json(self.by_study),
            "confusion": count_calls(self.studies, self.decision.threshold),
            "by_image": _to_json(self.by_image),
            "operating_points": {
                name: {"threshold": self.decision.points[name], **_to_json(estimates)}
                for name, estimates in self.at_points.items()
            },
            "calibration": {
                when: {"ece": errors.ece.to_json(), "brier": errors.brier.to_json()}
                for when, errors in self.calibration_errors.items()
            },
            "reliability": [asdict(each) for each in reliability_bins(self.studies)],
            "abstain": self.abstention().to_json(),
            "auc_by_area": _to_json(self.auc_by_area),
            "supplement": self.supplement.to_json(),
            **({"body_part": self.recognition.to_json()} if self.recognition else {}),
            **({"unfamiliar": self.unfamiliar.to_json()} if self.unfamiliar else {}),
            **uses_to_json(self.uses_before),
            **self._further_to_json(),
        }

    def _further_to_json(self) -> dict[str, Any]:
        """What was asked for beside the scores; no manifest holds it."""
        further: dict[str, Any] = {}
        if self.subgroups:
            further["subgroups"] = [subgroups.to_json() for subgroups in self.subgroups]
        if self.corrected:
            further["corrections"] = self.corrected.to_json()
        return further


def evaluate_logits(logits_nk: Tensor, split: Split, decision: Decision) -> Evaluation:
    """An evaluation from the logits (N, K) of a split's views.

    Args:
        decision: calibration and thresholds; chosen on dev, never here.
    """
    studies = decision.calibration.studies(logits_nk, split)
    views = decision.calibration.views(logits_nk, split)
    uncalibrated = decision.calibration.undone().studies(logits_nk, split)
    study_areas = _name_areas(split)
    at_points = {
        name: estimate_at_threshold(studies, threshold)
        for name, threshold in decision.points.items()
    }
    return Evaluation(
        split=split.name,
        images=len(split),
        decision=decision,
        studies=studies,
        views=views,
        uncalibrated=uncalibrated,
        by_study=estimate_metrics(studies, at_points[decision.recommended]),
        by_image=estimate_metrics(views, estimate_at_threshold(views, decision.threshold)),
        at_points=at_points,
        calibration_errors={
            when: ProbabilityErrors(measure_calibration_error(rows), estimate_brier(rows))
            for when, rows in (("before", uncalibrated), ("after", studies))
        },
        study_areas=study_areas,
        auc_by_area=_estimate_by_area(studies, study_areas),
    )


def load_test(prepared: Prepared, device: torch.device) -> Split:
    """The test split of a prepared area, named as SPLIT_NAMES has it."""
    is_published = (prepared.frame["published"] == "valid").any()
    split = load_split(prepared, "test", device)
    return split if is_published else replace(split, name="held-out test")


def check_same_data(release: Path, data: DataEntry, prepared: Prepared) -> None:
    """Refuse data on which a release could be measured on patients that it learned from.

    Raises:
        InputError: the fingerprint or the split is not the one the release was made with.
    """
    for key, then, now in (
        ("fingerprint", data.fingerprint, prepared.fingerprint),
        ("split_hash", data.split_hash, prepared.split_hash),
    ):
        if then != now:
            way_out = "point --data at the dataset that it was trained on"
            if key == "fingerprint":
                way_out += "; studies of another place are measured with --layout folders"
            if key == "split_hash" and prepared.near_copies:
                way_out += (
                    f", or, if it is older than the rule that leaves {len(prepared.near_copies)} "
                    "near-copies out of training, tune and finalize again"
                )
            raise InputError(
                f"{release}: the data's {key} is {now[:12]}…, and the release was made "
                f"with {then[:12]}…; {way_out}"
            )


def _name_areas(split: Split) -> Names:
    """The name of each study's area, in the order of the studies' names, (M,)."""
    _, first = np.unique(split.studies, return_index=True)
    if not split.areas:
        return np.full(len(first), "", dtype=object)
    names: Names = np.array(split.areas, dtype=object)
    return np.asarray(names[split.area_labels.cpu().numpy()[first]])


def _estimate_by_area(studies: StudyScores, areas_m: Names) -> dict[str, Estimate]:
    """AUC within each of several areas: that over all of them also says which area is abnormal
    more often."""
    areas = np.unique(areas_m)
    estimates = {}
    for area in areas if len(areas) > 1 else ():
        own = studies.take(areas_m == area)
        if len(np.unique(own.labels)) == 2:
            estimates[str(area)] = estimate_auc(own)
    return estimates


def _to_json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}
