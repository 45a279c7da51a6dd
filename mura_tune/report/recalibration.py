"""report.html and MODEL_CARD.md of a recalibrated release, from its manifest alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mura_tune.evaluation.cross_fit import FEW_PATIENTS
from mura_tune.evaluation.familiarity import UNFAMILIAR, describe_unfamiliar
from mura_tune.metrics.estimates import Estimate
from mura_tune.release_format.manifest import CARD, REPORT, AbnormalityManifest
from mura_tune.release_format.recalibration import RecalibrationOriginEntry
from mura_tune.report.page import TableRow, markdown_code, render_html, render_markdown
from mura_tune.report.provenance import name_dataset

# The card and the report of the release that a recalibrated one was made from, beside its own.
PARENT_CARD, PARENT_REPORT = f"parent_{CARD}", f"parent_{REPORT}"
MOST_UNFAMILIAR = 0.05  # share of local studies that may be refused without a warning
HEAD = ("", "before", "after", "change")


def describe_recalibration(manifest: AbnormalityManifest) -> str:
    """The figures before and after as lines for people, warnings last."""
    origin = _origin(manifest)
    lines = [
        f"recalibrated on {origin.studies} studies ({origin.abnormal} abnormal) of "
        f"{origin.patients} patients of {origin.dataset}, from the release with "
        f"sha256={origin.parent}",
        f"AUC there {origin.auc}, before and after",
    ]
    for name, *cells in _figure_rows(origin):
        before, after, change = (
            cell.brief() if isinstance(cell, Estimate) else str(cell) for cell in cells
        )
        lines.append(
            f"{name}: before {before}, after {after}{f', change {change}' if change else ''}"
        )
    if line := describe_unfamiliar(origin.unfamiliar):
        lines.append(line)
    return "\n".join([*lines, *(f"warning: {line}" for line in list_warnings(origin))])


def list_warnings(origin: RecalibrationOriginEntry) -> list[str]:
    """What speaks against a recalibrated release, a clause each."""
    warnings = []
    if origin.patients < FEW_PATIENTS:
        warnings.append(
            f"{origin.patients} patients are fewer than {FEW_PATIENTS}: from so few, recalibration "
            "often makes probabilities worse where little has changed, and the intervals are wide; "
            "add studies"
        )
    change = origin.log_loss_change
    if change.low > 0:
        warnings.append(
            f"the log-loss rises by {change.signed()}: the release that this one was made from "
            "fits these studies better"
        )
    elif not change.high < 0:
        warnings.append(
            f"the log-loss changes by {change.signed()}: these studies do not show that "
            "recalibration helps here"
        )
    if origin.unfamiliar is not None and origin.unfamiliar.share.low > MOST_UNFAMILIAR:
        warnings.append(
            f"{origin.unfamiliar.studies} of {origin.studies} studies are {UNFAMILIAR}: "
            "the release abstains from such studies, and recalibration does not change that"
        )
    if not origin.overlap_checked:
        warnings.append(
            "whether these studies are among those that the network was trained on is not known: "
            "the release is older than that list"
        )
    return warnings


def render_recalibrated_card(manifest: AbnormalityManifest) -> str:
    """The model card of a recalibrated release."""
    return render_markdown("recalibrated_card.md.j2", **_values(manifest, markdown_code))


def render_recalibrated_report(manifest: AbnormalityManifest) -> str:
    """The page of a recalibrated release; it shows no radiographs."""
    return render_html("recalibrated.html.j2", **_values(manifest, str))


def _values(
    manifest: AbnormalityManifest, print_name: Callable[[object], str]
) -> dict[str, object]:
    """What both templates need."""
    origin = _origin(manifest)
    return {
        "manifest": manifest,
        "origin": origin,
        "dataset": name_dataset(manifest),
        "head": HEAD,
        "rows": list(_figure_rows(origin)),
        "points": [
            (print_name(name), f"{point.threshold:.3f}", point.rule)
            for name, point in manifest.operating_points.items()
        ],
        "warnings": list_warnings(origin),
        "parent_card": PARENT_CARD,
        "parent_report": PARENT_REPORT,
    }


def _figure_rows(origin: RecalibrationOriginEntry) -> Iterator[TableRow]:
    """Each figure by its name: before, after, and the change where it is measured."""
    before, after = origin.before, origin.after
    yield "Calibration slope", before.slope, after.slope, ""
    yield "Calibration intercept", before.intercept, after.intercept, ""
    yield "Brier score", before.brier, after.brier, origin.brier_change.signed()
    yield "Log-loss", before.log_loss, after.log_loss, origin.log_loss_change.signed()
    yield "Threshold", f"{before.threshold:.3f}", f"{after.threshold:.3f}", ""
    yield "Sensitivity", before.sensitivity, after.sensitivity, ""
    yield "Specificity", before.specificity, after.specificity, ""


def _origin(manifest: AbnormalityManifest) -> RecalibrationOriginEntry:
    assert manifest.recalibration is not None
    return manifest.recalibration
