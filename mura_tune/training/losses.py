"""Losses: of one output with two classes, weighed so that both count alike, and of consistency.

Consistency compares class-activation maps: when a view is turned, the places that speak for
*abnormal* turn with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.networks.network import Network, is_map, run_steps, shape_of
from mura_tune.networks.normalisation import MEAN, STD
from mura_tune.recipe import Recipe
from mura_tune.training.augment import ROTATION
from mura_tune.training.batches import Split

# Logits (N, K), targets (N, …) -> each view's loss (N,)
Loss = Callable[[Tensor, Tensor], Tensor]
# Logits (N,), targets (N,), weight of positives () -> each view's loss (N,)
ElementLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
# Logits (N, K) of a batch -> its loss (); x (N, …) and that -> the step's loss ()
BatchLoss = Callable[[Tensor], Tensor]
Judge = Callable[[Tensor, BatchLoss], Tensor]


def binary_loss(train: Split, recipe: Recipe) -> Loss:
    """The loss that the recipe names, of the first logit; positives weigh `positive_weight`."""
    value = positive_weight(train, recipe)
    form = smooth_labels(LOSS_FORMS[recipe.loss](recipe), recipe.label_smoothing)

    @functools.cache  # a tensor made in every step would be a copy to the GPU in every step
    def weight_on(device: torch.device) -> Tensor:
        return torch.tensor(value, device=device)

    def loss(logits_nk: Tensor, labels_n: Tensor) -> Tensor:
        logits_n = logits_nk[:, 0]
        return form(logits_n, labels_n.to(logits_n.dtype), weight_on(logits_n.device))

    return loss


def positive_weight(train: Split, recipe: Recipe) -> float:
    """What makes both classes count alike at a `class_weight` of 1, times that.

    Negatives / positives, of views or with `weigh: study` of studies; 1 where sampling has balanced
    them already, so that the same class weight means the same either way.
    """
    if recipe.sampling == "balanced":
        return recipe.class_weight
    labels = train.labels.cpu().numpy()
    if recipe.weigh == "study":
        labels = labels[np.unique(train.studies.astype(str), return_index=True)[1]]
    positives = int(labels.sum())
    return recipe.class_weight * (len(labels) - positives) / max(positives, 1)


def cross_entropy(logits_n: Tensor, target_n: Tensor, weight: Tensor) -> Tensor:
    """-w log p, with p the probability of the label and w = `weight` for positives, 1 for
    negatives."""
    return F.binary_cross_entropy_with_logits(
        logits_n, target_n, pos_weight=weight, reduction="none"
    )


def focal(logits_n: Tensor, target_n: Tensor, weight: Tensor, *, gamma: float) -> Tensor:
    """-w (1 - p) ** gamma log p (Lin et al. 2017, equation 5, with our w for alpha).

    At gamma 0 it is `cross_entropy`.
    """
    # (1 - p) ** gamma by its logarithm: of a power below 1 the slope at p = 1 is infinite.
    missing = torch.exp(gamma * F.logsigmoid(logits_n * (1 - 2 * target_n)))
    return missing * cross_entropy(logits_n, target_n, weight)


def smooth_labels(form: ElementLoss, share: float) -> ElementLoss:
    """The loss where `share` of a label is divided between both classes (Szegedy et al. 2016).

    A view has the weight of its own label, so that smoothing does not move the balance of classes.
    """
    if not share:
        return form

    def smoothed(logits_n: Tensor, target_n: Tensor, weight: Tensor) -> Tensor:
        own = form(logits_n, target_n, weight)
        other = form(logits_n, 1 - target_n, torch.ones_like(weight))
        return (1 - share / 2) * own + share / 2 * (1 + (weight - 1) * target_n) * other

    return smoothed


LOSS_FORMS: Mapping[str, Callable[[Recipe], ElementLoss]] = {
    "bce": lambda recipe: cross_entropy,
    "focal": lambda recipe: functools.partial(focal, gamma=recipe.focal_gamma),
}


BLACK = -MEAN / STD  # of a normalised view; what a turn brings in from outside


def add_consistency(net: Network, weight: float) -> Judge:
    """The loss of a batch's x (N, 1, S, S), with the disagreement of its maps.

    loss + weight x disagreement(M(x), T^-1 M(T x)), where M is `class_maps` and T a rotation by up
    to 30 degrees, flipped or not, drawn for each view from torch's generator (Guo et al. 2019,
    visual attention consistency, there for flips and scales; Wang et al. 2020, SEAM). It costs a
    second pass through the network.
    """

    def judge(x_nchw: Tensor, loss_of: BatchLoss) -> Tensor:
        moves = draw_moves(len(x_nchw), x_nchw.device)
        features = feature_map(net, x_nchw)
        there = class_maps(net, feature_map(net, move(x_nchw, moves, outside=BLACK)))
        apart = compare_maps(class_maps(net, features), there, moves)
        return loss_of(_head(net, features)) + weight * apart

    return judge


def require_map(net: Network, size: int) -> None:
    """Refuse a network without a last feature map, or with one of a single place.

    Raises:
        InputError: what its features are, and what to write instead.
    """
    device = next(net.parameters()).device
    was_training = net.training
    with torch.inference_mode():
        features = feature_map(net.eval(), torch.zeros(1, 1, size, size, device=device))
    net.train(was_training)
    name = type(net.body).__name__
    if not is_map(features):
        raise InputError(
            f"consistency: {name} has no feature map (its features are "
            f"{shape_of(features)}); take a convolutional network or consistency: 0.0"
        )
    if _places_last(net, features).shape[1:3].numel() == 1:
        raise InputError(
            f"consistency: at {size} px the last feature map of {name} has a single place, which "
            "nothing can move on; take a larger size or consistency: 0.0"
        )


def feature_map(net: Network, x_nchw: Tensor) -> Tensor:
    """The last features, as the network's own `forward_features` gives them."""
    if (steps := net.steps()) is None:
        features: Tensor = net.body.forward_features(x_nchw)
        return features
    return run_steps(steps[:-1], x_nchw)


