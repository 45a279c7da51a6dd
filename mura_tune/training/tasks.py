"""A task as data: what a network's outputs mean, which loss, which score decides."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mura_tune.errors import InputError
from mura_tune.metrics.areas import (
    ACCURACY,
    AreaLogits,
    AreaRecognition,
    average_logits,
    evaluate_areas,
)
from mura_tune.metrics.estimates import Measure, Names, StudyScores, average_views, score_studies
from mura_tune.metrics.operating_points import MONITOR_MEASURES
from mura_tune.metrics.ranking import AUC
from mura_tune.networks.factory import build_network
from mura_tune.networks.heads import (
    AreaHead,
    calm_classifier,
    set_output_biases,
    shrink_classifier,
)
from mura_tune.networks.network import Network
from mura_tune.networks.starts import NONE
from mura_tune.recipe import Recipe
from mura_tune.training.batches import Split, view_shares
from mura_tune.training.losses import Loss, binary_loss, positive_weight

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """What a network learns.

    Attributes:
        outputs: K, from the number of areas.
        targets: what the loss is given of a split, a row a view.
        loss: from the training split and the recipe, the loss of each view of a batch.
        table: from logits (N, K) and their split, the studies that `measure` is taken of.
        prior: from the training split and the recipe, the logits (K,) that every view gets before
            anything is learned: those of the classes' frequencies under the loss's weights.
        measure: the score that decides; more is better.
        recognises_areas: whether a logit of each area is among the outputs.
        classes: from the label and the area (an index) of each study, what `measure` tells apart.
        head: makes the classifier from the numbers of features and outputs; None for a linear one.
        beside: the same as `table` for a second task, which is judged by the accuracy.
    """

    name: str
    outputs: Callable[[int], int]
    targets: Callable[[Split], Tensor]
    loss: Callable[[Split, Recipe], Loss]
    prior: Callable[[Split, Recipe], Tensor]
    table: Callable[[Tensor, Split], StudyScores]
    measure: Measure
    recognises_areas: bool = False
    classes: Callable[[Classes, Classes], Classes] = lambda labels, areas: labels
    head: Callable[[int, int], nn.Module] | None = None
    beside: Callable[[Tensor, Split], StudyScores] | None = None

    @property
    def monitor(self) -> str:
        """What the score is called."""
        return f"study {self.measure.name}"

    def score(self, logits_nk: Tensor, split: Split) -> float:
        """The number that decides; NaN where a logit is."""
        if bool(logits_nk.isnan().any()):
            return math.nan
        return self.measure.score(self.table(logits_nk, split))

    def start(
        self, recipe: Recipe, train: Split, build: Callable[..., Network] = build_network
    ) -> Network:
        """The network that a run begins with: where the recipe says so, its first answer to every
        view is the training split's prior. `build` and InputError as `build_network`."""
        net = self.network(recipe, len(train.areas), build)
        if recipe.head_init == "prior":
            set_output_biases(net.body.get_classifier(), self.prior(train, recipe))
        return net

    def network(
        self, recipe: Recipe, areas: int, build: Callable[..., Network] = build_network
    ) -> Network:
        """A fresh network for this task on so many areas, which knows no data; `build` and
        InputError as `build_network`."""
        outputs = self.outputs(areas)
        net = build(
            recipe.arch,
            size=recipe.size,
            pretrained=recipe.pretrained,
            outputs=outputs,
            seed=recipe.seed,
            head=self.head,
            normalisation=recipe.normalisation,
        )
        if recipe.head_init == "small":
            shrink_classifier(net.body.get_classifier(), outputs)
        elif recipe.head_init == "prior":
            scratch = recipe.pretrained == NONE
            calm_classifier(
                net.body.get_classifier(), outputs, seed=recipe.seed if scratch else None
            )
        return net


def study_logits(logits_nk: Tensor, split: Split) -> AreaLogits:
    """A row a study, from its views' logits of the areas alone, (N, K)."""
    return average_logits(*_of_areas(logits_nk, split))


def recognise_areas(logits_nk: Tensor, split: Split) -> AreaRecognition:
    """How well a split's areas are told apart, from its views' logits of the areas, (N, K)."""
    return evaluate_areas(*_of_areas(logits_nk, split), areas=split.areas)


def _of_areas(
    logits_nk: Tensor, split: Split
) -> tuple[NDArray[np.float64], NDArray[np.int64], Names, Names]:
    logits = logits_nk.double().cpu().numpy()
    return logits, split.area_labels.cpu().numpy(), split.studies, split.patients


def study_scores(logits_nk: Tensor, split: Split) -> StudyScores:
    """One probability of *abnormal* a study: the mean of its views', by their first logits."""
    return score_studies(*_abnormality_columns(logits_nk, split))


