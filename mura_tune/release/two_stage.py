"""Evaluate two stages: the router names an area, and that area's release answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.evaluation.decision import Decision
from mura_tune.evaluation.evaluate import SPLIT_NAMES
from mura_tune.evaluation.familiarity import (
    describe_unfamiliar,
    estimate_unfamiliar,
    find_unfamiliar,
    predict_with_distances,
)
from mura_tune.evaluation.routing import RouterDecision
from mura_tune.evaluation.split_uses import describe_uses, uses_to_json
from mura_tune.metrics.comparison import compare_aucs
from mura_tune.metrics.estimates import Estimate, Floats, Names, StudyScores
from mura_tune.metrics.ranking import AUC
from mura_tune.release.release import Release, as_abnormality, as_router
from mura_tune.release_format.metrics_entries import UnfamiliarEntry
from mura_tune.training.batches import Split
from mura_tune.training.tasks import study_logits


@dataclass(frozen=True, eq=False)
class TwoStageEvaluation:
    """The cost of a routed area in place of the known area.

    Attributes:
        split: a key of SPLIT_NAMES.
        known, routed: study AUC over all areas, each study answered by the release of its area,
            and of the area that the router names.
        cost: routed minus known, on the same patients.
        answered: AUC of `routed` among the studies that are answered: the router is sure, and no
            release refuses them.
        wrong: studies that another release answers than that of their area; `abstained` of them
            and others.
        unfamiliar: studies that the router refuses, or, where it is sure, the release of the area
            that it names; None where neither it nor any release tells what is not like its
            training radiographs.
        fallbacks: lines on areas whose release is missing.
        uses_before: how often these studies were measured before; None where that is not known.
    """

    split: str
    known: Estimate
    routed: Estimate
    cost: Estimate
    answered: Estimate | None
    wrong: int
    abstained: int
    fallbacks: tuple[str, ...]
    uses_before: int | None = None
    unfamiliar: UnfamiliarEntry | None = None

    def describe(self) -> str:
        """The estimates as lines for people."""
        n, patients = self.known.studies, self.known.patients
        rest = n - self.abstained
        answered = self.answered.brief() if self.answered else "undefined"
        notes = [describe_unfamiliar(self.unfamiliar), describe_uses(self.uses_before)]
        return "\n".join(
            [
                *self.fallbacks,
                f"{SPLIT_NAMES[self.split]}, {n} studies of {patients} patients, all areas",
                f"  AUC, area known    {self.known.brief()}",
                f"  AUC, area routed   {self.routed.brief()}",
                f"  routed minus known {self.cost.signed()}, paired by patient",
                f"  {self.wrong} studies sent to another area's release",
                f"  {self.abstained} abstained from; AUC of the other {rest}: {answered}",
                *(f"  {line}" for line in notes if line),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "split": SPLIT_NAMES[self.split],
            "studies": self.known.studies,
            "known": self.known.to_json(),
            "routed": self.routed.to_json(),
            "cost": self.cost.to_json(),
            "answered": self.answered.to_json() if self.answered else None,
            "wrong": self.wrong,
            "abstained": self.abstained,
            "fallbacks": list(self.fallbacks),
            **({"unfamiliar": self.unfamiliar.to_json()} if self.unfamiliar else {}),
            **uses_to_json(self.uses_before),
        }


def evaluate_two_stages(
    router: Release,
    releases: Mapping[str, Release],
    fallbacks: tuple[str, ...],
    split_at: Callable[[int], Split],
) -> TwoStageEvaluation:
    """Evaluate router and releases on the test studies of every area.

    Args:
        releases: the release that answers for each area, by area.
        split_at: loads the test split of all areas, with so many pixels a side.
    """
    split = split_at(router.manifest.preprocessing.size)
    manifest = as_router(router)
    routing, areas = RouterDecision.from_manifest(manifest), manifest.areas
    logits, distances = predict_with_distances(router.net, split, router.familiarity)
    table = study_logits(logits, split)
    called = table.logits.argmax(1)
    unfamiliar = find_unfamiliar(distances, split, router.familiarity)
    sure = routing.probabilities(table.logits).max(1) >= routing.confidence
    known, routed = np.empty(len(called)), np.empty(len(called))
    answers = np.array([id(releases[area]) for area in areas])  # a pooled one for several areas
    for release in {id(release): release for release in releases.values()}.values():
        mine = answers == id(release)
        rows = mine[table.areas] | mine[called]
        scores, refused = _answer(release, split_at, table.names[rows])
        known[mine[table.areas]] = scores[mine[table.areas][rows]]
        routed[mine[called]] = scores[mine[called][rows]]
        unfamiliar[mine[called]] |= refused[mine[called][rows]] & sure[mine[called]]
    labels = _labels(split, table.names)
    tables = [
        StudyScores(table.names, table.patients, labels, scores) for scores in (known, routed)
    ]
    sure &= ~unfamiliar
    answered = StudyScores(table.names[sure], table.patients[sure], labels[sure], routed[sure])
    tells = any(one.familiarity is not None for one in (router, *releases.values()))
    return TwoStageEvaluation(
        split=split.name,
        known=AUC.estimate(tables[0]),
        routed=AUC.estimate(tables[1]),
        cost=compare_aucs([tables[1]], [tables[0]]),
        answered=AUC.estimate(answered) if len(np.unique(answered.labels)) == 2 else None,
        wrong=int((answers[called] != answers[table.areas]).sum()),
        abstained=int((~sure).sum()),
        fallbacks=fallbacks,
        unfamiliar=estimate_unfamiliar(unfamiliar, split) if tells else None,
    )


def _answer(
    release: Release, split_at: Callable[[int], Split], names: Names
) -> tuple[Floats, NDArray[np.bool_]]:
    """A release's probability of *abnormal* of each study, and whether it refuses the study, in the
    order of `names` (sorted)."""
    if not len(names):
        return np.empty(0), np.empty(0, dtype=bool)
    split = split_at(release.manifest.preprocessing.size)
    name_set = set(names)
    rows = np.flatnonzero([name in name_set for name in split.studies])
    subset = split.take(rows)
    calibration = Decision.from_manifest(as_abnormality(release)).calibration
    logits, distances = predict_with_distances(release.net, subset, release.familiarity)
    unfamiliar = find_unfamiliar(distances, subset, release.familiarity)
    return calibration.studies(logits, subset).scores, unfamiliar


def _labels(split: Split, names: Names) -> NDArray[np.int64]:
    """Each study's label, in the order of `names` (sorted and unique)."""
    unique_names, first = np.unique(split.studies, return_index=True)
    assert list(unique_names) == list(names)
    return np.asarray(split.labels.cpu().numpy()[first])
