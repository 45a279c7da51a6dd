"""MODEL_CARD.md: what a release is for, what it was measured on, and what it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = {
    "auc": "AUC", "sensitivity": "Sensitivity", "specificity": "Specificity",
    "accuracy": "Accuracy", "f1": "F1", "kappa": "Cohen's kappa",
}  # fmt: skip

_CARD = """# {area}: abnormality in musculoskeletal radiographs

**Not a medical device.** For research; not for diagnosis, triage or any decision about a patient.

A `{arch}` network at {size} px that gives the probability that a study of this area is *abnormal*.
Abnormal is MURA's label: fracture, hardware, degenerative disease, lesion and others together. It
is not the probability of a fracture.

## Figures

Study level (mean probability over a study's views), 95 % intervals from {draws} resamplings of
whole patients. The threshold {threshold:.3f} has the largest Youden index on dev; the epoch was
chosen on dev too, so dev figures flatter the model. Test is the published `valid` part, measured
after everything was fixed. It is not MURA's hidden test set: don't put the two in one column.

{table}

## Training

{counts}

{left_out} image(s) left out{left_out_names}.
Patients are in one part only, over all areas. Recipe `{digest}`, from trial {trial} of study
`{study}`; `bundle.json` holds all of it.

## Known limits

- About half of MURA's abnormal studies show hardware, plaster or marks: the model can learn those
  instead of the disease.
- One hospital's data and one country's patients; other equipment will shift the scores.
- The probability is not calibrated beyond its threshold.
- Unknown on children's growth plates, on other body parts, and on photographs of films.

## Use

```
mura infer --release {area} --image view1.png --image view2.png
```

Weights: `model.safetensors`. Data: Rajpurkar et al., MURA: Large Dataset for Abnormality Detection
in Musculoskeletal Radiographs, MIDL 2018, whose research-use licence binds these weights too when
they were trained on it.
"""


def model_card(manifest: Mapping[str, Any]) -> str:
    """The card of a release, from its bundle.json."""
    dev, test = manifest["metrics"]["dev"], manifest["metrics"]["test"]
    counts = manifest["data"]["counts"]
    left_out = [finding["path"] for finding in manifest["data"]["left_out"]]
    rows = [
        "| | " + " | ".join(f"{m['split']}, {m['studies']} studies" for m in (dev, test)) + " |",
        "| --- | --- | --- |",
        *(
            f"| {shown} | {_cell(dev[key])} | {_cell(test[key])} |"
            for key, shown in METRICS.items()
        ),
    ]
    names = [*counts["train"]]
    parts = [
        "| part | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
        *(f"| {part} | " + " | ".join(str(counts[part][n]) for n in names) + " |"
          for part in counts),
    ]  # fmt: skip
    shown = ", ".join(f"`{path}`" for path in left_out[:5])
    return _CARD.format(
        area=manifest["area"],
        arch=manifest["arch"],
        size=manifest["preprocessing"]["size"],
        draws="2,000",
        threshold=manifest["threshold"]["value"],
        table="\n".join(rows),
        counts="\n".join(parts),
        left_out=len(left_out),
        left_out_names=f" ({shown}{', …' if len(left_out) > 5 else ''})" if left_out else "",
        digest=manifest["recipe_digest"],
        trial=manifest["study"]["trial"],
        study=manifest["study"]["name"],
    )


def _cell(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
