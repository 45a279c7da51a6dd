"""From how many local studies on does recalibration help, and what does it cost without need?

Run: .venv/bin/python benchmarks/recalibrate.py [--quick] [--out FILE]. A small network is trained
on phantom wrists, and its decision is chosen on their dev split. It then meets other phantom wrists
as five other places have them: `same`, where nothing changed; `exposure`, where each picture is
darker and has less contrast; `prevalence`, where 15 % of the patients have an abnormal study in
place of some 40 %; `both`; and `too sure`, where each calibrated logit is 1.7 times what it is in
`same`. N patients are drawn there, with all of their studies, 200 times.
`before` is the release as it is, `after` is recalibrated on the N; both are measured on the other
patients of the place. The weights are the same, and so is the AUC. A slope of 1 is right; `worse`
is the share of draws where recalibration raises the log-loss. `shown` is what `mura recalibrate`
says of itself, the cross-fitted Brier score, and `held` how often its 95 % interval holds the Brier
score on the other patients. +- is the standard error of a mean over the draws. The last table has
the log-loss after recalibration with other ridges on the slope: that of dev, which ends at 50
patients, and an infinite one, which moves the level of probabilities alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import SMALL_CNN, arguments, opened

from mura_tune import config
from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.evaluation.cross_fit import cross_fit, fit_locally
from mura_tune.evaluation.decision import (
    Calibration,
    average_split,
    choose_decision,
    fit_calibration,
)
from mura_tune.metrics.calibration_error import estimate_brier, log_losses
from mura_tune.metrics.estimates import Floats, StudyLogits, StudyScores, logit
from mura_tune.metrics.ranking import AUC
from mura_tune.metrics.recalibration import fit_slopes
from mura_tune.networks.factory import build_network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import apply_values
from mura_tune.training.batches import load_split
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK

AREA, SIZE, CPU = "XR_WRIST", 96, torch.device("cpu")
# Patients in train and phantoms' seed; a quarter more are in valid.
OWN, ELSEWHERE = (240, 0), (800, 11)
RARE = 0.15  # share of patients with an abnormal study where they are rarer
SURE = 1.7  # what calibrated logits are multiplied by where the network is too sure
RIDGES = {"as on dev": None, "0": 0.0, "4": 4.0, "16": 16.0, "64": 64.0, "infinite": np.inf}
PATIENTS, DRAWS, SHOWN = (20, 50, 100, 200), 200, 60
RECIPE = {
    **SMALL_CNN,
    "size": SIZE,
    "finetune.epochs": 12,
}


def draw(root: Path, patients: int, seed: int) -> Prepared:
    write_phantoms(root, areas=(AREA,), patients=patients, seed=seed, size=256)
    split = config.load_config(AREA).split
    return prepare(open_dataset(root), AREA, SIZE, split, root.with_name(f"{root.name}-cache"))


def darken(pixels_nss: torch.Tensor) -> torch.Tensor:
    """Less light and less contrast: 200 x (p / 255) ^ 1.5."""
    return (200 * (pixels_nss.double() / 255) ** 1.5).round().to(torch.uint8)


def meet_places(quick: bool) -> tuple[Calibration, dict[str, StudyLogits]]:
    """The release's calibration, and the mean logits of each place's studies."""
    with tempfile.TemporaryDirectory() as name:
        own, others = (
            draw(Path(name, f"phantoms-{seed}"), patients // 10 if quick else patients, seed)
            for patients, seed in (OWN, ELSEWHERE)
        )
        recipe = apply_values(config.load_config(AREA).recipe, RECIPE, "benchmark")
        net = build_network("cnn", seed=recipe.seed)
        train, dev = (load_split(own, split, CPU) for split in ("train", "dev"))
        result = fit(net, train, dev, recipe, ABNORMALITY_TASK)
        calibration = choose_decision(average_split(result.logits, dev)).calibration
        everyone = replace(others, frame=others.frame.assign(split="local"))
        split = load_split(everyone, "local", CPU)
        darker = replace(split, pixels=darken(split.pixels[:]))
        same, exposure = (average_split(predict(net, one), one) for one in (split, darker))
    return calibration, {
        "same": same,
        "exposure": exposure,
        "prevalence": thin_out(same),
        "both": thin_out(exposure),
        "too sure": replace(same, logits=sharpen(calibration, same.logits)),
    }


def sharpen(calibration: Calibration, logits_m: Floats) -> Floats:
    """Logits whose calibrated value is SURE times that of `logits_m`."""
    calibrated = SURE * calibration.logits(logits_m)
    return calibrated * calibration.temperature - calibration.offset


def thin_out(studies: StudyLogits) -> StudyLogits:
    """The same place with fewer patients who have an abnormal study: a share RARE of all."""
    _, inverse = np.unique(studies.patients, return_inverse=True)
    abnormal = np.bincount(inverse, weights=studies.labels) > 0
    rng = np.random.default_rng(0)
    kept = rng.permutation(np.flatnonzero(abnormal))
    kept = kept[: round(RARE / (1 - RARE) * (~abnormal).sum())]
    stays = ~abnormal
    stays[kept] = True
    return studies.take(stays[inverse])


def answer(calibration: Calibration, studies: StudyLogits) -> StudyScores:
    return replace(studies, logits=calibration.logits(studies.logits)).scores()


def measure(studies: StudyScores) -> Mapping[str, float]:
    slope = fit_slopes(logit(studies.scores), studies.labels, np.ones((1, len(studies.labels))))
    return {
        "slope": float(slope[0]),
        "brier": float(((studies.scores - studies.labels) ** 2).mean()),
        "log_loss": float(log_losses(studies).mean()),
    }


def judge(parent: Calibration, place: StudyLogits, patients: int, draws: int) -> str:
    names = np.unique(place.patients)
    before, after, shown, held = [], [], [], []
    for number in range(draws):
        rng = np.random.default_rng((patients, number))
        drawn = np.isin(place.patients, rng.choice(names, patients, replace=False))
        local, rest = place.take(drawn), place.take(~drawn)
        if min(local.labels.sum(), (1 - local.labels).sum()) < 2:
            continue  # the verb refuses these
        before.append(measure(answer(parent, rest)))
        after.append(measure(answer(fit_locally(parent, local), rest)))
        if number < SHOWN:
            brier = estimate_brier(cross_fit(parent, local).studies, draws=400)
            shown.append(brier.value)
            held.append(brier.low <= after[-1]["brier"] <= brier.high)
    columns = []
    for key in ("slope", "brier", "log_loss"):
        was, now = (np.array([one[key] for one in rows]) for rows in (before, after))
        form = ".3f" if key == "slope" else ".4f"
        columns.append(
            f"{np.nanmean(was):{form}} -> {np.nanmean(now):{form}} +-{error(now):{form}}"
        )
    losses = np.array([b["log_loss"] - a["log_loss"] for b, a in zip(before, after, strict=True)])
    worse = f"{(losses < 0).mean():.2f}"
    return (
        f"{patients:>4} {'  '.join(columns)}  {worse:>5} {np.mean(shown):.4f} {np.mean(held):.2f}"
    )


def compare_ridges(parent: Calibration, place: StudyLogits, patients: int, draws: int) -> str:
    """The mean log-loss on the other patients after recalibration by each ridge."""
    names, calibrated = np.unique(place.patients), parent.logits(place.logits)
    place = replace(place, logits=calibrated)
    losses: dict[str, list[float]] = {name: [] for name in RIDGES}
    for number in range(draws):
        rng = np.random.default_rng((patients, number))
        drawn = np.isin(place.patients, rng.choice(names, patients, replace=False))
        local, rest = place.take(drawn), place.take(~drawn)
        if min(local.labels.sum(), (1 - local.labels).sum()) < 2:
            continue
        for name, ridge in RIDGES.items():
            fitted = fit_calibration(local, ridge)
            losses[name].append(float(log_losses(answer(fitted, rest)).mean()))
    return f"{patients:>4}" + "".join(f"{np.mean(values):>11.4f}" for values in losses.values())


def error(values: Floats) -> float:
    return float(np.nanstd(values, ddof=1) / np.sqrt(np.isfinite(values).sum()))


def main() -> None:
    quick = opened(arguments(__doc__)).quick
    parent, places = meet_places(quick)
    head = "slope                      Brier                         log-loss"
    for name, place in places.items():
        n, share = len(np.unique(place.patients)), place.labels.mean()
        auc = AUC.score(place.scores())
        print(
            f"\n{name}: {len(place.labels)} studies of {n} patients, {share:.3f} abnormal, "
            f"AUC {auc:.3f}"
        )
        print(f"   N {head}                      worse  shown held")
        for patients in PATIENTS[:1] if quick else PATIENTS:
            print(judge(parent, place, patients, 5 if quick else DRAWS))
    print("\nlog-loss after recalibration, by the ridge on the slope")
    print("   N" + "".join(f"{name:>11}" for name in RIDGES))
    for name, place in places.items():
        print(name)
        for patients in PATIENTS[:1] if quick else PATIENTS:
            print(compare_ridges(parent, place, patients, 5 if quick else DRAWS))


if __name__ == "__main__":
    main()
