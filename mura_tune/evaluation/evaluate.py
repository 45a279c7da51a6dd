"""A release measured on the published `valid` studies: the only reader of that split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.evaluation.calibration import Calibration, Chosen
from mura_tune.metrics.areas import AreaRecognition
from mura_tune.metrics.calibration_error import (
    estimate_brier,
    estimate_calibration_error,
    reliability_bins,
)
from mura_tune.metrics.estimates import Estimate, StudyScores, ViewScores, describe_error
from mura_tune.metrics.operating_points import THRESHOLD_METRICS, count_calls, estimate_at_threshold
from mura_tune.metrics.ranking import estimate_auc, estimate_average_precision
from mura_tune.release_format.entries import DataEntry
from mura_tune.training.batches import Split

if TYPE_CHECKING:  # inference names the parts, and needs no table of studies
    from mura_tune.data.prepare import Prepared

SPLIT_NAMES = {
    "dev": "dev (patients held out of train)",
    "test": "test (published valid)",
    "external": "external set (a study is a picture with its copies)",
}
NAMES = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "accuracy": "Accuracy",
    "f1": "F1",
    "kappa": "Cohen's kappa",
}


@dataclass(frozen=True, eq=False)
class Measured:
    """One network on one part of a dataset.

    Attributes:
        studies, views: calibrated scores.
        raw: the same studies without calibration.
        figures: NAMES at study level, at the recommended operating point.
        image_figures: the same where every image is judged by itself.
        points: FIGURES at study level at each operating point.
        calibration: `before` and `after`, each with `ece` and `brier`.
        areas: AUC of each area that has both classes, where there are several.
        seen: how often the body part is recognised, where that is a second task.
    """

    part: str
    images: int
    chosen: Chosen
    studies: StudyScores
    views: ViewScores
    raw: StudyScores
    figures: Mapping[str, Estimate]
    image_figures: Mapping[str, Estimate]
    points: Mapping[str, Mapping[str, Estimate]]
    calibration: Mapping[str, Mapping[str, Estimate]]
    areas: Mapping[str, Estimate]
    seen: AreaRecognition | None = None

    def describe(self) -> str:
        """The figures as lines for people."""
        head = f"{SPLIT_NAMES[self.part]}, {len(self.studies.labels)} studies, {self.images} images"
        head += f"; abnormal from {self.chosen.threshold:.3f} on ({self.chosen.recommended})"
        columns = f"  {'':<18} {'by study':<22} by image"
        rows = (
            f"  {NAMES[name]:<18} {estimate.brief():<22} {self.image_figures[name].brief()}"
            for name, estimate in self.figures.items()
        )
        before, after = self.calibration["before"], self.calibration["after"]
        errors = (
            f"  {name:<18} {after[key].brief():<22} (before calibration {before[key].brief()})"
            for key, name in (("ece", "Calibration error"), ("brier", "Brier score"))
        )
        areas = (f"  {'AUC, ' + area:<18} {auc}" for area, auc in self.areas.items())
        told = [head, columns, *rows, *errors, *areas, self._doubt()]
        if self.seen:
            told += ["  the body part, its second task, by study", *self.seen.lines()]
        return "\n".join(told)

    def brief(self) -> str:
        """Studies, AUC and kappa in a line, as a table of releases has them."""
        auc, kappa = (self.figures[key].brief() for key in ("auc", "kappa"))
        return f"{len(self.studies.labels):>7}  {auc}  {kappa}"

    def _doubt(self) -> str:
        told = self.abstention()
        if not told["studies"]:
            return "  no study falls into the band of doubt"
        answered = "none is answered"
        if told["error"] is not None:
            rest = len(self.studies.labels) - told["studies"]
            answered = f"of the others {describe_error(told['error'], rest)}"
        return f"  {told['studies']} studies in the band of doubt; {answered}"

    def abstention(self) -> dict[str, Any]:
        """Studies inside the band, and the error of the answers with and without it."""
        band, scores = self.chosen.band, self.studies.scores
        inside = (scores >= band.low) & (scores < band.high)
        wrong = (scores >= self.chosen.threshold) != (self.studies.labels == 1)
        return {
            "studies": int(inside.sum()),
            "error": float(wrong[~inside].mean()) if not inside.all() else None,
            "error_without": float(wrong.mean()),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "split": SPLIT_NAMES[self.part],
            "studies": len(self.studies.labels),
            "patients": self.studies.count_patients(),
            "images": self.images,
            "abnormal": int(self.studies.labels.sum()),
            "threshold": self.chosen.threshold,
            **_plain(self.figures),
            "confusion": count_calls(self.studies, self.chosen.threshold),
            "by_image": _plain(self.image_figures),
            "operating_points": {
                name: {"threshold": self.chosen.points[name], **_plain(figures)}
                for name, figures in self.points.items()
            },
            "calibration": {when: _plain(errors) for when, errors in self.calibration.items()},
            "reliability": [asdict(one) for one in reliability_bins(self.studies)],
            "abstain": self.abstention(),
            "auc_by_area": _plain(self.areas),
            **({"body_part": self.seen.to_json()} if self.seen else {}),
        }


def measured(logits_nk: Tensor, split: Split, chosen: Chosen) -> Measured:
    """Figures from logits (N, K), each with its interval, by study and by image.

    Args:
        chosen: calibration and thresholds; chosen on dev, never here.
    """
    studies = chosen.calibration.studies(logits_nk, split)
    views = chosen.calibration.views(logits_nk, split)
    raw = Calibration().studies(logits_nk, split)
    points = {name: estimate_at_threshold(studies, cut) for name, cut in chosen.points.items()}
    return Measured(
        part=split.name,
        images=len(split),
        chosen=chosen,
        studies=studies,
        views=views,
        raw=raw,
        figures=_figures(studies, points[chosen.recommended]),
        image_figures=_figures(views, estimate_at_threshold(views, chosen.threshold)),
        points=points,
        calibration={
            when: {"ece": estimate_calibration_error(rows), "brier": estimate_brier(rows)}
            for when, rows in (("before", raw), ("after", studies))
        },
        areas=_by_area(studies, split),
    )


def same_data(release: Path, data: DataEntry, prepared: Prepared) -> None:
    """Refuse data on which a release's figures could be measured on patients it learned from.

    Raises:
        InputError: the fingerprint or the split is not the one the release was made with.
    """
    for key, then, now in (
        ("fingerprint", data.fingerprint, prepared.fingerprint),
        ("split_hash", data.split_hash, prepared.split_hash),
    ):
        if then != now:
            way_out = "point --data at the dataset that it was trained on"
            if key == "split_hash" and prepared.near_copies:
                way_out += (
                    f", or, if it is older than the rule that leaves {len(prepared.near_copies)} "
                    "near-copies out of training, tune and finalize again"
                )
            raise InputError(
                f"{release}: the data's {key} is {now[:12]}…, and the release was made "
                f"with {then[:12]}…; {way_out}"
            )


def _by_area(studies: StudyScores, split: Split) -> dict[str, Estimate]:
    """AUC within each of several areas: that over all of them also says which area is abnormal
    more often."""
    if len(split.areas) < 2:
        return {}
    _, first = np.unique(split.studies, return_index=True)
    parts = split.area_labels.cpu().numpy()[first]
    found = {}
    for number, area in enumerate(split.areas):
        mine = parts == number
        columns = (studies.names, studies.patients, studies.labels, studies.scores)
        own = StudyScores(*(column[mine] for column in columns))
        if len(np.unique(own.labels)) == 2:
            found[area] = estimate_auc(own)
    return found


def _figures(rows: StudyScores, at_point: Mapping[str, Estimate]) -> dict[str, Estimate]:
    ranked = {"auc": estimate_auc(rows), "average_precision": estimate_average_precision(rows)}
    return ranked | {name: at_point[name] for name in THRESHOLD_METRICS}


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}
