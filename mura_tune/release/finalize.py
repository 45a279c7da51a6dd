"""The best trial's recipe, trained at length in two phases and written as a release."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mura_tune
from mura_tune import config
from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError
from mura_tune.learning.batches import MEAN, STD, split_of
from mura_tune.learning.memory import Epoch, Memory
from mura_tune.learning.models import build
from mura_tune.learning.tasks import ABNORMALITY
from mura_tune.learning.training import FORGETFUL, Fit, fit
from mura_tune.recipe import Recipe, apply
from mura_tune.release import bundle
from mura_tune.release.calibrate import choose
from mura_tune.release.card import model_card
from mura_tune.release.evaluate import Measured, measure, measured
from mura_tune.release.report import report
from mura_tune.tuning.results import Best
from mura_tune.tuning.words import verdict


@dataclass(frozen=True, eq=False)
class Release:
    """What finalize made: the folder, and its figures on dev and test."""

    folder: Path
    manifest: dict[str, Any]
    dev: Measured
    test: Measured


def final_recipe(best: Best) -> Recipe:
    """The stored recipe of the best trial with the study's final phases in it."""
    return apply(best.best.recipe, best.config.final, f"study {best.study}: final")


def finalize(
    best: Best,
    prepared: Prepared,
    folder: Path,
    device: torch.device,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    memory: Callable[[Recipe], Memory] = lambda recipe: FORGETFUL,
    dataset: str = "",
) -> Release:
    """Train the final network on train, choose what there is to choose on dev, measure on test.

    Args:
        memory: keeps the run of a recipe between epochs; see `release.checkpoint`.
        dataset: what the data is called, for people.

    Raises:
        InputError: the data or its split changed since the search.
        Diverged: the loss is no longer a finite number.
    """
    _same_as_searched(best, prepared)
    recipe = final_recipe(best)
    net = build(recipe.arch, size=recipe.size, pretrained=recipe.pretrained, seed=recipe.seed).to(
        device
    )
    train, dev_split = (split_of(prepared, part, device) for part in ("train", "dev"))
    result = fit(
        net, train, dev_split, recipe, ABNORMALITY, on_epoch=on_epoch, memory=memory(recipe)
    )
    chosen = choose(result.logits, dev_split)  # before anything reads test
    dev = measured(result.logits, dev_split, chosen)
    test = measure(net, prepared, "test", chosen)
    manifest = _manifest(best, prepared, recipe, result, dev, test)
    manifest["data"]["name"] = dataset
    page = report(net, manifest, prepared, test=test)
    texts = {bundle.CARD: model_card(manifest), bundle.REPORT: page}
    bundle.save(folder, net, manifest, texts)
    return Release(folder, manifest, dev, test)


def _same_as_searched(best: Best, prepared: Prepared) -> None:
    for what, then, now in (
        ("dataset", best.dataset, prepared.fingerprint),
        ("split", best.split_hash, prepared.split_hash),
    ):
        if then != now:
            raise InputError(
                f"study {best.study}: the {what} is not the one that was searched "
                f"({then[:12]}… then, {now[:12]}… now); point --data at that one, or tune again"
            )


def _manifest(
    best: Best, prepared: Prepared, recipe: Recipe, result: Fit, dev: Measured, test: Measured
) -> dict[str, Any]:
    """Everything that someone who only has the folder will ask."""
    return {
        "area": prepared.area,
        "arch": recipe.arch,
        "outputs": ABNORMALITY.outputs,
        "output": "logit of one view, uncalibrated; see calibration for a study's probability",
        "preprocessing": {
            "size": recipe.size, "channels": 1, "resize": "bilinear, to a square",
            "mean": MEAN, "std": STD, "range": [0, 1],
        },
        **dev.chosen.to_json(),
        "recipe": dataclasses.asdict(recipe),
        "recipe_digest": recipe.digest,
        "study": {
            "name": best.study, "trial": best.best.number, "params": best.best.params,
            "dev_auc": best.best.score, "dev_auc_interval": list(best.best.interval),
            "baseline_dev_auc": best.baseline.score if best.baseline else None,
            "confirmed": [dataclasses.asdict(c) for c in best.confirmed],
            "verdict": verdict(best),
            "history": [dataclasses.asdict(point) for point in best.history],
            "trials": best.counts, "config": config.to_dict(best.config),
        },
        "training": {
            "best_epoch": result.best.number,
            "epochs": [dataclasses.asdict(epoch) for epoch in result.epochs],
        },
        "metrics": {"dev": dev.to_json(), "test": test.to_json()},
        "data": {
            "fingerprint": prepared.fingerprint,
            "split_hash": prepared.split_hash,
            "counts": prepared.counts(),
            "left_out": [dataclasses.asdict(finding) for finding in prepared.left_out],
        },
        "versions": {
            "mura-tune": mura_tune.__version__, "torch": torch.__version__,
            "python": platform.python_version(), "numpy": np.__version__,
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
