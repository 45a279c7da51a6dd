"""report.html: everything about a release on one page that opens from disk."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.evaluation.evaluate import NAMES, Measured
from mura_tune.imaging.images import read_image
from mura_tune.metrics.estimates import wrong
from mura_tune.networks.network import Model
from mura_tune.release_format.manifest import missing
from mura_tune.report import charts
from mura_tune.report.areas import body_part
from mura_tune.report.cases import gallery
from mura_tune.report.page import WARNING, cell, plain, sections, shell, shifted, table
from mura_tune.report.provenance import sections_of, set_name, training_section
from mura_tune.training.batches import split_of

Manifest = Mapping[str, Any]


def report(
    net: Model,
    manifest: Manifest,
    prepared: Prepared,
    *,
    test: Measured,
    cases: int = 6,
) -> str:
    """The page of a release.

    Args:
        test: its figures on test.
        cases: studies shown of each kind of error; 0 leaves the radiographs out.

    Raises:
        InputError: a release of an older version, which has too little to report.
    """
    if missing(manifest):
        raise InputError(
            f"{manifest['area']}: released by an older version, without what a report "
            f"shows ({missing(manifest)[0]}); run 'mura finalize' again"
        )
    parts = [
        ("Results", _results(manifest, test)),
        ("Operating points and doubt", _points(manifest, test)),
        *body_part(manifest["metrics"]["dev"], test.to_json()),
        ("Curves", _curves(test)),
        ("Training and search", training_section(manifest)),
    ]
    if cases:
        split = split_of(prepared, "test", next(net.parameters()).device)
        shown = gallery(net, split, test, cases, lambda path: read_image(prepared.root / path))
        size = manifest["preprocessing"]["size"]
        parts.append(("Cases", _CASES.format(size=size) + shown))
    body = _head(manifest, test) + sections([*parts, *sections_of(manifest)])
    return shell(f"{manifest['area']}: release report", body)


_CASES = """<p>The surest errors on the test part, and some of what was right. The network saw each
view at {size} px, squeezed to a square; here it has its own shape. Beside it Grad-CAM: bright is
where the last feature map speaks for <em>abnormal</em>, and fainter in a view that says less than
the median view called abnormal. A bright place outlines no lesion, and may be wrong. Look for
metal, plaster and letters: a model can learn those instead of the disease.</p>
<p class="note">These are radiographs of the data set; its licence says who may see them.
<code>mura report --cases 0</code> makes the page without them.</p>"""


def _head(manifest: Manifest, test: Measured) -> str:
    area, figures = html.escape(manifest["area"]), test.figures
    keys = [
        ("AUC", figures["auc"]),
        ("Cohen's kappa", figures["kappa"]),
        ("sensitivity", figures["sensitivity"]),
        ("specificity", figures["specificity"]),
    ]
    boxes = "".join(
        f"<div><span>{name}</span><b>{e.value:.3f}</b><span>95 %: {e.range()}</span></div>"
        for name, e in keys
    )
    size, day = manifest["preprocessing"]["size"], manifest["created"][:10]
    n, abnormal = len(test.studies.labels), int(test.studies.labels.sum())
    return f"""<h1>{area}: is a study abnormal?</h1>
