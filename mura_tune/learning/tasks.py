"""A task as data: how many outputs, which loss, which score decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mura_tune.learning.batches import Split
from mura_tune.learning.metrics import Studies, auc, by_study
from mura_tune.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, K), labels (N,) -> mean loss ()


@dataclass(frozen=True)
class Task:
    """What a network of `outputs` logits learns.

    Attributes:
        loss: from the training split and the recipe, the loss of a batch.
        score: from logits (N, K) and their split, the number that decides; more is better.
        monitor: what that number is called.
    """

    name: str
    outputs: int
    monitor: str
    loss: Callable[[Split, Recipe], Loss]
    score: Callable[[Tensor, Split], float]


def study_scores(logits_nk: Tensor, split: Split) -> Studies:
    """One probability of *abnormal* a study, from the first logit of each of its views."""
    logits = logits_nk[:, 0].double().cpu().numpy()
    return by_study(logits, split.labels.cpu().numpy(), split.studies, split.patients)


def _balanced_bce(train: Split, recipe: Recipe) -> Loss:
    """Binary cross-entropy; the positive class weighs `class_weight` x negatives / positives."""
    positives = int(train.labels.sum())
    weight = recipe.class_weight * (len(train) - positives) / max(positives, 1)

    def loss(logits_nk: Tensor, labels_n: Tensor) -> Tensor:
        pos_weight = torch.tensor(weight, dtype=logits_nk.dtype, device=logits_nk.device)
        target = labels_n.to(logits_nk.dtype)
        return F.binary_cross_entropy_with_logits(logits_nk[:, 0], target, pos_weight=pos_weight)

    return loss


def _study_auc(logits_nk: Tensor, split: Split) -> float:
    studies = study_scores(logits_nk, split)
    return auc(studies.scores, studies.labels) if np.isfinite(studies.scores).all() else np.nan


ABNORMALITY = Task(
    name="abnormality", outputs=1, monitor="study AUC", loss=_balanced_bce, score=_study_auc
)
