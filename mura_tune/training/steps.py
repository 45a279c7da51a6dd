"""A phase that trains by an optimiser's steps, an epoch at a time."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mura_tune.errors import Diverged
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe
from mura_tune.training import optim
from mura_tune.training.batches import cut_into_batches
from mura_tune.training.compiling import Compiler, Forward, leave_uncompiled
from mura_tune.training.feeds import Feed
from mura_tune.training.graphs import captured
from mura_tune.training.losses import Judge, Loss, add_consistency, require_map

COMMON = 0.25  # of an epoch's batches: shapes of that share of them are compiled

# A batch's x, targets, weights and, where views are mixed, the share of each view -> loss ()
_Step = Callable[..., Tensor]


class SteppedPhase:
    """One phase of a recipe, in which every batch of an epoch is a step of the optimiser.

    Args:
        phase: which of `recipe.phases`; `net` is at its depth.
        compiler: of what passes the commonest batches of pixels through the network.
        targets: of train's views, (N, …), on the network's device.
        weights: (N,) what each view's loss is multiplied by, there too.

    Attributes:
        parts: what the next epoch depends on beside the network, by name.

    Raises:
        InputError: a recipe with consistency, and a network without a feature map.
    """

    def __init__(
        self,
        net: Network,
        feed: Feed,
        targets: Tensor,
        weights: Tensor,
        loss_of: Loss,
        recipe: Recipe,
        phase: int,
        compiler: Compiler = leave_uncompiled,
    ) -> None:
        self._net, self._feed, self._targets, self._weights = net, feed, targets, weights
        optimiser = optim.make_optimiser(net, recipe, phase)
        steps = max(1, -(-len(targets) // recipe.batch))
        self._mixup, self._seed, self._steps = recipe.mixup, recipe.seed, steps
        self._schedule = optim.Schedule(optimiser, recipe, recipe.phases[phase].epochs * steps)
        self.parts: dict[str, optim.Stateful] = {
            "optimiser": optimiser,
            "schedule": self._schedule,
        }
        self._average: optim.WeightAverage | None = None
        if recipe.ema:
            self._average = self.parts["average"] = optim.WeightAverage(net, recipe.ema, steps)
        mixed = _mixed_loss if recipe.mixup else _plain_loss
        loss = mixed(_judge(net, feed, recipe, len(targets), compiler), loss_of)
        step = _step(loss, net, recipe.clip, optimiser, self._average)
        self._step = captured(step, targets.device)

    def train(self, number: int) -> float:
        """Train an epoch, counted from 1 over all phases; the mean loss of its steps.

        Losses stay on the device until the end: no step waits.

        Raises:
            Diverged: a loss that is not a finite number, with the step named.
        """
        self._net.train()
        losses: list[Tensor] = []
        for x, rows, *share in self._batches(number):
            losses.append(self._step(x, self._targets[rows], self._weights[rows], *share))
            self._schedule.step()
        values = torch.stack(losses).cpu()
        finite = torch.isfinite(values)
        if not finite.all():
            step = int((~finite).nonzero()[0]) + 1
            loss = values[step - 1].item()
            raise Diverged(f"the loss is {loss} at step {step} of epoch {number}")
        return float(values.mean())

    def _batches(self, number: int) -> Iterable[tuple[Tensor, ...]]:
        """The batches (x, rows (B,) of train), each with its share () where views are mixed."""
        batches = self._feed.train(number)
        if not self._mixup:
            return batches
        shares = draw_shares(self._mixup, self._seed, number, self._steps)
        on_device = torch.from_numpy(shares).to(self._targets.device)
        return ((x, rows, share) for (x, rows), share in zip(batches, on_device, strict=True))

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the network has the weights that are judged and kept."""
        return contextlib.nullcontext() if self._average is None else self._average.applied()

    def waited(self, epochs: int) -> None:
        """Call it after each epoch: how many of this phase passed since the best one."""
        self._schedule.waited(epochs)


def _judge(net: Network, feed: Feed, recipe: Recipe, n: int, compiler: Compiler) -> Judge:
    """The loss of a step by a batch's x and the loss of its logits; an epoch has n views."""
    if recipe.consistency:
        require_map(net, recipe.size)
        return add_consistency(net, recipe.consistency)
    if feed.forward is not net:  # from features: their layers are too few to compile
        return lambda x, loss_of: loss_of(feed.forward(x))
    sizes = Counter(len(rows) for rows in cut_into_batches(np.arange(n), recipe.batch))
    shapes = [
        (size, 1, recipe.size, recipe.size)
        for size, count in sizes.items()
        if count >= COMMON * sizes.total()
    ]
    passes: dict[tuple[int, ...], Forward] = {shape: compiler(net, shape) for shape in shapes}
    return lambda x, loss_of: loss_of(passes.get(tuple(x.shape), net)(x))


def draw_shares(alpha: float, seed: int, epoch: int, n: int) -> NDArray[np.float32]:
    """The shares (n,) of an epoch's batches, from Beta(alpha, alpha)."""
    return np.random.default_rng((seed, epoch, 2)).beta(alpha, alpha, n).astype(np.float32)


def _plain_loss(judge: Judge, loss_of: Loss) -> _Step:
    """The mean loss of a batch's views, each times its weight."""

    def loss(x: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return judge(x, lambda logits: (weights * loss_of(logits, targets)).mean())

    return loss


def _mixed_loss(judge: Judge, loss_of: Loss) -> _Step:
    """Of `share` x each view + (1 - share) x the view before it, and so of their losses (Zhang et
    al. 2018, mixup)."""

    def loss(x: Tensor, targets: Tensor, weights: Tensor, share: Tensor) -> Tensor:
        def of_logits(logits: Tensor) -> Tensor:
            own = weights * loss_of(logits, targets)
            other = weights.roll(1) * loss_of(logits, targets.roll(1, 0))
            return torch.lerp(other, own, share).mean()

        return judge(torch.lerp(x.roll(1, 0), x, share), of_logits)

    return loss


def _step(
    loss_of: _Step,
    net: Network,
    clip: float,
    optimiser: torch.optim.Optimizer,
    average: optim.WeightAverage | None,
) -> _Step:
    """One step of training: the loss of a batch, ahead of what it changes.

    A gradient whose norm over all weights that train is above `clip` is scaled down to it (Pascanu
    et al. 2013). Nothing waits for the device.
    """
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]

    def step(*batch: Tensor) -> Tensor:
        loss = loss_of(*batch)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if clip:
            nn.utils.clip_grad_norm_(trained, clip)
        optimiser.step()
        if average is not None:
            average.update()
        return loss.detach()

    return step
