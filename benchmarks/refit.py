"""Is a release better that is trained on train and dev, and decided on out-of-fold answers?

Run: .venv/bin/python benchmarks/refit.py [--quick] [--out FILE]. So many patients of a pool of
phantom wrists are train and dev, all others test, anew in each repetition. `held-out dev` trains
the small CNN on three quarters and takes the epoch and the decision by the fourth; `refit` is
`release.refit`, with three folds. Their difference is paired by repetition, with Student's t
interval. `flatters`: the AUC on dev, as the release says it, minus that on test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import SMALL_CNN, arguments, mean_interval, opened
from torch import Tensor

from mura_tune import config
from mura_tune.config import Holdout
from mura_tune.data.prepare import Prepared, open_dataset, prepare, prepare_folds
from mura_tune.evaluation.decision import average_split, choose_decision
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.operating_points import threshold_metrics
from mura_tune.metrics.ranking import auc
from mura_tune.networks.network import Network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import Recipe, apply_values
from mura_tune.release.refit import load_all_patients, refit
from mura_tune.training.batches import Split, load_split
from mura_tune.training.fit import NO_MEMORY, fit, ignore_epoch, predict
from mura_tune.training.tasks import ABNORMALITY_TASK as TASK

AREA, SIZE, CPU = "XR_WRIST", 64, torch.device("cpu")
POOL, PATIENTS, REPEATS = 400, 80, 8
VALUES = {
    **SMALL_CNN,
    "size": SIZE,
    "finetune.epochs": 12,
    "patience": 6,
}
NUMBERS = ("AUC", "log-loss", "kappa", "flatters")


def divided(pool: Prepared, holdout: Holdout, patients: int) -> Prepared:
    """So many patients in train and dev; all others are test."""
    frame = pool.frame
    names = np.unique(frame["patient"].to_numpy(object))
    own = np.random.default_rng(holdout.seed).permutation(names)[:patients]
    dev = own[: round(holdout.dev * patients)]
    split = np.where(frame["patient"].isin(dev), "dev", "train")
    split = np.where(frame["patient"].isin(own), split, "test")
    return replace(pool, frame=frame.assign(split=split))


def judged(net: Network, on_dev: Tensor, dev: Split, test: Split) -> list[float]:
    """NUMBERS of a network on test, by the decision that dev gives."""
    decision = choose_decision(average_split(on_dev, dev))
    known, new = (
        decision.calibration.studies(logits, split)
        for logits, split in ((on_dev, dev), (predict(net, test), test))
    )
    calls, once = new.scores >= decision.threshold, np.ones((1, len(new.labels)))
    kappa = float(threshold_metrics(calls, new.labels, once)["kappa"][0])
    on_test = auc(new.scores, new.labels)
    return [on_test, log_loss(new), kappa, auc(known.scores, known.labels) - on_test]


def log_loss(studies: StudyScores) -> float:
    right = np.where(studies.labels == 1, studies.scores, 1 - studies.scores)
    return float(-np.log(np.clip(right, 1e-12, 1)).mean())


def run(pool: Prepared, recipe: Recipe, patients: int) -> tuple[list[float], list[float]]:
    """NUMBERS of both ways, on one draw of patients."""
    holdout = Holdout(dev=0.25, seed=recipe.seed, folds=3)
    own = divided(pool, holdout, patients)
    train, dev, test = (load_split(own, split, CPU) for split in ("train", "dev", "test"))
    net = TASK.start(recipe, train)
    before = judged(net, fit(net, train, dev, recipe, TASK).logits, dev, test)
    everyone, views = load_all_patients(own, CPU), prepare_folds(own, holdout)
    _, net, result = refit(
        recipe,
        TASK,
        everyone,
        views,
        CPU,
        on_epoch=ignore_epoch,
        memory=lambda _recipe, _patients: NO_MEMORY,
    )
    return before, judged(net, result.logits, everyone, test)


def show(runs: Sequence[tuple[list[float], list[float]]]) -> None:
    before, after = (np.array([pair[side] for pair in runs]) for side in (0, 1))
    print(f"{'on test':<10}{'held-out dev':>14}{'refit':>9}   difference, 95 % interval")
    for column, name in enumerate(NUMBERS):
        own = after[:, column] - before[:, column]
        means = f"{before[:, column].mean():>14.3f}{after[:, column].mean():>9.3f}"
        print(f"{name:<10}{means}   {mean_interval(own)}")


def main() -> None:
    given = opened(arguments(__doc__))
    pool_size, patients, repeats = (60, 40, 2) if given.quick else (POOL, PATIENTS, REPEATS)
    recipe = apply_values(config.load_config(AREA).recipe, VALUES, "benchmark")
    if given.quick:
        recipe = apply_values(recipe, {"finetune.epochs": 2}, "benchmark")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "phantoms")
        write_phantoms(root, areas=(AREA,), patients=pool_size, seed=11, size=128)
        split = config.load_config(AREA).split
        pool = prepare(open_dataset(root), AREA, SIZE, split, Path(name, "cache"))
        runs = []
        for seed in range(repeats):
            runs.append(run(pool, replace(recipe, seed=seed), patients))
            print(seed, *(" ".join(f"{number:.3f}" for number in side) for side in runs[-1]))
    print(f"\n{patients} patients of train and dev, {repeats} repetitions")
    show(runs)


if __name__ == "__main__":
    main()
