"""Losses of one output with two classes, weighed so that both of them count alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mura_tune.recipe import Recipe
from mura_tune.training.batches import Split

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, K), labels (N,) -> mean loss ()
ElementLoss = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # logits (N,), targets (N,), weight () -> ()


def binary_loss(train: Split, recipe: Recipe) -> Loss:
    """The loss that the recipe names, of the first logit; positives weigh `positive_weight`."""
    value, form = positive_weight(train, recipe), LOSS_FORMS[recipe.loss](recipe)

    @functools.cache  # a tensor made in every step would be a copy to the GPU in every step
    def weight_on(device: torch.device) -> Tensor:
        return torch.tensor(value, device=device)

    def loss(logits_nk: Tensor, labels_n: Tensor) -> Tensor:
        logits_n = logits_nk[:, 0]
        return form(logits_n, labels_n.to(logits_n.dtype), weight_on(logits_n.device))

    return loss


def positive_weight(train: Split, recipe: Recipe) -> float:
    """What makes both classes count alike at a `class_weight` of 1, times that.

    Negatives / positives where every view is seen; 1 where sampling has balanced them already,
    so that the same class weight means the same either way.
    """
    if recipe.sampling == "balanced":
        return recipe.class_weight
    positives = int(train.labels.sum())
    return recipe.class_weight * (len(train) - positives) / max(positives, 1)


def cross_entropy(logits_n: Tensor, target_n: Tensor, weight: Tensor) -> Tensor:
    """Mean of -w log p, with p the probability of the label and w = `weight` for positives, 1 for
    negatives."""
    return F.binary_cross_entropy_with_logits(logits_n, target_n, pos_weight=weight)


def focal(logits_n: Tensor, target_n: Tensor, weight: Tensor, *, gamma: float) -> Tensor:
    """Mean of -w (1 - p) ** gamma log p (Lin et al. 2017, equation 5, with our w for alpha).

    At gamma 0 it is `cross_entropy`.
    """
    plain = F.binary_cross_entropy_with_logits(
        logits_n, target_n, pos_weight=weight, reduction="none"
    )
    # (1 - p) ** gamma by its logarithm: of a power below 1 the slope at p = 1 is infinite.
    missing = torch.exp(gamma * F.logsigmoid(logits_n * (1 - 2 * target_n)))
    return (missing * plain).mean()


LOSS_FORMS: Mapping[str, Callable[[Recipe], ElementLoss]] = {
    "bce": lambda recipe: cross_entropy,
    "focal": lambda recipe: functools.partial(focal, gamma=recipe.focal_gamma),
}
