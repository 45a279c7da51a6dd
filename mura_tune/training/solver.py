"""A head that is computed, not stepped towards: the minimum of its loss over frozen features.

The loss of a linear layer on fixed features is convex, so that it has one minimum under an L2
penalty, which L-BFGS (Liu and Nocedal 1989) finds in milliseconds and without a learning rate.
How strong the penalty is, is decided on patients of train that a fit has not seen. Fine-tuning
from such a head changes good features less than from a random one (Kumar et al. 2022, LP-FT).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mura_tune.errors import Diverged, InputError
from mura_tune.metrics.estimates import Names
from mura_tune.networks.heads import HeadLayer, layers_to_solve
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe
from mura_tune.training.batches import Split, view_shares
from mura_tune.training.feeds import Feed
from mura_tune.training.losses import Loss
from mura_tune.training.optim import Stateful

_FOLDS = 5  # of train's patients; each is held out once for every penalty
PENALTIES = tuple(10 ** (1 - k / 2) for k in range(13))  # 10 to 1e-5, of standardised features
_PATIENCE = 2  # penalties in a row that are worse than the best before smaller ones are left out
_ITERATIONS = 200  # of L-BFGS at most, for one penalty
TOLERANCE = 1e-7  # of the gradient's largest element
LEAST_DEVIATION = 1e-3  # times the largest one: below it a feature counts as constant


class SolvedPhase:
    """A head phase of one epoch, which puts the minimum of the recipe's loss into the head.

    The features are those of train's views as they are, without augmentation, by the network in
    eval mode; what a recipe's sampling shows more often, or `weigh` counts more, weighs more.

    Args:
        targets: of train's views, (N, …), on the network's device.
        classes: (N,) what the patients' folds are balanced over.
        outputs: K.

    Attributes:
        parts: none: the network's weights are all that the next epoch depends on.
    """

    def __init__(
        self,
        net: Network,
        feed: Feed,
        train: Split,
        targets: Tensor,
        classes: NDArray[np.int64],
        loss_of: Loss,
        recipe: Recipe,
        outputs: int,
    ) -> None:
        self._net, self._feed, self._outputs = net, feed, outputs
        shares = torch.from_numpy(view_shares(train, recipe)).to(targets.device)
        folds = torch.from_numpy(deal_patients(train.patients, classes, _FOLDS)).to(targets.device)
        self._views = _Views(targets, shares, folds, loss_of)
        self.parts: dict[str, Stateful] = {}

    def train(self, number: int) -> float:
        """Solve the head, a layer after another; the loss of train, without the penalty.

        Raises:
            Diverged: a loss that is not a finite number.
            InputError: a head that is not made of linear layers on features.
        """
        features = read_features(self._net, self._feed)
        classifier = self._net.body.get_classifier()
        loss = math.nan
        for layer in layers_to_solve(classifier, self._outputs):
            loss = _solve_layer(layer, classifier, features, self._views)
        if not math.isfinite(loss):
            raise Diverged(f"the loss of the solved head is {loss} in epoch {number}")
        return loss

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """The solution is judged as it is."""
        return contextlib.nullcontext()

    def waited(self, epochs: int) -> None:
        """Nothing waits for a better epoch: there is one."""


@torch.no_grad()
def read_features(net: Network, feed: Feed) -> Tensor:
    """What the classifier is given of train's views as they are, (N, …), by the net in eval mode.

    Raises:
        InputError: a network that does not call its classifier once, with one tensor.
    """
    was_training, flips = net.training, net.flip_test
    taken: list[Tensor] = []
    classifier = net.body.get_classifier()
    hook = classifier.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0]))
    net.eval()
    net.flip_test = False  # each view once
    batches = 0
    try:
        for x in feed.still():
            feed.forward(x)
            batches += 1
    finally:
        hook.remove()
        net.train(was_training)
        net.flip_test = flips
    if len(taken) != batches:
        raise _unsolvable(net)
    return torch.cat(taken)


def require_solvable(net: Network, size: int, outputs: int) -> None:
    """Refuse a network whose head cannot be solved.

    Raises:
        InputError: what its head is, and what to write instead.
    """
    device = next(net.parameters()).device
    black = torch.zeros(1, 1, size, size, device=device)
    layers_to_solve(net.body.get_classifier(), outputs)
    read_features(net, Feed(net, lambda epoch: (), lambda: (), lambda: (black,)))


def _unsolvable(net: Network) -> InputError:
    return InputError(
        f"head.solver: lbfgs: {type(net.body).__name__} has no single classifier that reads "
        "features; write head.solver: steps"
    )


def deal_patients(patients: Names, classes: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """A fold from 0 to `folds` - 1 for each view, (N,): a patient's views share it.

    Patients of each class are dealt in the order of a hash of their names; a patient's class is
    the largest of the views' `classes`.
    """
    names, views = np.unique(patients.astype(str), return_inverse=True)
    largest = np.zeros(len(names), np.int64)
    np.maximum.at(largest, views, classes)
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    order = sorted(range(len(names)), key=lambda i: (largest[i], hashes[i]))
    dealt = np.empty(len(names), np.int64)
    dealt[order] = np.arange(len(names)) % folds
    fold_of_view: NDArray[np.int64] = dealt[views]
    return fold_of_view


@dataclass(frozen=True, eq=False)
class _Views:
    """Train as the solver needs it.

    Attributes:
        targets: (N, …).
        shares: (N,) float64, how large a part of an epoch's loss each view is; they sum to 1.
        folds: (N,) which fold of patients a view belongs to.
        loss_of: the loss of each view.
    """

    targets: Tensor
    shares: Tensor
    folds: Tensor
    loss_of: Loss

    def mean_loss(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """Of the logits of `rows` (a mask), each view counted by its share."""
        targets, shares = self.targets[rows], self.shares[rows]
        return lambda logits_nk: shares @ self.loss_of(logits_nk, targets) / shares.sum()


def _solve_layer(layer: HeadLayer, classifier: nn.Module, features: Tensor, views: _Views) -> float:
    """Put the solution into one layer of the classifier, the others held as they are; the loss."""
    with torch.no_grad():
        inputs, logits = _run_classifier(layer.module, classifier, features)
    standard = _Standard.of(inputs, centred=layer.module.bias is not None)
    x_nd = standard.apply(inputs)
    first, last = layer.columns

    def loss_over(rows: Tensor) -> LayerLoss:
        """The mean loss of `rows` by the layer's weights, with its outputs among all logits."""
        x, before, after = x_nd[rows], logits[rows, :first], logits[rows, last:]
        mean_loss = views.mean_loss(rows)
        return lambda theta: mean_loss(torch.cat((before, x @ theta, after), 1))

    zeros = x_nd.new_zeros(x_nd.shape[1], last - first)
    loss = loss_over(torch.ones_like(views.folds, dtype=torch.bool))
    theta = _minimise(loss, _choose_penalty(loss_over, views, zeros), zeros)
    standard.write(theta, layer.module)
    with torch.no_grad():
        return float(loss(theta))


