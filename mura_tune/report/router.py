"""report.html and MODEL_CARD.md of a router: which area a study shows, and how often it errs."""

from __future__ import annotations

from mura_tune.data.prepare import Prepared
from mura_tune.evaluation.routing import RouterEvaluation
from mura_tune.networks.network import Model
from mura_tune.release_format.manifest import RouterManifest
from mura_tune.release_format.metrics_entries import RouterEvaluationEntry
from mura_tune.report import charts
from mura_tune.report.abnormality import head_scores
from mura_tune.report.page import render_html, render_markdown
from mura_tune.report.provenance import describe_provenance, name_dataset, name_test
from mura_tune.report.recognition import tabulate_recognition


def render_router_report(
    net: Model,
    manifest: RouterManifest,
    prepared: Prepared,
    *,
    test: RouterEvaluation,
    cases: int = 0,
) -> str:
    """The page of a router; without radiographs, whatever `cases` says."""
    on_dev, on_test = manifest.metrics.dev, RouterEvaluationEntry.parse(test.to_json())
    return render_html(
        "router.html.j2",
        manifest=manifest,
        dataset=name_dataset(manifest),
        test_set=name_test(on_test, name_dataset(manifest)),
        dev=on_dev,
        test=on_test,
        recognition=tabulate_recognition(on_dev.recognition, on_test.recognition),
        charts={"training": charts.draw_training(manifest.search, manifest.training)},
        provenance=describe_provenance(manifest),
    )


def render_router_card(manifest: RouterManifest) -> str:
    """The model card of a router, from its manifest alone."""
    dev, test = manifest.metrics.dev, manifest.metrics.test
    recognition = tabulate_recognition(dev.recognition, test.recognition)
    return render_markdown(
        "router_card.md.j2",
        manifest=manifest,
        dataset=name_dataset(manifest),
        test_set=name_test(test, name_dataset(manifest)),
        test=test,
        score_head=head_scores(dev, test),
        score_rows=[(name, on_dev, on_test) for name, on_test, on_dev in recognition.score_rows],
        recognition=recognition,
        provenance=describe_provenance(manifest),
    )
