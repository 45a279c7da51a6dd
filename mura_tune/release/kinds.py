"""The kinds of release: what answers normal or abnormal, with an area, or with both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mura_tune.data.prepare import Prepared
from mura_tune.evaluation import calibration, evaluate, routing
from mura_tune.evaluation.compare import Comparison, compare_releases, compare_routers
from mura_tune.metrics.estimates import StudyScores
from mura_tune.networks.network import Model
from mura_tune.release.release import Release, as_abnormality, as_router
from mura_tune.release_format.entries import (
    AbnormalityMetricsEntry,
    MetricsEntry,
    MultitaskMetricsEntry,
    RouterMetricsEntry,
)
from mura_tune.release_format.manifest import (
    AbnormalityManifest,
    Manifest,
    MultitaskManifest,
    RouterManifest,
)
from mura_tune.report.abnormality import render_card, render_report
from mura_tune.report.router import render_router_card, render_router_report
from mura_tune.training.batches import Split, load_split
from mura_tune.training.fit import predict
from mura_tune.training.tasks import MULTITASK, PART, recognise_areas, routed_right

Figures = evaluate.Evaluation | routing.RouterEvaluation


@dataclass(frozen=True)
class Kind:
    """How a release decides, is measured, and is told of.

    Attributes:
        output: what a logit is, in words.
        choose: from dev's logits (N, K), all that is chosen there.
        stored: the same from a release.
        manifest, metrics: the classes of its manifest and of the metrics there.
        measured: from logits, their split and what was chosen, its figures.
        studies: from what was chosen, logits and their split, what the task's measure is taken of.
        card, report: the texts MODEL_CARD.md and report.html.
        compare: from areas, two folders and the figures of each, what differs.
    """

    output: str
    choose: Callable[[Tensor, Split], Any]
    stored: Callable[[Release], Any]
    manifest: Callable[..., Manifest]
    metrics: type[MetricsEntry]
    measured: Callable[[Tensor, Split, Any], Figures]
    studies: Callable[[Any, Tensor, Split], StudyScores]
    card: Callable[[Any], str]
    report: Callable[..., str]
    compare: Callable[..., Comparison]

    def rows(self, on_dev: Tensor, dev: Split, logits_nk: Tensor, split: Split) -> StudyScores:
        """What the measure is taken of, calibrated by the same network's logits on dev."""
        return self.studies(self.choose(on_dev, dev), logits_nk, split)

    def measure(self, net: Model, prepared: Prepared, part: str, chosen: Any) -> Figures:
        """Figures of a network on `dev` or `test`; `chosen` on dev, never here."""
        split = load_split(prepared, part, next(net.parameters()).device)
        return self.measured(predict(net, split), split, chosen)


BINARY = Kind(
    output="logit of one view, uncalibrated; see calibration for a study's probability",
    choose=calibration.choose_decision,
    stored=lambda release: calibration.Decision.from_manifest(as_abnormality(release)),
    manifest=AbnormalityManifest,
    metrics=AbnormalityMetricsEntry,
    measured=evaluate.evaluate_logits,
    studies=lambda chosen, logits, split: chosen.calibration.studies(logits, split),
    card=render_card,
    report=render_report,
    compare=compare_releases,
)
BOTH = replace(
    BINARY,
    manifest=MultitaskManifest,
    metrics=MultitaskMetricsEntry,
    output="logit of abnormal as another release's, then a logit an area, in the order of areas",
    measured=lambda logits, split, chosen: replace(
        evaluate.evaluate_logits(logits, split, chosen),
        recognition=recognise_areas(logits[:, 1:], split),
    ),
)
ROUTING = Kind(
    output="a logit an area of one view, in the order of areas; see calibration for a study's",
    choose=routing.choose_router_decision,
    stored=lambda release: routing.RouterDecision.from_manifest(as_router(release)),
    manifest=RouterManifest,
    metrics=RouterMetricsEntry,
    measured=routing.evaluate_router,
    studies=lambda chosen, logits, split: routed_right(logits, split),
    card=render_router_card,
    report=render_router_report,
    compare=compare_routers,
)


def kind_of(task: str) -> Kind:
    """The kind of the releases of a task."""
    return {PART.name: ROUTING, MULTITASK.name: BOTH}.get(task, BINARY)
