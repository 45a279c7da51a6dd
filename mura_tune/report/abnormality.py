"""report.html and MODEL_CARD.md of a release that tells normal from abnormal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.evaluation.evaluate import METRIC_NAMES, Evaluation
from mura_tune.imaging.images import read_image
from mura_tune.names import file_name_of
from mura_tune.networks.network import Model
from mura_tune.release_format.manifest import WEIGHTS, parse_manifest
from mura_tune.report import charts
from mura_tune.report.cases import find_cases
from mura_tune.report.page import Markdown, markdown_code, render_html, render_markdown
from mura_tune.report.provenance import data_set_name, describe_provenance
from mura_tune.report.recognition import RecognitionTables, tabulate_recognition
from mura_tune.training.batches import load_split

Row = tuple[object, ...]


def render_report(
    net: Model,
    manifest: Mapping[str, Any],
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
    if lacking := list(parse_manifest(dict(manifest), "").missing()):
        raise InputError(
            f"{manifest['area']}: released by an older version, without what a report "
            f"shows ({lacking[0]}); run 'mura finalize' again"
        )
    gallery = None
    if cases:
        split = load_split(prepared, "test", next(net.parameters()).device)
        gallery = find_cases(net, split, test, cases, lambda path: read_image(prepared.root / path))
    on_dev, on_test = manifest["metrics"]["dev"], test.to_json()
    return render_html(
        "abnormality.html.j2",
        manifest=manifest,
        members=len(manifest.get("members", ())) or 1,
        dataset=data_set_name(manifest),
        dev=on_dev,
        test=on_test,
        evaluation=test,
        results=[*_score_rows(on_dev, on_test), *_calibration_rows(on_dev, on_test)],
        auc_by_area=list(_area_rows(on_dev, on_test)),
        points=[
            (name, f"{point['threshold']:.3f}", *(point[key] for key in _AT_POINT))
            for name, point in on_test["operating_points"].items()
        ],
        recognition=_recognition(on_dev, on_test),
        charts={"curves": charts.draw_curves(test), "training": charts.draw_training(manifest)},
        gallery=gallery,
        provenance=describe_provenance(manifest),
    )


def render_card(manifest: Mapping[str, Any]) -> str:
    """The model card of a release, from its manifest alone."""
    dev, test = manifest["metrics"]["dev"], manifest["metrics"]["test"]
    left_out = Counter(image["kind"] for image in manifest["data"]["left_out"])
    recognition = _recognition(dev, test)
    return render_markdown(
        "abnormality_card.md.j2",
        manifest=manifest,
        members=manifest.get("members", [WEIGHTS]),
        areas=manifest.get("areas", ()),
        dataset=data_set_name(manifest),
        folder=f"releases/{file_name_of(manifest['study']['name'])}",
        dev=dev,
        test=test,
        answered=test["studies"] - test["abstain"]["studies"],
        score_head=score_head(dev, test),
        score_rows=[
            *((name, dev[key], test[key]) for key, name in METRIC_NAMES.items()),
            *(
                (f"AUC, {area}", dev["auc_by_area"][area], auc)
                for area, auc in test["auc_by_area"].items()
                if area in dev["auc_by_area"]
            ),
            *(
                (f"Body part: {name}", on_dev, on_test)
                for name, on_test, on_dev in (recognition.score_rows if recognition else ())
            ),
        ],
        point_rows=[
            (
                markdown_code(name),
                f"{point['threshold']:.3f}",
                point["sensitivity"],
                point["specificity"],
            )
            for name, point in test["operating_points"].items()
        ],
        recognition=recognition,
        left_out=[f"{number} {kind}" for kind, number in left_out.items()],
        start=_describe_start(manifest),
        provenance=describe_provenance(manifest),
    )


def score_head(dev: Mapping[str, Any], test: Mapping[str, Any]) -> Row:
    """The head of a card's table of scores on dev and on test: what each was measured on."""
    return (
        "",
        *(f"{m['split']}, {m['studies']} studies, {m['patients']} patients" for m in (dev, test)),
    )


_AT_POINT = ("sensitivity", "specificity", "ppv", "npv")


def _score_rows(dev: Mapping[str, Any], test: Mapping[str, Any]) -> Iterator[Row]:
    """Each score by study on test, by image on test, and by study on dev."""
    for key, name in METRIC_NAMES.items():
        yield name, test[key], test["by_image"][key], dev[key]


def _calibration_rows(dev: Mapping[str, Any], test: Mapping[str, Any]) -> Iterator[Row]:
    """Calibration error and Brier score, before and after calibration, in the same columns."""
    for key, name in (("ece", "Calibration error"), ("brier", "Brier score")):
        for when, label in (("before", "before"), ("after", "calibrated")):
            on_test, on_dev = (split["calibration"][when][key] for split in (test, dev))
            yield f"{name}, {label}", on_test, "", on_dev


def _area_rows(dev: Mapping[str, Any], test: Mapping[str, Any]) -> Iterator[Row]:
    """The AUC within each area, where there are several."""
    on_dev = dev.get("auc_by_area", {})
    for area, auc in test["auc_by_area"].items():
        yield area, auc["studies"], auc, on_dev.get(area, "one class only" if on_dev else "")


def _recognition(dev: Mapping[str, Any], test: Mapping[str, Any]) -> RecognitionTables | None:
    """How often a multi-task release recognises the body part; None for any other release."""
    if "body_part" not in test:
        return None
    return tabulate_recognition(dev["body_part"], test["body_part"])


def _describe_start(manifest: Mapping[str, Any]) -> Markdown:
    """What the weights were before training: a file by its name and sum, not by its folder."""
    start, digest = manifest["recipe"]["pretrained"], manifest.get("start_sha256")
    if start == "none":
        return Markdown("random weights")
    imagenet = Markdown("timm's ImageNet weights")
    name = imagenet if start == "imagenet" else markdown_code(PurePath(start).name)
    return Markdown(f"{name} (sha256 {markdown_code(digest[:16])})") if digest else name
