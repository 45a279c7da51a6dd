"""Final runs that differ in their seed alone: which are released, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mura_tune.evaluation.familiarity import TrainedFeatures
from mura_tune.metrics.estimates import Estimate, Measure, StudyScores
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe
from mura_tune.release_format.entries import RunEntry, RunsEntry, SpreadEntry
from mura_tune.training.batches import Split
from mura_tune.training.fit import FitResult, predict

# From a run's logits on dev, dev, its logits on a split and that split: the scores there.
Scorer = Callable[[Tensor, Split, Tensor, Split], StudyScores]


@dataclass(frozen=True, eq=False)
class FinalRun:
    """One final training and its score on dev, calibrated there as a release would be.

    Attributes:
        features: what its training views look like to it, and how far dev's lie from them.
    """

    recipe: Recipe
    net: Network
    fit: FitResult
    dev: Split
    measure: Measure
    scorer: Scorer
    features: TrainedFeatures

    def score(self, split: Split) -> Estimate:
        """The measure on any split; what it is calibrated with comes from dev."""
        logits = self.fit.logits if split is self.dev else predict(self.net, split)
        return self.measure.estimate(self.scorer(self.fit.logits, self.dev, logits, split))


def pick_strongest(runs: Sequence[FinalRun]) -> Sequence[FinalRun]:
    """The run with the highest score on dev, the first among equals."""
    return [max(runs, key=lambda run: run.score(run.dev).value)]


def pick_all(runs: Sequence[FinalRun]) -> Sequence[FinalRun]:
    """All of them: the release is their mean."""
    return runs


def summarise_runs(
    runs: Sequence[FinalRun], released: Sequence[FinalRun], test: Split
) -> RunsEntry:
    """What bundle.json says of several runs; called once the release is fixed, as it reads test."""
    dev_scores = [run.score(run.dev) for run in runs]
    test_scores = [run.score(test) for run in runs]
    measure = runs[0].measure.name
    return RunsEntry(
        rule="mean of all logits" if len(released) > 1 else f"highest dev {measure}",
        measure=measure,
        runs=tuple(
            RunEntry(
                seed=run.recipe.seed,
                best_epoch=run.fit.epoch.number,
                released=run in released,
                dev_score=dev_score,
                test_score=test_score,
            )
            for run, dev_score, test_score in zip(runs, dev_scores, test_scores, strict=True)
        ),
        dev_score=_spread_of([score.value for score in dev_scores]),
        test_score=_spread_of([score.value for score in test_scores]),
    )


def _spread_of(values: Sequence[float]) -> SpreadEntry:
    return SpreadEntry(
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)),
        low=min(values),
        high=max(values),
    )
