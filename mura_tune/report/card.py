"""MODEL_CARD.md: what a release is for, what it was measured on, and what it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mura_tune.evaluation.evaluate import NAMES
from mura_tune.evaluation.runs import describe
from mura_tune.lines import shell_command
from mura_tune.metrics.estimates import range_text, wrong
from mura_tune.names import file_name_of
from mura_tune.release_format.manifest import WEIGHTS
from mura_tune.report.areas import figure_rows
from mura_tune.report.page import WARNING, code, markdown, shifted, words

_CARD = """# {area}: abnormality in musculoskeletal radiographs

**{warning}**

{network} at {size} px that gives the probability that a study {whose} is *abnormal*.
Abnormal is MURA's label: fracture, hardware, degenerative disease, lesion and others together. It
is not the probability of a fracture.{also}

## Intended use

Research on methods, on radiographs like those it was trained on: to compare with, to start from, to
find cases worth a second look in a collection that a person reads anyway. Not meant for
diagnosis, triage, or any decision about a patient, and never tested for one: no regulator has seen
it, no prospective study was made.

## Figures

By study, 95 % intervals from 2,000 resamplings of whole patients. Operating point {point}
({rule}): a study is called abnormal from {threshold:.3f} on.
Dev chose the trial, the epoch, the calibration and the thresholds, so it flatters the model. Test
is the published `valid` part of {dataset}, measured after everything was fixed. It is not MURA's
hidden test set: don't put the two in one column.

{table}

By image (each of {images} test views judged alone): AUC {image_auc}, kappa {image_kappa}.
PPV and NPV hold for the share of abnormal studies here, {share:.0%} of test.

All operating points, chosen on dev:

{points}

## Calibration

A study's probability is, in this order: (a view's logit {offset}) / {temperature:.4g}, the
sigmoid, the mean over the study's views; both numbers were fitted on dev's studies.
On test:

| | before | after |
| --- | --- | --- |
| Expected calibration error | {ece_before} | {ece_after} |
| Brier score | {brier_before} | {brier_after} |

A calibrated probability belongs to the share of abnormal studies it was fitted on
({dev_share:.0%} of dev): where they are rarer or more frequent it is off.

{doubt}

## Training data

{counts}

Data set: {dataset}. Images left out: {left_out}.
Patients are in one part only, over all areas. The network started from {start}.
{verdict}{seeds}Recipe {digest}, from trial {trial} of study {study};
`bundle.json` holds all of it, `report.html` shows it.

## Known shortcuts

- **Hardware.** About half of MURA's abnormal studies show plates, screws, plaster or marks. They
  are abnormal by label: a model that only knows metal scores well, and may miss a fracture.
- **Markers.** Side letters, stickers, collimation and burnt-in text differ between rooms and so
  between patients. Look at the maps in `report.html` and with `mura explain`.
- **The number of views** differs between normal and abnormal studies, and the mean with it.

## Limits

- MURA is one hospital's data from one country: other equipment and patients shift the scores.
- Unknown on children's growth plates, on other body parts, and on photographs of films.
- Intervals say how sure a figure is on this test part, not on other data.
- MURA's labels are one radiologist's reading at the time of the study, not a proven diagnosis.
- Not looked at by age, sex, scanner or kind of abnormality: MURA says none of them.

## Use

```
{infer}
{explain}
```

## Licence and citation

Code: MIT (mura-tune {version}). The weights in {weights} are bound by the licence of the
data they were trained on; MURA's is for non-commercial research and forbids passing images on,
which includes those in `report.html` (`mura report --cases 0` leaves them out).

Cite the data, and name the release: mura-tune {version}, recipe {digest}, made {day}.

