"""The releases of each task: how they decide, are evaluated, compared, exported and shown.

`training.tasks` has the other half: what a network of each task learns. Other modules call
`release_task`, and never compare the name of a task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from mura_tune.data.prepare import Prepared
from mura_tune.evaluation.compare import Comparison, compare_releases, compare_routers
from mura_tune.evaluation.decision import Decision, average_split, choose_decision
from mura_tune.evaluation.evaluate import Evaluation, evaluate_logits, load_test
from mura_tune.evaluation.familiarity import (
    FamiliarityRule,
    count_unfamiliar,
    predict_with_distances,
)
from mura_tune.evaluation.routing import (
    RouterDecision,
    RouterEvaluation,
    choose_router_decision,
    evaluate_router,
)
from mura_tune.metrics.estimates import StudyScores
from mura_tune.networks.network import Model
from mura_tune.release.release import Release, as_abnormality, as_router
from mura_tune.release_format.entries import MEAN_OF_SIGMOIDS
from mura_tune.release_format.manifest import (
    AbnormalityManifest,
    Manifest,
    MultitaskManifest,
    RouterManifest,
)
from mura_tune.release_format.metrics_entries import (
    AbnormalityMetricsEntry,
    MultitaskMetricsEntry,
    RouterMetricsEntry,
)
from mura_tune.report.abnormality import render_card, render_report
from mura_tune.report.router import render_router_card, render_router_report
from mura_tune.training.batches import Split
from mura_tune.training.tasks import (
    ABNORMALITY_TASK,
    MULTI_TASK,
    ROUTER_TASK,
    Task,
    recognise_areas,
    score_recognition,
)

ManifestT = TypeVar("ManifestT", bound=Manifest)
DecisionT = TypeVar("DecisionT", Decision, RouterDecision)
EvaluationT = TypeVar("EvaluationT", Evaluation, RouterEvaluation)
Answer = Callable[[Tensor], Tensor]  # from calibrated logits (N, K)


class ReleaseTask(ABC, Generic[ManifestT, DecisionT, EvaluationT]):
    """The releases of one task.

    Attributes:
        task: the task that the network learned.
        output: the meaning of a logit, in words.
    """

    task: ClassVar[Task]
    output: ClassVar[str]

    @abstractmethod
    def choose_decision(self, logits_nk: Tensor, dev: Split) -> DecisionT:
        """Choose the decision of a release on dev."""

    @abstractmethod
    def read_decision(self, release: Release) -> DecisionT:
        """The decision that a release stores. Raises InputError for a release of another task."""

    @abstractmethod
    def evaluate(self, logits_nk: Tensor, split: Split, decision: DecisionT) -> EvaluationT:
        """Evaluate logits of a split's views; the decision was chosen on dev, never here."""

    @abstractmethod
    def tabulate(self, decision: DecisionT, logits_nk: Tensor, split: Split) -> StudyScores:
        """The scores of the studies, as the task's measure takes them."""

    @abstractmethod
    def make_manifest(
        self, decision: DecisionT, dev: EvaluationT, test: EvaluationT, **fields: Any
    ) -> ManifestT:
        """Make the manifest of a new release; `fields` are the fields that every task has."""

    @abstractmethod
    def render_card(self, manifest: ManifestT) -> str:
        """The text of MODEL_CARD.md."""

    @abstractmethod
    def render_report(
        self,
        net: Model,
        manifest: ManifestT,
        prepared: Prepared,
        *,
        test: EvaluationT,
        cases: int = 6,
    ) -> str:
        """The text of report.html, with `cases` radiographs of each kind of error."""

    @abstractmethod
    def compare(
        self, area: str, names: tuple[str, str], ours: EvaluationT, theirs: EvaluationT
    ) -> Comparison:
        """The differences of two releases, evaluated on the same split.

        Raises:
            InputError: they were not evaluated on the same studies.
        """

    @abstractmethod
    def read_calibration(self, release: Release) -> tuple[float, float]:
        """The temperature, and the offset that is added to a logit before the division."""

    @abstractmethod
    def export_decision(self, release: Release) -> dict[str, Any]:
        """The decision as plain values that travel beside exported weights."""

    @abstractmethod
    def onnx_outputs(self, release: Release) -> Mapping[str, Answer]:
        """The outputs of an exported network by name, from calibrated logits (N, K)."""

    @abstractmethod
    def describe_outputs(self, release: Release) -> str:
        """The meaning of the exported outputs, in words."""

    def tabulate_calibrated(
        self, on_dev: Tensor, dev: Split, logits_nk: Tensor, split: Split
    ) -> StudyScores:
        """The same as `tabulate`, with a decision chosen from the network's logits on dev."""
        return self.tabulate(self.choose_decision(on_dev, dev), logits_nk, split)

    def evaluate_network(
        self,
        net: Model,
        prepared: Prepared,
        decision: DecisionT,
        familiarity: FamiliarityRule | None,
    ) -> EvaluationT:
        """Evaluate a network on test."""
        split = load_test(prepared, next(net.parameters()).device)
        logits, distances = predict_with_distances(net, split, familiarity)
        evaluation = self.evaluate(logits, split, decision)
        return replace(evaluation, unfamiliar=count_unfamiliar(distances, split, familiarity))

    def evaluate_release(self, release: Release, prepared: Prepared) -> EvaluationT:
        """Evaluate a release on test, by the decision that it stores."""
        decision = self.read_decision(release)
        return self.evaluate_network(release.net, prepared, decision, release.familiarity)

    def is_comparable(self, other: AnyReleaseTask) -> bool:
        """Whether releases of both tasks are measured by the same metrics."""
        return type(self).compare is type(other).compare


