"""report.html and MODEL_CARD.md of a release that tells normal from abnormal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath

from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.evaluation.evaluate import Evaluation
from mura_tune.metrics.operating_points import METRIC_NAMES
from mura_tune.networks.network import Model
from mura_tune.release_format.manifest import AbnormalityManifest, Manifest
from mura_tune.release_format.metrics_entries import (
    AbnormalityEvaluationEntry,
    EvaluationEntry,
    MultitaskEvaluationEntry,
)
from mura_tune.report import charts
from mura_tune.report.cases import find_cases
from mura_tune.report.page import (
    Markdown,
    TableRow,
    markdown_code,
    render_html,
    render_markdown,
)
from mura_tune.report.provenance import describe_provenance, name_dataset, name_test
from mura_tune.report.recognition import RecognitionTables, tabulate_recognition
from mura_tune.report.subgroups import tabulate_further
from mura_tune.report.supplement import tabulate_supplement
from mura_tune.text import file_name_of
from mura_tune.training.batches import load_split


def render_report(
    net: Model,
    manifest: AbnormalityManifest,
    prepared: Prepared,
    *,
    test: Evaluation,
    cases: int = 6,
) -> str:
    """The page of a release.

    Args:
        test: the release on the test split.
        cases: studies shown of each kind of error; 0 leaves the radiographs out.

    Raises:
        InputError: a release of an older version, which has too little to report.
    """
    if lacking := list(manifest.missing()):
        raise InputError(
            f"{manifest.area}: released by an older version, without what a report "
            f"shows ({lacking[0]}); run 'mura finalize' again"
        )
    gallery = None
    if cases:
        split = load_split(prepared, "test", next(net.parameters()).device)
        gallery = find_cases(net, split, test, cases, prepared.read_view)
    on_dev = manifest.metrics.dev
    on_test = type(manifest.metrics.test).parse(test.to_json())
    supplement = tabulate_supplement(on_dev, on_test)
    return render_html(
        "abnormality.html.j2",
        manifest=manifest,
        dataset=name_dataset(manifest),
        test_set=name_test(on_test, name_dataset(manifest)),
        dev=on_dev,
        test=on_test,
        results=[
            *_score_rows(on_dev, on_test),
            *(supplement.recalibration_rows if supplement else ()),
            *_calibration_rows(on_dev, on_test),
        ],
        supplement=supplement,
        auc_by_area=list(_area_rows(on_dev, on_test)),
        points=list(_point_rows(on_test)),
        further=tabulate_further(test),
        recognition=_tabulate_recognition(on_dev, on_test),
        charts={
            "curves": charts.draw_curves(test),
            "training": charts.draw_training(manifest.search, manifest.training),
        },
        gallery=gallery,
        provenance=describe_provenance(manifest),
    )


def render_card(manifest: AbnormalityManifest) -> str:
    """The model card of a release, from its manifest alone."""
    dev, test = manifest.metrics.dev, manifest.metrics.test
    left_out = Counter(image.kind for image in manifest.data.left_out)
    recognition = _tabulate_recognition(dev, test)
    supplement = tabulate_supplement(dev, test)
    return render_markdown(
        "abnormality_card.md.j2",
        manifest=manifest,
        dataset=name_dataset(manifest),
        test_set=name_test(test, name_dataset(manifest)),
        folder=f"releases/{file_name_of(manifest.search.name)}",
        dev=dev,
        test=test,
        score_head=head_scores(dev, test),
        score_rows=list(_card_rows(dev, test, recognition)),
        point_rows=[
            (
                markdown_code(name),
                f"{point.threshold:.3f}",
                point.estimates["sensitivity"],
                point.estimates["specificity"],
            )
            for name, point in test.operating_points.items()
        ],
        recognition=recognition,
        supplement=supplement,
        left_out=[f"{number} {kind}" for kind, number in left_out.items()],
        start=_describe_start(manifest),
        provenance=describe_provenance(manifest),
    )


def head_scores(dev: EvaluationEntry, test: EvaluationEntry) -> TableRow:
    """The head of a card's table of scores on dev and on test: what each was measured on."""
    return (
        "",
        *(
            f"{evaluation.split}, {evaluation.studies} studies, {evaluation.patients} patients"
            for evaluation in (dev, test)
        ),
    )


