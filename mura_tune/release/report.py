"""report.html: everything about a release on one page that opens from disk."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.learning.batches import split_of
from mura_tune.learning.ensemble import Model
from mura_tune.release import charts, history
from mura_tune.release.calibrate import Chosen
from mura_tune.release.evaluate import NAMES, Measured, measure
from mura_tune.release.gallery import gallery
from mura_tune.release.page import WARNING, cell, plain, shell, table
from mura_tune.release.seeds import describe

Manifest = Mapping[str, Any]


def report(
    net: Model,
    manifest: Manifest,
    prepared: Prepared,
    *,
    test: Measured | None = None,
    cases: int = 6,
) -> str:
    """The page of a release.

    Args:
        test: its figures on test, if they are at hand; measured here otherwise.
        cases: studies shown of each kind of error; 0 leaves the radiographs out.

    Raises:
        InputError: a release of an older version, which has too little to report.
    """
    if "monitor" not in manifest["study"]:
        raise InputError(f"{manifest['area']}: released by an older version, without what a "
                         "report shows; run 'mura finalize' again")  # fmt: skip
    test = test or measure(net, prepared, "test", Chosen.from_json(manifest))
    parts = [
        _head(manifest, test),
        "<h2>Results</h2>" + _results(manifest, test),
        "<h2>Operating points and doubt</h2>" + _points(manifest, test),
        "<h2>Curves</h2>" + _curves(test),
        "<h2>Training and search</h2>" + training_section(manifest),
    ]
    if cases:
        split = split_of(prepared, "test", next(net.parameters()).device)
        parts.append("<h2>Cases</h2>" + _CASES + gallery(net, split, test, cases))
    parts += [
        "<h2>Data</h2>" + data_section(manifest),
        "<h2>Recipe</h2>" + recipe_section(manifest),
        "<h2>How to reproduce it</h2>" + reproduce_section(manifest),
    ]
    return shell(f"{manifest['area']}: release report", "\n".join(parts))


_CASES = """<p>The surest errors on the test part, and some of what was right, as the network saw
them: squeezed to a square. Beside each view its Grad-CAM: bright is where the last feature map
speaks for <em>abnormal</em>, scaled to each view's own maximum, so a bright spot in a view of low
probability means little. Look for metal, plaster and letters: a model can learn those instead of
the disease.</p>
<p class="note">These are radiographs of the data set; its licence says who may see them.
<code>mura report --cases 0</code> makes the page without them.</p>"""


def _head(manifest: Manifest, test: Measured) -> str:
    area, figures = html.escape(manifest["area"]), test.figures
    keys = [
        ("AUC", figures["auc"]), ("Cohen's kappa", figures["kappa"]),
        ("sensitivity", figures["sensitivity"]), ("specificity", figures["specificity"]),
    ]  # fmt: skip
    boxes = "".join(
        f"<div><span>{name}</span><b>{e.value:.3f}</b><span>95 % {e.low:.3f} to {e.high:.3f}"
        "</span></div>"
        for name, e in keys
    )
    size, day = manifest["preprocessing"]["size"], manifest["created"][:10]
    return f"""<h1>{area}: is a study abnormal?</h1>
