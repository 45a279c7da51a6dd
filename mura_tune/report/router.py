"""report.html and MODEL_CARD.md of a router: which area a study shows, and how often it errs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mura_tune.data.prepare import Prepared
from mura_tune.evaluation.routing import RouterEvaluation
from mura_tune.networks.network import Model
from mura_tune.report import charts
from mura_tune.report.abnormality import score_head
from mura_tune.report.page import render_html, render_markdown
from mura_tune.report.provenance import data_set_name, describe_provenance
from mura_tune.report.recognition import tabulate_recognition


def render_router_report(
    net: Model,
    manifest: Mapping[str, Any],
    prepared: Prepared,
    *,
    test: RouterEvaluation,
    cases: int = 0,
) -> str:
    """The page of a router; without radiographs, whatever `cases` says."""
    on_dev, on_test = manifest["metrics"]["dev"], test.to_json()
    return render_html(
        "router.html.j2",
        manifest=manifest,
        dataset=data_set_name(manifest),
        dev=on_dev,
        test=on_test,
        recognition=tabulate_recognition(on_dev, on_test),
        charts={"training": charts.draw_training(manifest)},
        provenance=describe_provenance(manifest),
    )


def render_router_card(manifest: Mapping[str, Any]) -> str:
    """The model card of a router, from its manifest alone."""
    dev, test = manifest["metrics"]["dev"], manifest["metrics"]["test"]
    recognition = tabulate_recognition(dev, test)
    return render_markdown(
        "router_card.md.j2",
        manifest=manifest,
        dataset=data_set_name(manifest),
        test=test,
        answered=test["studies"] - test["abstain"]["studies"],
        score_head=score_head(dev, test),
        score_rows=[(name, on_dev, on_test) for name, on_test, on_dev in recognition.score_rows],
        recognition=recognition,
        provenance=describe_provenance(manifest),
    )
