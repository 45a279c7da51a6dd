"""An ablation: a multi-task recipe trained with its second task's loss and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from mura_tune.data.prepare import Prepared
from mura_tune.metrics.comparison import compare_aucs
from mura_tune.metrics.estimates import Estimate
from mura_tune.recipe import Recipe
from mura_tune.training.batches import load_split
from mura_tune.training.fit import Epoch, fit
from mura_tune.training.tasks import MULTI_TASK, task_of


@dataclass(frozen=True)
class Ablation:
    """The dev study AUC of each seed with the auxiliary loss and without, and their difference.

    Attributes:
        weight: `aux_weight` of the recipe, the auxiliary loss's.
        seeds: of the runs, the same with the loss and without.
        difference: with minus without, paired by patient, the mean over the seeds.
    """

    weight: float
    seeds: tuple[int, ...]
    with_loss: tuple[float, ...]
    without_loss: tuple[float, ...]
    difference: Estimate

    def describe(self) -> str:
        """The difference as lines for people."""
        difference = self.difference
        pairs = zip(self.seeds, self.with_loss, self.without_loss, strict=True)
        return "\n".join(
            [
                f"dev, {difference.studies} studies of {difference.patients} patients; "
                "the same recipe, epochs and seeds",
                *(
                    f"  seed {seed}: study AUC {ours:.3f} with aux_weight {self.weight:g}, "
                    f"{theirs:.3f} with 0"
                    for seed, ours, theirs in pairs
                ),
                f"  with minus without {difference.signed()}, paired by patient, "
                f"mean of {len(self.seeds)} seeds",
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """What `mura ablate --json` prints."""
        return {
            "split": "dev",
            "aux_weight": self.weight,
            "seeds": list(self.seeds),
            "with": list(self.with_loss),
            "without": list(self.without_loss),
            "difference": self.difference.to_json(),
        }


def ablate(
    prepared: Prepared,
    recipe: Recipe,
    seeds: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
) -> Ablation:
    """Train a multi-task recipe `seeds` times as it is, and as often with `aux_weight` 0.

    Dev also chose each run's epoch, with the loss and without alike. Test is not read.
    """
    train, dev = (load_split(prepared, split, device) for split in ("train", "dev"))
    numbers = tuple((recipe.seed + i) % 2**32 for i in range(seeds))
    task = task_of(MULTI_TASK.name, recipe)
    tables, scores = [], []
    for weight in (recipe.aux_weight, 0.0):
        runs = []
        for seed in numbers:
            own = replace(recipe, seed=seed, aux_weight=weight)
            net = task.start(own, train).to(device)
            runs.append(fit(net, train, dev, own, task, on_epoch=on_epoch))
        tables.append([task.table(run.logits, dev) for run in runs])
        scores.append(tuple(run.epoch.score for run in runs))
    difference = compare_aucs(tables[0], tables[1])
    return Ablation(recipe.aux_weight, numbers, scores[0], scores[1], difference)