def _run_classifier(
    layer: nn.Module, classifier: nn.Module, features: Tensor
) -> tuple[Tensor, Tensor]:
    """What `layer` is given of the features, (N, D), and the classifier's logits, (N, K)."""
    was_training = classifier.training
    taken: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0]))
    try:
        logits = classifier.eval()(features.float())
    finally:
        hook.remove()
        classifier.train(was_training)
    return taken[0].flatten(1).double(), logits.flatten(1).double()


@dataclass(frozen=True, eq=False)
class _Standard:
    """Features less `mean`, over `scale`, so that one penalty suits all of them; both are (D,)."""

    mean: Tensor
    scale: Tensor
    centred: bool

    @classmethod
    def of(cls, inputs_nd: Tensor, *, centred: bool) -> _Standard:
        """Of these features. A layer without a bias has none to move: its features keep theirs."""
        deviation, mean = torch.std_mean(inputs_nd, 0, correction=0)
        largest = float(deviation.max())
        scale = deviation.clamp_min(LEAST_DEVIATION * largest) if largest else deviation + 1
        return cls(mean if centred else torch.zeros_like(mean), scale, centred)

    def apply(self, inputs_nd: Tensor) -> Tensor:
        """Standardised, with a column of ones at the end: (N, D + 1); without a bias, of zeros."""
        ones = torch.full_like(inputs_nd[:, :1], float(self.centred))
        return torch.cat(((inputs_nd - self.mean) / self.scale, ones), 1)

    @torch.no_grad()
    def write(self, theta: Tensor, layer: nn.Linear | nn.Conv2d) -> None:
        """Put a solution (D + 1, K) for standardised features into a layer, for plain ones."""
        weight = theta[:-1] / self.scale[:, None]
        layer.weight.copy_(weight.T.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(theta[-1] - self.mean @ weight)


LayerLoss = Callable[[Tensor], Tensor]  # weights theta (D + 1, K) of standardised features -> ()


def _choose_penalty(
    loss_over: Callable[[Tensor], LayerLoss], views: _Views, start: Tensor
) -> float:
    """The penalty whose fits lose least on the patients that they have not seen.

    It goes from the largest one down, each fit from the fit before, and ends where smaller ones
    only get worse.
    """
    masks = [views.folds == fold for fold in range(_FOLDS)]
    masks = [mask for mask in masks if bool(mask.any())]
    if len(masks) < 2:  # one patient alone can judge nothing
        return 1.0
    folds = [(loss_over(~mask), loss_over(mask), float(views.shares[mask].sum())) for mask in masks]
    thetas = [start] * len(folds)
    losses: dict[float, float] = {}
    for penalty in PENALTIES:
        losses[penalty] = 0.0
        for number, (loss, held_out, share) in enumerate(folds):
            thetas[number] = _minimise(loss, penalty, thetas[number])
            with torch.no_grad():
                losses[penalty] += share * float(held_out(thetas[number]))
        best = min(losses, key=lambda value: losses[value])
        if sum(value < best for value in losses) >= _PATIENCE:
            break
    return best


def _minimise(loss_of: LayerLoss, penalty: float, start: Tensor) -> Tensor:
    """The minimum of a loss + penalty / 2 x the squared weights, from `start`, (D + 1, K).

    The last row, the bias, is not penalised.
    """
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [theta],
        max_iter=_ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(theta) + penalty / 2 * theta[:-1].square().sum()
        torch.autograd.backward(loss)
        return loss

    step: Any = optimiser.step  # torch leaves it untyped
    step(closure)
    return theta.detach()
