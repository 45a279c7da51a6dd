"""The kinds of release: what answers normal or abnormal, with an area, or with both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mura_tune.data.prepare import Prepared
from mura_tune.evaluation import calibration, evaluate, routing
from mura_tune.evaluation.compare import Comparison, compare, compare_routers
from mura_tune.metrics.estimates import StudyScores
from mura_tune.networks.network import Model
from mura_tune.report.abnormality import render_card, render_report
from mura_tune.report.router import render_router_card, render_router_report
from mura_tune.training.batches import Split, split_of
from mura_tune.training.fit import predict
from mura_tune.training.tasks import MULTITASK, PART, recognise_areas, routed_right

Manifest = Mapping[str, Any]
Figures = evaluate.Measured | routing.Routed


@dataclass(frozen=True)
class Kind:
    """How a release decides, is measured, and is told of.

    Attributes:
        output: what a logit is, in words.
        choose: from dev's logits (N, K), all that is chosen there.
        stored: the same from a bundle.json.
        measured: from logits, their split and what was chosen, its figures.
        studies: from what was chosen, logits and their split, what the task's measure is taken of.
        card, report: the texts MODEL_CARD.md and report.html.
        compare: from areas, two folders and the figures of each, what differs.
    """

    output: str
    choose: Callable[[Tensor, Split], Any]
    stored: Callable[[Manifest], Any]
    measured: Callable[[Tensor, Split, Any], Figures]
    studies: Callable[[Any, Tensor, Split], StudyScores]
    card: Callable[[Manifest], str]
    report: Callable[..., str]
    compare: Callable[..., Comparison]

    def rows(self, on_dev: Tensor, dev: Split, logits_nk: Tensor, split: Split) -> StudyScores:
        """What the measure is taken of, calibrated by the same network's logits on dev."""
        return self.studies(self.choose(on_dev, dev), logits_nk, split)

    def measure(self, net: Model, prepared: Prepared, part: str, chosen: Any) -> Figures:
        """Figures of a network on `dev` or `test`; `chosen` on dev, never here."""
        split = split_of(prepared, part, next(net.parameters()).device)
        return self.measured(predict(net, split), split, chosen)


BINARY = Kind(
    output="logit of one view, uncalibrated; see calibration for a study's probability",
    choose=calibration.choose,
    stored=calibration.Chosen.from_json,
    measured=evaluate.measured,
    studies=lambda chosen, logits, split: chosen.calibration.studies(logits, split),
    card=render_card,
    report=render_report,
    compare=compare,
)
BOTH = replace(
    BINARY,
    output="logit of abnormal as another release's, then a logit an area, in the order of areas",
    measured=lambda logits, split, chosen: replace(
        evaluate.measured(logits, split, chosen), seen=recognise_areas(logits[:, 1:], split)
    ),
)
ROUTING = Kind(
    output="a logit an area of one view, in the order of areas; see calibration for a study's",
    choose=routing.choose,
    stored=routing.Routing.from_json,
    measured=routing.measured,
    studies=lambda chosen, logits, split: routed_right(logits, split),
    card=render_router_card,
    report=render_router_report,
    compare=compare_routers,
)


def kind_of(manifest: Manifest) -> Kind:
    """The kind of a release, or of a task under `task`."""
    return {PART.name: ROUTING, MULTITASK.name: BOTH}.get(manifest.get("task", ""), BINARY)
