"""A phase that trains by an optimiser's steps, an epoch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from mura_tune.errors import Diverged
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe
from mura_tune.training import optim
from mura_tune.training.feeds import Feed
from mura_tune.training.graphs import captured
from mura_tune.training.losses import Judge, Loss, add_consistency, require_map

Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # a batch's x, targets and weights -> loss ()


class SteppedPhase:
    """One phase of a recipe, in which every batch of an epoch is a step of the optimiser.

    Args:
        phase: which of `recipe.phases`; `net` is at its depth.
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
    ) -> None:
        self._net, self._feed, self._targets, self._weights = net, feed, targets, weights
        optimiser = optim.make_optimiser(net, recipe, phase)
        steps = max(1, -(-len(targets) // recipe.batch))
        self._schedule = optim.Schedule(optimiser, recipe, recipe.phases[phase].epochs * steps)
        self.parts: dict[str, optim.Stateful] = {
            "optimiser": optimiser,
            "schedule": self._schedule,
        }
        self._average: optim.WeightAverage | None = None
        if recipe.ema:
            self._average = self.parts["average"] = optim.WeightAverage(net, recipe.ema, steps)
        step = _step(_judge(net, feed, recipe), loss_of, optimiser, self._average)
        self._step = captured(step, targets.device)

    def train(self, number: int) -> float:
        """Train an epoch, counted from 1 over all phases; the mean loss of its steps.

        Losses stay on the device until the end: no step waits.

        Raises:
            Diverged: a loss that is not a finite number, with the step named.
        """
        self._net.train()
        losses: list[Tensor] = []
        for x, rows in self._feed.train(number):
            losses.append(self._step(x, self._targets[rows], self._weights[rows]))
            self._schedule.step()
        values = torch.stack(losses).cpu()
        finite = torch.isfinite(values)
        if not finite.all():
            step = int((~finite).nonzero()[0]) + 1
            loss = values[step - 1].item()
            raise Diverged(f"the loss is {loss} at step {step} of epoch {number}")
        return float(values.mean())

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the network has the weights that are judged and kept."""
        return contextlib.nullcontext() if self._average is None else self._average.applied()

    def waited(self, epochs: int) -> None:
        """Call it after each epoch: how many of this phase passed since the best one."""
        self._schedule.waited(epochs)


def _judge(net: Network, feed: Feed, recipe: Recipe) -> Judge:
    """The loss of a step by a batch's x and the loss of its logits."""
    if not recipe.consistency:
        return lambda x, loss_of: loss_of(feed.forward(x))
    require_map(net, recipe.size)
    return add_consistency(net, recipe.consistency)


def _step(
    judge: Judge,
    loss_of: Loss,
    optimiser: torch.optim.Optimizer,
    average: optim.WeightAverage | None,
) -> Step:
    """One step of training: the loss of a batch, ahead of what it changes."""

    def step(x: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        loss = judge(x, lambda logits: (weights * loss_of(logits, targets)).mean())
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        if average is not None:
            average.update()
        return loss.detach()

    return step
