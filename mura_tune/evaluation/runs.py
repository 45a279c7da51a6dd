"""Final runs that differ in their seed alone: which are released, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mura_tune.metrics.estimates import Estimate, Measure, StudyScores, range_text
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe
from mura_tune.training.batches import Split
from mura_tune.training.fit import Fit, predict

# From a run's logits on dev, dev, its logits on a part and that part: what is measured there.
Rows = Callable[[Tensor, Split, Tensor, Split], StudyScores]


@dataclass(frozen=True, eq=False)
class Run:
    """One final training and its score on dev, calibrated there as a release would be."""

    recipe: Recipe
    net: Network
    fit: Fit
    dev: Split
    measure: Measure
    rows: Rows

    def score(self, split: Split) -> Estimate:
        """The measure on any part; what it is calibrated with comes from dev."""
        logits = self.fit.logits if split is self.dev else predict(self.net, split)
        return self.measure.estimate(self.rows(self.fit.logits, self.dev, logits, split))


def strongest(runs: Sequence[Run]) -> Sequence[Run]:
    """The run with the highest score on dev, the first among equals."""
    return [max(runs, key=lambda run: run.score(run.dev).value)]


def everyone(runs: Sequence[Run]) -> Sequence[Run]:
    """All of them: the release is their mean."""
    return runs


def spread(runs: Sequence[Run], released: Sequence[Run], test: Split) -> dict[str, Any]:
    """What bundle.json says of several runs; called once the release is fixed, as it reads test."""
    scores = {
        "dev": [run.score(run.dev) for run in runs],
        "test": [run.score(test) for run in runs],
    }
    measure = runs[0].measure.name
    told = [
        {
            "seed": run.recipe.seed,
            "best_epoch": run.fit.best.number,
            "released": run in released,
            "dev_score": dev.to_json(),
            "test_score": tested.to_json(),
        }
        for run, dev, tested in zip(runs, scores["dev"], scores["test"], strict=True)
    ]
    return {
        "rule": "mean of all logits" if len(released) > 1 else f"highest dev {measure}",
        "measure": measure,
        "runs": told,
        **{f"{part}_score": _range([one.value for one in each]) for part, each in scores.items()},
    }


def _range(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "low": min(values),
        "high": max(values),
    }


def describe(manifest: Mapping[str, Any]) -> str:
    """The seeds of a release in a sentence; nothing where there was one."""
    found = manifest.get("seeds")
    if not found:
        return ""
    seeds = [one["seed"] for one in found["runs"] if one["released"]]
    what = f"the mean of all {len(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}, best on dev"
    apart = ", ".join(
        f"{part} {found['measure']} {range_text(told['low'], told['high'])} "
        f"(mean {told['mean']:.3f}, SD {told['sd']:.3f})"
        for part in ("dev", "test")
        for told in [found[f"{part}_score"]]
    )
    return f"Trained with {len(found['runs'])} seeds: {apart}. Released: {what}."
