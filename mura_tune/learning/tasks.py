"""A task as data: how many outputs, which loss, which score decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mura_tune.learning.batches import Split
from mura_tune.learning.losses import Loss, binary
from mura_tune.learning.metrics import Studies, auc, by_study
from mura_tune.recipe import Recipe


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


def _study_auc(logits_nk: Tensor, split: Split) -> float:
    studies = study_scores(logits_nk, split)
    return auc(studies.scores, studies.labels) if np.isfinite(studies.scores).all() else np.nan


ABNORMALITY = Task(
    name="abnormality", outputs=1, monitor="study AUC", loss=binary, score=_study_auc
)