def _score_rows(
    dev: AbnormalityEvaluationEntry, test: AbnormalityEvaluationEntry
) -> Iterator[TableRow]:
    """Each score by study on test, by image on test, and by study on dev."""
    for key, name in METRIC_NAMES.items():
        if key in test.estimates:
            yield name, test.estimates[key], test.by_image[key], dev.estimates.get(key, "")


def _calibration_rows(
    dev: AbnormalityEvaluationEntry, test: AbnormalityEvaluationEntry
) -> Iterator[TableRow]:
    """Calibration error and Brier score, before and after calibration, in the same columns."""
    on_test, on_dev = test.calibration, dev.calibration
    yield "Calibration error, before", on_test.before.ece.error, "", on_dev.before.ece.error
    yield "Calibration error, calibrated", on_test.after.ece.error, "", on_dev.after.ece.error
    yield "Brier score, before", on_test.before.brier, "", on_dev.before.brier
    yield "Brier score, calibrated", on_test.after.brier, "", on_dev.after.brier


def _area_rows(
    dev: AbnormalityEvaluationEntry, test: AbnormalityEvaluationEntry
) -> Iterator[TableRow]:
    """The AUC within each area, where there are several."""
    on_dev = dev.auc_by_area or {}
    for area, auc in (test.auc_by_area or {}).items():
        yield area, auc.studies, auc, on_dev.get(area, "one class only" if on_dev else "")


def _point_rows(test: AbnormalityEvaluationEntry) -> Iterator[TableRow]:
    """Each operating point by its name, with its threshold and its scores on test."""
    keys = ("sensitivity", "specificity", "ppv", "npv")
    for name, point in test.operating_points.items():
        yield name, f"{point.threshold:.3f}", *(point.estimates[key] for key in keys)


def _card_rows(
    dev: AbnormalityEvaluationEntry,
    test: AbnormalityEvaluationEntry,
    recognition: RecognitionTables | None,
) -> Iterator[TableRow]:
    """Every score by study, on dev and on test."""
    for key, name in METRIC_NAMES.items():
        if key in test.estimates:
            yield name, dev.estimates.get(key, ""), test.estimates[key]
    on_dev = dev.auc_by_area or {}
    for area, auc in (test.auc_by_area or {}).items():
        if area in on_dev:
            yield f"AUC, {area}", on_dev[area], auc
    for label, recognised_on_test, recognised_on_dev in (
        recognition.score_rows if recognition else ()
    ):
        yield f"Body part: {label}", recognised_on_dev, recognised_on_test


def _tabulate_recognition(
    dev: AbnormalityEvaluationEntry, test: AbnormalityEvaluationEntry
) -> RecognitionTables | None:
    """How often a multi-task release recognises the area; None for any other release."""
    if isinstance(dev, MultitaskEvaluationEntry) and isinstance(test, MultitaskEvaluationEntry):
        return tabulate_recognition(dev.recognition, test.recognition)
    return None


def _describe_start(manifest: Manifest) -> Markdown:
    """What the weights were before training: a file by its name and sum, not by its folder."""
    start, digest = manifest.recipe["pretrained"], manifest.start_sha256
    if start == "none":
        return Markdown("random weights")
    imagenet = Markdown("packaged ImageNet weights" if digest else "timm's ImageNet weights")
    name = imagenet if start == "imagenet" else markdown_code(PurePath(start).name)
    return Markdown(f"{name} (sha256 {markdown_code(digest[:16])})") if digest else name