<p class="note">A {plain(manifest["arch"])} at {size} px, trained on {_set(manifest)}; released
{plain(day)}, recipe {plain(manifest["recipe_digest"])}.</p>
<p class="warning"><b>{WARNING}</b> <em>Abnormal</em> is the data set's label: fracture, hardware,
degenerative disease, lesion and others together. It is not the probability of a fracture.</p>
<div class="keys">{boxes}</div>
<p>By study, on the test part: {len(test.studies.labels)} studies of
{test.studies.patients_with()} patients from the published <code>valid</code> part of
{_set(manifest)}, which nothing was chosen on. Intervals of 95 % resample whole patients (2,000
draws).</p>"""


def _results(manifest: Manifest, test: Measured) -> str:
    dev, now = manifest["metrics"]["dev"], test.to_json()
    head = (
        "", f"test, by study<br>n = {now['studies']}", f"test, by image<br>n = {now['images']}",
        f"dev, by study<br>n = {dev['studies']}",
    )  # fmt: skip
    rows = [[shown, cell(now[key]), cell(now["by_image"][key]), cell(dev[key])]
            for key, shown in NAMES.items()]  # fmt: skip
    for key, name in (("ece", "Calibration error"), ("brier", "Brier score")):
        for when in ("after", "before"):
            cells = [cell(part["calibration"][when][key]) for part in (now, dev)]
            rows.append([f"{name} {when}", cells[0], "", cells[1]])
    return table(head, rows) + (
        "<p class='note'>Dev chose the trial, the epoch, the calibration and the thresholds, so "
        "its column flatters the model: believe test. PPV and NPV hold for this share of abnormal "
        f"studies ({now['abnormal'] / now['studies']:.0%} on test). The calibration error is "
        "above zero even for a perfect model, and more so with few studies; before and after are "
        "those without and with calibration.</p>"
    )


def _points(manifest: Manifest, test: Measured) -> str:
    now, band = test.to_json(), manifest["abstain"]
    rows = []
    for name, point in now["operating_points"].items():
        mark = " (recommended)" if name == manifest["recommended"] else ""
        rule = html.escape(manifest["operating_points"][name]["chosen"])
        figures = [cell(point[key]) for key in ("sensitivity", "specificity", "ppv", "npv")]
        rows.append([f"{name}{mark}<br><small>{rule}</small>", f"{point['threshold']:.3f}",
                     *figures])  # fmt: skip
    head = ("", "threshold", "sensitivity", "specificity", "PPV", "NPV")
    left = now["abstain"]
    answered = (
        f"; the others have an error of {left['error']:.3f}" if left["error"] is not None else ""
    )
    doubt = (
        f"Between {band['low']:.3f} and {band['high']:.3f} the release says <em>abstain</em>: "
        f"{left['studies']} of {now['studies']} test studies fall there{answered} "
        f"({left['error_without']:.3f} without a band). {plain(band['chosen']).capitalize()}."
        if band["high"] > band["low"]
        else f"No band of doubt: the error on dev is {band['error_without']:.3f} without one."
    )
    return (f'{table(head, rows, wide=True)}<div class="columns"><div><h3>Calls on test at '
            f'{now["threshold"]:.3f}</h3>{_matrix(now["confusion"])}</div><div><h3>Doubt</h3><p>'
            f"{doubt}</p><p>{_order(manifest)}</p></div></div>")  # fmt: skip


def _order(manifest: Manifest) -> str:
    offset, temperature = (manifest["calibration"][key] for key in ("offset", "temperature"))
    return (f"A study's probability: (a view's logit {offset:+.4g}) / {temperature:.4g}, the "
            "sigmoid, the mean over its views; both numbers were fitted on dev.")  # fmt: skip


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
    drawn = (charts.roc_chart, charts.precision_recall_chart, charts.calibration_chart,
             charts.score_chart)  # fmt: skip
    return f'<div class="charts">{"".join(f"<div>{draw(test)}</div>" for draw in drawn)}</div>'


def training_section(manifest: Manifest) -> str:
    """What was searched, and how the final training went."""
    study, training = manifest["study"], manifest["training"]
    epochs, monitor = training["epochs"], study["monitor"]
    counts = ", ".join(f"{n} {word}" for word, n in study["trials"].items() if n)
    low, high = study["dev_interval"]
    baseline = study["baseline_dev_score"]
    against = f"; the default recipe had {baseline:.3f}" if baseline is not None else ""
    found = history.search_chart(study) if study["history"] else ""
    return (
        f"<p>Study <code>{plain(study['name'])}</code>: {plain(counts)}. Trial {study['trial']} "
        f"was released, with a dev {monitor} of {study['dev_score']:.3f} "
        f"[{low:.3f}, {high:.3f}]{against}. "
        f"{plain(_verdict(study))}Then it was trained at length; epoch {training['best_epoch']} of "
        f"{len(epochs)} was kept.</p>{_seeds(manifest)}"
        f'<div class="charts"><div>{found}</div>'
        f"<div>{history.score_curve(epochs, training['best_epoch'], monitor)}</div>"
        f"<div>{history.loss_curve(epochs)}</div></div>"
    )


def _seeds(manifest: Manifest) -> str:
    """What differed between runs that differ by their seed; nothing where there was one."""
    if "seeds" not in manifest:
        return ""
    measure = manifest["seeds"]["measure"]
    head = ("seed", f"dev {measure}, by study", f"test {measure}, by study", "epoch kept", "")
    rows = [
        [str(one["seed"]), cell(one["dev_score"]), cell(one["test_score"]), str(one["best_epoch"]),
         "released" if one["released"] else ""]
        for one in manifest["seeds"]["runs"]
    ]  # fmt: skip
    curves = "The curves below are the first released one's."
    return f"<p>{plain(describe(manifest))} {curves}</p>{table(head, rows, wide=True)}"


def _verdict(study: Mapping[str, Any]) -> str:
    """Whether it beats the default recipe, as a sentence; nothing in an older release."""
    told = study.get("verdict", "")
    return f"{told[0].upper()}{told[1:]}. " if told else ""


def data_section(manifest: Manifest) -> str:
    """What it was made with, and what was left out."""
    counts, left_out = manifest["data"]["counts"], manifest["data"]["left_out"]
    names = list(counts["train"])
    told = table(
        ("part", *names), [[part, *(str(counts[part][n]) for n in names)] for part in counts]
    )
    rows = [[f"<span class='path'>{plain(f['path'])}</span><br>"
             f"<small>{plain(f['kind'])}: {plain(f['detail'])}</small>"]
            for f in left_out]  # fmt: skip
    gone = (
        f"<details><summary>{len(rows)} image(s) left out, by name</summary>"
        f"{table(('image, and why',), rows)}</details>"
        if rows
        else "<p>No image was left out.</p>"
    )
    return (f"{told}<p>Data set: {_set(manifest)}. A patient is in one part only, over all areas; "
            f"test is the part that was published as <code>valid</code>.</p>{gone}")  # fmt: skip


def recipe_section(manifest: Manifest) -> str:
    """Every field of the recipe."""
    flat: dict[str, Any] = {}
    for key, value in manifest["recipe"].items():
        flat |= (
            {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        )
    searched = manifest["study"]["params"]
    rows = [
        [f"<code>{plain(key)}</code>", plain(value), "searched" if key in searched else ""]
        for key, value in flat.items()
    ]
    return table(("field", "value", ""), rows)


def reproduce_section(manifest: Manifest) -> str:
    """The commands that make it again."""
    study, area, data = manifest["study"], manifest["area"], manifest["data"]
    name, trials = study["name"], study["config"]["budget"]["trials"]
    named = f" --study {name}" if name != area else ""
    pairs = ", ".join(f"{key} {value}" for key, value in manifest["versions"].items())
    commands = (f"mura tune {area}{named} --trials {trials} --data DATA\n"
                f"mura finalize {name} --data DATA\n"
                f"mura evaluate --release {name} --data DATA\nmura verify {name}")  # fmt: skip
    return (
        f"<pre>{plain(commands)}</pre><p>With the study's settings as <code>bundle.json</code> "
        f"holds them (study.config), seed {manifest['recipe']['seed']}, and the same data: "
        f"fingerprint <code>{plain(data['fingerprint'][:16])}</code>, split <code>"
        f"{plain(data['split_hash'][:16])}</code>. On a CPU with the same number of threads the "
        f"weights come out the same, bit for bit. Made with {plain(pairs)}.</p>"
    )


def _set(manifest: Manifest) -> str:
    return plain(manifest["data"].get("name") or "the data set")