class AbnormalityReleases(ReleaseTask[AbnormalityManifest, Decision, Evaluation]):
    """Releases that answer normal or abnormal."""

    task = ABNORMALITY_TASK
    output = "logit of one view, uncalibrated; see calibration for a study's probability"

    def choose_decision(self, logits_nk: Tensor, dev: Split) -> Decision:
        return choose_decision(average_split(logits_nk, dev))

    def read_decision(self, release: Release) -> Decision:
        return Decision.from_manifest(as_abnormality(release))

    def evaluate(self, logits_nk: Tensor, split: Split, decision: Decision) -> Evaluation:
        return evaluate_logits(logits_nk, split, decision)

    def tabulate(self, decision: Decision, logits_nk: Tensor, split: Split) -> StudyScores:
        return decision.calibration.studies(logits_nk, split)

    def make_manifest(
        self, decision: Decision, dev: Evaluation, test: Evaluation, **fields: Any
    ) -> AbnormalityManifest:
        both = {"dev": dev.to_json(), "test": test.to_json()}
        metrics = AbnormalityMetricsEntry.parse(both)
        return AbnormalityManifest(**fields, **decision.entries(), metrics=metrics)

    def render_card(self, manifest: AbnormalityManifest) -> str:
        return render_card(manifest)

    def render_report(
        self,
        net: Model,
        manifest: AbnormalityManifest,
        prepared: Prepared,
        *,
        test: Evaluation,
        cases: int = 6,
    ) -> str:
        return render_report(net, manifest, prepared, test=test, cases=cases)

    def compare(
        self, area: str, names: tuple[str, str], ours: Evaluation, theirs: Evaluation
    ) -> Comparison:
        return compare_releases(area, names, ours, theirs)

    def read_calibration(self, release: Release) -> tuple[float, float]:
        calibration = as_abnormality(release).calibration
        return calibration.temperature, calibration.offset

    def export_decision(self, release: Release) -> dict[str, Any]:
        manifest = as_abnormality(release)
        decision: dict[str, Any] = {"threshold": manifest.operating_point.threshold}
        if manifest.calibration.has("aggregation"):  # older releases export what they did
            decision["aggregation"] = manifest.calibration.aggregation
        return decision

    def onnx_outputs(self, release: Release) -> Mapping[str, Answer]:
        if as_abnormality(release).calibration.aggregation == MEAN_OF_SIGMOIDS:
            return {"probability": _probability}
        return {"probability": _probability, "logit": _logit}

    def describe_outputs(self, release: Release) -> str:
        if as_abnormality(release).calibration.aggregation == MEAN_OF_SIGMOIDS:
            return "sigmoid, then the mean over a study's views"
        return "the mean over a study's views, then the sigmoid"