<p class="note">{_network(manifest)} at {size} px, trained on {set_name(manifest)}; released
{plain(day)}, recipe {plain(manifest["recipe_digest"])}. <code>MODEL_CARD.md</code> beside this page
says what it is for, what it may have learned instead, and its limits.</p>
<p class="warning"><b>{WARNING}</b> <em>Abnormal</em> is the data set's label: fracture, hardware,
degenerative disease, lesion and others together. It is not the probability of a fracture.</p>
<div class="keys">{boxes}</div>
<p>On test, by study: {n} studies ({abnormal} abnormal) of {test.studies.patients_with()} patients,
the published <code>valid</code> part of {set_name(manifest)}, which nothing was chosen on. A study
is called abnormal from a probability of {test.chosen.threshold:.3f} on. Intervals of 95 % resample
whole patients (2,000 draws).</p>"""


def _network(manifest: Manifest) -> str:
    members = len(manifest.get("members", ())) or 1
    one = f"{plain(manifest['arch'])} network"
    return f"A {one}" if members == 1 else f"The mean of {members} {one}s"


def _results(manifest: Manifest, test: Measured) -> str:
    dev, now = manifest["metrics"]["dev"], test.to_json()
    head = (
        "",
        f"test, by study<br>n = {now['studies']}",
        f"test, by image<br>n = {now['images']}",
        f"dev, by study<br>n = {dev['studies']}",
    )
    rows = [
        [shown, cell(now[key]), cell(now["by_image"][key]), cell(dev[key])]
        for key, shown in NAMES.items()
    ]
    for key, name in (("ece", "Calibration error"), ("brier", "Brier score")):
        for when, how in (("before", "before"), ("after", "calibrated")):
            cells = [cell(part["calibration"][when][key]) for part in (now, dev)]
            rows.append([f"{name}, {how}", cells[0], "", cells[1]])
    return table(head, rows) + (
        "<p class='note'>Dev chose the trial, the epoch, the calibration and the thresholds, so "
        "its column flatters the model: believe test. PPV and NPV hold for this share of abnormal "
        f"studies ({now['abnormal'] / now['studies']:.0%} on test). The calibration error (over "
        "bins of equally many studies) is above zero even for a perfect model, and more so with "
        f"few studies.</p>{_areas(now, dev)}"
    )


def _areas(now: Mapping[str, Any], dev: Mapping[str, Any]) -> str:
    """AUC within each area, where there are several."""
    if not now["auc_by_area"]:
        return ""
    before = dev.get("auc_by_area", {})
    rows = [
        [
            plain(area),
            f"{auc['studies']}",
            cell(auc),
            cell(before[area]) if area in before else "one class only" if before else "",
        ]
        for area, auc in now["auc_by_area"].items()
    ]
    head = ("AUC within an area", "test studies", "test, by study", "dev, by study")
    return (
        table(head, rows) + "<p class='note'>The AUC over all areas also credits knowing which "
        "area is abnormal more often; within one it does not.</p>"
    )


def _points(manifest: Manifest, test: Measured) -> str:
    now, band = test.to_json(), manifest["abstain"]
    rows = []
    for name, point in now["operating_points"].items():
        mark = " (recommended)" if name == manifest["recommended"] else ""
        rule = html.escape(manifest["operating_points"][name]["chosen"])
        figures = [cell(point[key]) for key in ("sensitivity", "specificity", "ppv", "npv")]
        rows.append(
            [f"{plain(name)}{mark}<br><small>{rule}</small>", f"{point['threshold']:.3f}", *figures]
        )
    head = ("", "threshold", "sensitivity", "specificity", "PPV", "NPV")
    left = now["abstain"]
    answered = (
        f"; of the others {wrong(left['error'], now['studies'] - left['studies'])}"
        if left["error"] is not None
        else ""
    )
    without = wrong(left["error_without"], now["studies"])
    doubt = (
        f"Between {band['low']:.3f} and {band['high']:.3f} the release says <em>abstain</em>: "
        f"{left['studies']} of {now['studies']} test studies fall there{answered}"
        f" (without a band {without}). The {plain(band['chosen'])}."
        if band["high"] > band["low"]
        else f"No band of doubt: {band['error_without']:.3f} of dev's answers are wrong without "
        f"one. On test {without}."
    )
    return (
        f'{table(head, rows, wide=True)}<div class="columns"><div><h3>Calls on test at '
        f"{now['threshold']:.3f}</h3>{_matrix(now['confusion'])}</div><div><h3>Doubt</h3><p>"
        f"{doubt}</p><p>{_order(manifest)}</p></div></div>"
    )


def _order(manifest: Manifest) -> str:
    offset, temperature = (manifest["calibration"][key] for key in ("offset", "temperature"))
    return (
        f"A study's probability: (a view's logit {shifted(offset)}) / {temperature:.4g}, the "
        "sigmoid, the mean over its views; both numbers were fitted on dev."
    )


def _matrix(found: Mapping[str, int]) -> str:
    def box(key: str, kind: str, of: int) -> str:
        return f"<td class='{kind}'><b>{found[key]}</b>{found[key] / max(of, 1):.0%}</td>"

    normal, abnormal = found["tn"] + found["fp"], found["tp"] + found["fn"]
    return (
        "<table class='matrix'><thead><tr><th></th><th>called normal</th><th>called abnormal</th>"
        f"</tr></thead><tbody><tr><th>labelled normal</th>{box('tn', 'good', normal)}"
        f"{box('fp', 'bad', normal)}</tr><tr><th>labelled abnormal</th>"
        f"{box('fn', 'bad', abnormal)}{box('tp', 'good', abnormal)}</tr></tbody></table>"
    )


def _curves(test: Measured) -> str:
    note = (
        "<p class='note'>Calibration: a bin's line is its 95 % interval, its studies "
        "taken for independent.</p>"
    )
    drawn = (
        charts.roc_chart,
        charts.precision_recall_chart,
        charts.calibration_chart,
        charts.score_chart,
    )
    return (
        f'<div class="charts two">{"".join(f"<div>{draw(test)}</div>" for draw in drawn)}</div>'
        f"{note}"
    )