> Rajpurkar P, Irvin J, Bagul A, et al.: MURA: Large Dataset for Abnormality Detection in
> Musculoskeletal Radiographs. MIDL 2018. arXiv:1712.06957
"""


_ALSO = """ It also names the body part, its second task; the part that it predicts, never
the true one, feeds its answer."""


def model_card(manifest: Mapping[str, Any]) -> str:
    """The card of a release, from its bundle.json."""
    dev, test = manifest["metrics"]["dev"], manifest["metrics"]["test"]
    before, after = test["calibration"]["before"], test["calibration"]["after"]
    folder = f"releases/{file_name_of(manifest['study']['name'])}"
    return _CARD.format(
        warning=WARNING,
        area=markdown(manifest["area"]),
        whose=_whose(manifest),
        also=_ALSO if "body_part" in test else "",
        network=_network(manifest),
        size=manifest["preprocessing"]["size"],
        point=code(manifest["recommended"]),
        rule=markdown(manifest["threshold"]["chosen"]),
        threshold=manifest["threshold"]["value"],
        dataset=markdown(manifest["data"].get("name") or "the data set"),
        table=_figures(dev, test),
        image_auc=words(test["by_image"]["auc"]),
        image_kappa=words(test["by_image"]["kappa"]),
        share=test["abnormal"] / test["studies"],
        dev_share=dev["abnormal"] / dev["studies"],
        points=_points(manifest),
        temperature=manifest["calibration"]["temperature"],
        offset=shifted(manifest["calibration"]["offset"]),
        ece_after=words(after["ece"]),
        ece_before=words(before["ece"]),
        brier_after=words(after["brier"]),
        brier_before=words(before["brier"]),
        doubt=_doubt(manifest),
        start=_start(manifest),
        day=markdown(manifest["created"][:10]),
        counts=counts_table(manifest["data"]["counts"]),
        left_out=_left_out(manifest["data"]["left_out"]),
        images=test["images"],
        digest=code(manifest["recipe_digest"]),
        trial=manifest["study"]["trial"],
        study=code(manifest["study"]["name"]),
        infer=shell_command(
            "mura", "infer", "--release", folder, "--image", "view1.png", "--image", "view2.png"
        ),
        explain=shell_command(
            "mura", "explain", "--release", folder, "--image", "view1.png", "--deletion"
        ),
        verdict=_sentence(manifest["study"].get("verdict", "")),
        seeds=f"{seeds} " if (seeds := describe(manifest)) else "",
        weights=", ".join(code(name) for name in manifest.get("members", [WEIGHTS])),
        version=manifest["versions"]["mura-tune"],
    )


def _network(manifest: Mapping[str, Any]) -> str:
    if (number := len(manifest.get("members", [WEIGHTS]))) == 1:
        return f"A {code(manifest['arch'])} network"
    return f"The mean of the logits of {number} {code(manifest['arch'])} networks"


def _whose(manifest: Mapping[str, Any]) -> str:
    areas = manifest.get("areas", ())
    return f"of any of {', '.join(map(markdown, areas))}" if len(areas) > 1 else "of this area"


def _sentence(told: str) -> str:
    return f"{told[0].upper()}{told[1:]}. " if told else ""


def _figures(dev: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    heads = (f"{m['split']}, {m['studies']} studies, {m['patients']} patients" for m in (dev, test))
    rows = (f"| {name} | {words(dev[key])} | {words(test[key])} |" for key, name in NAMES.items())
    areas = (
        f"| AUC, {markdown(area)} | {words(dev['auc_by_area'][area])} | {words(auc)} |"
        for area, auc in test["auc_by_area"].items()
        if area in dev["auc_by_area"]
    )
    parts = (
        (f"| Body part: {markdown(name)} | {on_dev} | {on_test} |")
        for name, on_dev, on_test in (
            figure_rows(dev["body_part"], test["body_part"]) if "body_part" in test else ()
        )
    )
    return "\n".join([f"| | {' | '.join(heads)} |", "| --- | --- | --- |", *rows, *areas, *parts])


def _points(manifest: Mapping[str, Any]) -> str:
    rows = [
        f"| {code(name)} | {point['threshold']:.3f} | {words(point['sensitivity'])} | "
        f"{words(point['specificity'])} |"
        for name, point in manifest["metrics"]["test"]["operating_points"].items()
    ]
    head = "| | threshold | sensitivity on test | specificity on test |"
    return "\n".join([head, "| --- | --- | --- | --- |", *rows])


def _doubt(manifest: Mapping[str, Any]) -> str:
    band, told = manifest["abstain"], manifest["metrics"]["test"]["abstain"]
    if band["high"] <= band["low"]:
        n = manifest["metrics"]["dev"]["studies"]
        return f"There is no band of doubt: of dev's studies {wrong(band['error_without'], n)}."
    n = manifest["metrics"]["test"]["studies"]
    left = n - told["studies"]
    rest = f"; of the others {wrong(told['error'], left)}" if left else ""
    return (
        f"From {range_text(band['low'], band['high'])} `mura infer` says *abstain* "
        f"({band['chosen']}): {told['studies']} of {n} test studies fall there{rest} (without the "
        f"band {wrong(told['error_without'], n)})."
    )


def _left_out(findings: Sequence[Mapping[str, str]]) -> str:
    """How many of each kind, and the first of them by name; `report.html` has all."""
    if not findings:
        return "none"
    kinds = Counter(finding["kind"] for finding in findings)
    told = ", ".join(f"{n} {markdown(kind)}" for kind, n in kinds.items())
    some = ", ".join(code(finding["path"]) for finding in findings[:5])
    return f"{told} ({some}{', …' if len(findings) > 5 else ''}); `report.html` says why"


def _start(manifest: Mapping[str, Any]) -> str:
    """What the weights were before training; a file by its name and sum, not by its place."""
    start, digest = manifest["recipe"]["pretrained"], manifest.get("start_sha256")
    if start == "none":
        return "random weights"
    name = "timm's ImageNet weights" if start == "imagenet" else code(PurePath(start).name)
    return f"{name} (sha256 {code(digest[:16])})" if digest else name


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Images, studies and patients of each part, in Markdown."""
    names = [*counts["train"]]
    rows = (
        f"| {part} | {' | '.join(str(counts[part][name]) for name in names)} |" for part in counts
    )
    return "\n".join([f"| part | {' | '.join(names)} |", "| --- |" + " --- |" * len(names), *rows])