def mean_logit_scores(logits_nk: Tensor, split: Split) -> StudyScores:
    """The same as the sigmoid of its views' mean logit, which a release calibrates."""
    return average_views(*_abnormality_columns(logits_nk, split)).scores()


def _abnormality_columns(
    logits_nk: Tensor, split: Split
) -> tuple[NDArray[np.float64], NDArray[np.int64], Names, Names]:
    logits = logits_nk[:, 0].double().cpu().numpy()
    return logits, split.labels.cpu().numpy(), split.studies, split.patients


def score_recognition(logits_nk: Tensor, split: Split) -> StudyScores:
    """A row a study: its area as the label, and 1 or 0 as the score: was it recognised?

    A study's area is that of the largest logit, averaged over its views.
    """
    return study_logits(logits_nk, split).correctness()


def abnormality_prior(train: Split, recipe: Recipe) -> Tensor:
    """The logit (1,) of *abnormal*'s weighted frequency in what an epoch sees.

    At a `class_weight` of 1 both classes weigh the same, and it is 0.
    """
    shares, positives = view_shares(train, recipe), train.labels.cpu().numpy() == 1
    weighed = positive_weight(train, recipe) * shares[positives].sum()
    if not weighed or positives.all():  # one class alone says nothing of the other
        return torch.zeros(1)
    odds = weighed / shares[~positives].sum()
    smoothed = recipe.label_smoothing / 2
    return torch.tensor([math.log((odds + smoothed * (1 - odds)) / (1 - smoothed * (1 - odds)))])


def area_prior(train: Split, recipe: Recipe) -> Tensor:
    """The logarithm (K,) of each area's frequency in what an epoch sees.

    An area without a view counts as one view would.
    """
    shares = view_shares(train, recipe)
    counts = np.bincount(train.area_labels.cpu().numpy(), shares, len(train.areas))
    own = 1 - recipe.label_smoothing
    smoothed = own * np.maximum(counts, 1 / len(train)) + (1 - own) / len(train.areas)
    return torch.from_numpy(np.log(smoothed)).float()


def _both_priors(train: Split, recipe: Recipe) -> Tensor:
    return torch.cat((abnormality_prior(train, recipe), area_prior(train, recipe)))


def _cross_entropy(train: Split, recipe: Recipe) -> Loss:
    """Over the areas, as often as they occur."""
    return functools.partial(
        F.cross_entropy, reduction="none", label_smoothing=recipe.label_smoothing
    )


def _both(train: Split, recipe: Recipe) -> Loss:
    """The abnormality's loss, and `aux_weight` times the body part's."""
    abnormality, area = binary_loss(train, recipe), _cross_entropy(train, recipe)

    def loss(logits_nk: Tensor, targets_n2: Tensor) -> Tensor:
        area_loss = area(logits_nk[:, 1:], targets_n2[:, 1])
        return abnormality(logits_nk, targets_n2[:, 0]) + recipe.aux_weight * area_loss

    return loss


def _count_areas(areas: int) -> int:
    if areas < 2:
        raise InputError("one area alone: a router needs a dataset with two areas or more")
    return areas


ABNORMALITY_TASK = Task(
    name="abnormality",
    outputs=lambda areas: 1,
    targets=lambda split: split.labels,
    loss=binary_loss,
    prior=abnormality_prior,
    table=study_scores,
    measure=AUC,
)
ROUTER_TASK = Task(
    name="part",
    outputs=_count_areas,
    targets=lambda split: split.area_labels,
    loss=_cross_entropy,
    prior=area_prior,
    table=score_recognition,
    measure=ACCURACY,
    recognises_areas=True,
    classes=lambda labels, areas: areas,
)
MULTI_TASK = Task(
    name="multitask",
    outputs=lambda areas: 1 + areas,
    targets=lambda split: torch.stack((split.labels, split.area_labels), 1),
    loss=_both,
    prior=_both_priors,
    table=study_scores,
    measure=AUC,
    recognises_areas=True,
    head=AreaHead,
    beside=lambda logits_nk, split: score_recognition(logits_nk[:, 1:], split),
)
TASKS: Mapping[str, Task] = {
    task.name: task for task in (ABNORMALITY_TASK, ROUTER_TASK, MULTI_TASK)
}


def task_of(name: str, recipe: Recipe | None = None) -> Task:
    """The task, judged as the recipe says: by its `monitor`, on studies with its `study_score`."""
    task = TASKS[name]
    if recipe is None:
        return task
    if recipe.study_score == "mean_logit" and task.table is study_scores:
        task = replace(task, table=mean_logit_scores)
    return judged_by(task, recipe.monitor)


def judged_by(task: Task, monitor: str) -> Task:
    """The task, judged by one of MONITORS; `auc` leaves it the score that it has."""
    return task if monitor == "auc" else replace(task, measure=MONITOR_MEASURES[monitor])