def class_maps(net: Network, features: Tensor) -> Tensor:
    """What the head would say of each place alone: its first logit, (N, 1, H, W).

    Where the head is a mean and a linear classifier this is the class-activation map (Zhou et al.
    2016) plus the bias, and its mean is the logit; other heads need no case of their own.
    """
    nhwc = _places_last(net, features)
    each = nhwc.reshape(-1, 1, 1, nhwc.shape[-1])
    alone = each if _is_nhwc(net) else each.permute(0, 3, 1, 2)
    return _head(net, alone)[:, 0].float().view(len(nhwc), 1, *nhwc.shape[1:3])


def draw_moves(n: int, device: torch.device) -> Tensor:
    """Rotations of up to +-30 degrees, half of them with a flip, (N, 2, 2): orthogonal."""
    u = torch.rand(n, 2, device=device)
    angle, flip = (2 * u[:, 0] - 1) * ROTATION, torch.where(u[:, 1] < 0.5, -1.0, 1.0)
    return rotation_matrices(angle, flip)


def rotation_matrices(angle_n: Tensor, flip_n: Tensor) -> Tensor:
    """Matrices (N, 2, 2) that turn by an angle and mirror left and right where `flip` is -1."""
    cos, sin = torch.cos(angle_n), torch.sin(angle_n)
    rows = torch.stack((cos * flip_n, -sin, sin * flip_n, cos), 1)
    return rows.view(-1, 2, 2)


def move(x_nchw: Tensor, moves_n22: Tensor, *, outside: float = 0.0) -> Tensor:
    """Each image turned by its matrix about its centre, with `outside` beyond its edges.

    The transposed matrices turn it back.
    """
    grid = F.affine_grid(F.pad(moves_n22, (0, 1)), list(x_nchw.shape), align_corners=False)
    moved = F.grid_sample(x_nchw - outside, grid, mode="bilinear", align_corners=False)
    return moved + outside


def compare_maps(here_n1hw: Tensor, there_n1hw: Tensor, moves_n22: Tensor) -> Tensor:
    """`disagreement` of maps with those of the turned views, turned back; places that left the
    view on the way count as far as they are seen."""
    back = moves_n22.transpose(1, 2)
    seen = move(move(torch.ones_like(here_n1hw), moves_n22), back)
    return disagreement(here_n1hw, move(there_n1hw, back), seen)


def disagreement(a_n1hw: Tensor, b_n1hw: Tensor, seen_n1hw: Tensor) -> Tensor:
    """Sum of (a - b)^2 over sum of a^2 + b^2, each map less its mean, places weighted by `seen`.

    0 for equal maps, 1 for unrelated ones, 2 for opposite ones; neither the scale of the maps nor
    a constant changes it, so that a network cannot please it by fainter maps.
    """
    total = seen_n1hw.sum((2, 3), keepdim=True).clamp_min(1e-6)
    a, b = (m - (m * seen_n1hw).sum((2, 3), keepdim=True) / total for m in (a_n1hw, b_n1hw))
    energy = (seen_n1hw * (a.square() + b.square())).sum()
    return (seen_n1hw * (a - b).square()).sum() / energy.clamp_min(1e-12)


def _head(net: Network, features: Tensor) -> Tensor:
    """Logits (N, K) of features."""
    if (steps := net.steps()) is None:
        logits: Tensor = net.body.forward_head(features)
        return logits
    return net.finish(steps[-1:], features)


def _is_nhwc(net: Network) -> bool:
    return getattr(net.body, "output_fmt", "NCHW") == "NHWC"  # Swin and its like


def _places_last(net: Network, features: Tensor) -> Tensor:
    """The map as (N, H, W, C)."""
    return features if _is_nhwc(net) else features.permute(0, 2, 3, 1)