class MultitaskReleases(AbnormalityReleases):
    """Releases that answer normal or abnormal, and with an area."""

    task = MULTI_TASK
    output = "logit of abnormal as another release's, then a logit an area, in the order of areas"

    def evaluate(self, logits_nk: Tensor, split: Split, decision: Decision) -> Evaluation:
        evaluation = super().evaluate(logits_nk, split, decision)
        return replace(evaluation, recognition=recognise_areas(logits_nk[:, 1:], split))

    def make_manifest(
        self, decision: Decision, dev: Evaluation, test: Evaluation, **fields: Any
    ) -> MultitaskManifest:
        both = {"dev": dev.to_json(), "test": test.to_json()}
        metrics = MultitaskMetricsEntry.parse(both)
        return MultitaskManifest(**fields, **decision.entries(), metrics=metrics)

    def onnx_outputs(self, release: Release) -> Mapping[str, Answer]:
        return {**super().onnx_outputs(release), "areas": lambda logits_nk: logits_nk[:, 1:]}

    def describe_outputs(self, release: Release) -> str:
        areas = ", ".join(release.manifest.areas)
        own = super().describe_outputs(release)
        return f"of the first output {own}; softmax of the others over {areas}"


class RouterReleases(ReleaseTask[RouterManifest, RouterDecision, RouterEvaluation]):
    """Releases that answer with an area."""

    task = ROUTER_TASK
    output = "a logit an area of one view, in the order of areas; see calibration for a study's"

    def choose_decision(self, logits_nk: Tensor, dev: Split) -> RouterDecision:
        return choose_router_decision(logits_nk, dev)

    def read_decision(self, release: Release) -> RouterDecision:
        return RouterDecision.from_manifest(as_router(release))

    def evaluate(
        self, logits_nk: Tensor, split: Split, decision: RouterDecision
    ) -> RouterEvaluation:
        return evaluate_router(logits_nk, split, decision)

    def tabulate(self, decision: RouterDecision, logits_nk: Tensor, split: Split) -> StudyScores:
        return score_recognition(logits_nk, split)

    def make_manifest(
        self,
        decision: RouterDecision,
        dev: RouterEvaluation,
        test: RouterEvaluation,
        **fields: Any,
    ) -> RouterManifest:
        metrics = RouterMetricsEntry.parse({"dev": dev.to_json(), "test": test.to_json()})
        return RouterManifest(**fields, **decision.entries(), metrics=metrics)

    def render_card(self, manifest: RouterManifest) -> str:
        return render_router_card(manifest)

    def render_report(
        self,
        net: Model,
        manifest: RouterManifest,
        prepared: Prepared,
        *,
        test: RouterEvaluation,
        cases: int = 6,
    ) -> str:
        return render_router_report(net, manifest, prepared, test=test, cases=cases)

    def compare(
        self, area: str, names: tuple[str, str], ours: RouterEvaluation, theirs: RouterEvaluation
    ) -> Comparison:
        return compare_routers(area, names, ours, theirs)

    def read_calibration(self, release: Release) -> tuple[float, float]:
        return as_router(release).calibration.temperature, 0.0

    def export_decision(self, release: Release) -> dict[str, Any]:
        return {"confidence": as_router(release).abstain.confidence}

    def onnx_outputs(self, release: Release) -> Mapping[str, Answer]:
        return {"areas": lambda logits_nk: logits_nk}

    def describe_outputs(self, release: Release) -> str:
        areas = ", ".join(release.manifest.areas)
        return f"softmax over {areas}, of the mean over a study's views"


def _logit(logits_nk: Tensor) -> Tensor:
    """The logit of *abnormal*, (N, 1)."""
    return logits_nk[:, :1]


def _probability(logits_nk: Tensor) -> Tensor:
    """The probability of *abnormal* of each view, (N, 1)."""
    return torch.sigmoid(_logit(logits_nk))


AnyReleaseTask = ReleaseTask[Any, Any, Any]
RELEASE_TASKS: Mapping[str, AnyReleaseTask] = {
    releases.task.name: releases
    for releases in (AbnormalityReleases(), RouterReleases(), MultitaskReleases())
}


def release_task(name: str) -> AnyReleaseTask:
    """The releases of a task, by the task's name in a manifest or a configuration."""
    return RELEASE_TASKS[name]
