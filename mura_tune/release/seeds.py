"""Final runs that differ in their seed alone: which are released, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mura_tune.learning.batches import Split
from mura_tune.learning.metrics import Estimate, auc_interval
from mura_tune.learning.models import Network
from mura_tune.learning.training import Fit, predict
from mura_tune.recipe import Recipe
from mura_tune.release.calibrate import choose


@dataclass(frozen=True, eq=False)
class Run:
    """One final training and its study AUC on dev, calibrated there as a release would be."""

    recipe: Recipe
    net: Network
    fit: Fit
    dev: Split

    def auc(self, split: Split) -> Estimate:
        """Study AUC on any part; what it is calibrated with comes from dev."""
        logits = self.fit.logits if split is self.dev else predict(self.net, split)
        return auc_interval(choose(self.fit.logits, self.dev).calibration.studies(logits, split))


def strongest(runs: Sequence[Run]) -> Sequence[Run]:
    """The run with the highest AUC on dev, the first among equals."""
    return [max(runs, key=lambda run: run.auc(run.dev).value)]


def everyone(runs: Sequence[Run]) -> Sequence[Run]:
    """All of them: the release is their mean."""
    return runs


def spread(runs: Sequence[Run], released: Sequence[Run], test: Split) -> dict[str, Any]:
    """What bundle.json says of several runs; called once the release is fixed, as it reads test."""
    aucs = {"dev": [run.auc(run.dev) for run in runs], "test": [run.auc(test) for run in runs]}
    told = [
        {
            "seed": run.recipe.seed,
            "best_epoch": run.fit.best.number,
            "released": run in released,
            "dev_auc": dev.to_json(),
            "test_auc": tested.to_json(),
        }
        for run, dev, tested in zip(runs, aucs["dev"], aucs["test"], strict=True)
    ]
    return {
        "rule": "mean of all logits" if len(released) > 1 else "highest dev AUC",
        "runs": told,
        **{f"{part}_auc": _range([auc.value for auc in found]) for part, found in aucs.items()},
    }


def _range(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)),
        "low": min(values), "high": max(values),
    }  # fmt: skip


def describe(manifest: Mapping[str, Any]) -> str:
    """The seeds of a release in a sentence; nothing where there was one."""
    found = manifest.get("seeds")
    if not found:
        return ""
    seeds = [one["seed"] for one in found["runs"] if one["released"]]
    what = f"the mean of all {len(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}, best on dev"
    apart = ", ".join(
        f"{part} AUC {told['low']:.3f} to {told['high']:.3f} (mean {told['mean']:.3f}, "
        f"SD {told['sd']:.3f})"
        for part in ("dev", "test")
        for told in [found[f"{part}_auc"]]
    )
    return f"Trained with {len(found['runs'])} seeds: {apart}. Released: {what}."
