"""MODEL_CARD.md and report.html of a router: which area a study shows, and how often it errs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mura_tune.data.prepare import Prepared
from mura_tune.evaluation.routing import Routed
from mura_tune.lines import shell_command
from mura_tune.metrics.estimates import wrong
from mura_tune.networks.network import Model
from mura_tune.report.areas import confusion_html, confusion_md, figure_rows, figures_html
from mura_tune.report.card import counts_table
from mura_tune.report.page import WARNING, code, markdown, plain, sections, shell, words
from mura_tune.report.provenance import sections_of, set_name, training_section

Manifest = Mapping[str, Any]

_CARD = """# {name}: which body part a radiograph shows

**{warning}**

A {arch} network at {size} px that tells which of {k} areas a study shows: {areas}. It says
nothing about disease. Its use is to send a study to its area's release.

## Figures

By study, 95 % intervals from 2,000 resamplings of whole patients. A study's area has the largest
logit, averaged over its views. Dev chose the trial, the epoch, the temperature and the confidence,
so it flatters the model. Test is the published `valid` part of {dataset}, measured after everything
was fixed.

{figures}

By image (every view judged alone, test): accuracy {image}.

Studies of test by area (rows) and by what they were taken for (columns):

{confusion}

## Confidence

The mean of the views' logits over {temperature:.4g}, then the softmax; the temperature was fitted
on dev. Below {confidence:.3f} it abstains ({rule}): from {below} test studies{rest} (without
abstaining {without}).

A picture of anything else (a chest, a photograph) gets one of the {k} areas too, and may get it
with confidence.

## Training data

{counts}

Data set: {dataset}. Patients are in one part only, over all areas.
Recipe {digest}, from trial {trial} of study {study}; `bundle.json` holds all of it.

## Use

```
{infer}
mura infer --area auto --image view1.png     # and ask that area's release
```

## Licence and citation

Code: MIT (mura-tune {version}). The weights are bound by the licence of the data they were trained
on; MURA's is for non-commercial research.
"""


def routing_card(manifest: Manifest) -> str:
    """The card of a router, from its bundle.json."""
    dev, test = manifest["metrics"]["dev"], manifest["metrics"]["test"]
    told = test["abstain"]
    left = test["studies"] - told["studies"]
    return _CARD.format(
        warning=WARNING,
        name=markdown(manifest["study"]["name"]),
        infer=shell_command(
            "mura", "infer", "--area", manifest["study"]["name"], "--image", "view1.png"
        ),
        arch=code(manifest["arch"]),
        size=manifest["preprocessing"]["size"],
        k=len(manifest["areas"]),
        areas=", ".join(map(markdown, manifest["areas"])),
        dataset=markdown(manifest["data"].get("name") or "the data set"),
        figures=_figures(dev, test),
        image=words(test["by_image"]["accuracy"]),
        confusion=confusion_md(test),
        temperature=manifest["calibration"]["temperature"],
        confidence=manifest["abstain"]["confidence"],
        rule=markdown(manifest["abstain"]["chosen"]),
        below=f"{told['studies']} of {test['studies']}",
        rest=f"; of the others {wrong(told['error'], left)}" if left else "",
        without=wrong(told["error_without"], test["studies"]),
        counts=counts_table(manifest["data"]["counts"]),
        digest=code(manifest["recipe_digest"]),
        trial=manifest["study"]["trial"],
        study=code(manifest["study"]["name"]),
        version=manifest["versions"]["mura-tune"],
    )


def _figures(dev: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    heads = (f"{m['split']}, {m['studies']} studies, {m['patients']} patients" for m in (dev, test))
    rows = (
        f"| {markdown(name)} | {on_dev} | {on_test} |"
        for name, on_dev, on_test in figure_rows(dev, test)
    )
    return "\n".join([f"| | {' | '.join(heads)} |", "| --- | --- | --- |", *rows])


def routing_report(
    net: Model, manifest: Manifest, prepared: Prepared, *, test: Routed, cases: int = 0
) -> str:
    """The page of a router; without radiographs, whatever `cases` says."""
    dev, now = manifest["metrics"]["dev"], test.to_json()
    limit, told = manifest["abstain"]["confidence"], now["abstain"]
    name = plain(manifest["study"]["name"])
    intro = f"""<h1>{name}: which area does a study show?</h1>
<p class="note">A {plain(manifest["arch"])} network at {manifest["preprocessing"]["size"]} px,
trained on {set_name(manifest)}; released {plain(manifest["created"][:10])}, recipe
{plain(manifest["recipe_digest"])}.</p>
<p class="warning"><b>{WARNING}</b> It says nothing about disease.</p>
<p>On test, by study: {now["studies"]} studies of {now["patients"]} patients, the published
<code>valid</code> part of {set_name(manifest)}, which nothing was chosen on.</p>"""
    left = now["studies"] - told["studies"]
    rest = f"; of the others {wrong(told['error'], left)}" if left else ""
    parts = [
        (
            "Results",
            figures_html(dev, now, (dev["studies"], now["studies"]))
            + "<p class='note'>By study, logits averaged over views; "
            "95 % intervals from 2,000 resamplings of whole patients. Dev chose the trial, the "
            "epoch and the confidence: believe test.</p>",
        ),
        ("What was taken for what", confusion_html(now)),
        (
            "Doubt",
            f"<p>Below a confidence of {limit:.3f} it abstains: from {told['studies']} of "
            f"{now['studies']} test studies{rest} (without abstaining "
            f"{wrong(told['error_without'], now['studies'])}). "
            f"The {plain(manifest['abstain']['chosen'])}.</p>",
        ),
        ("Training and search", training_section(manifest)),
    ]
    return shell(f"{name}: release report", intro + sections([*parts, *sections_of(manifest)]))
