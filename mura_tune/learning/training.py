"""The one training function: a trial, a final run and every later task are this call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mura_tune.errors import Diverged
from mura_tune.learning.batches import Split, plain_batches
from mura_tune.learning.models import Network
from mura_tune.learning.sources import EVALUATION_BATCH, Feed, Source, pixels
from mura_tune.learning.tasks import Loss, Task
from mura_tune.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. `number` counts from 1 over all phases, `score` is dev's."""

    number: int
    phase: int
    depth: int
    loss: float
    score: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Fit:
    """Every epoch, the best one by dev score (the first among equals), and what it left."""

    epochs: tuple[Epoch, ...]
    best: Epoch
    weights: dict[str, Tensor]  # a clone, on the network's device; the network holds them too
    logits: Tensor  # (N, K) float32, dev's, by the weights of the best epoch


def ignore(epoch: Epoch) -> None:
    """The `on_epoch` that does nothing."""


def fit(
    net: Network,
    train: Split,
    dev: Split,
    recipe: Recipe,
    task: Task,
    *,
    on_epoch: Callable[[Epoch], None] = ignore,
    source: Source = pixels,
) -> Fit:
    """Train `net` in place through the recipe's phases; it ends with the weights of the best epoch.

    The device is wherever `net` lives. The same seed on the same device and threads gives the
    same weights, bit for bit on a CPU.

    Args:
        on_epoch: called after every epoch; what it raises ends the run (how tuning prunes).
        source: where each phase's batches come from; it changes the time, not the numbers.

    Raises:
        Diverged: a loss or score that is not a finite number, with the step named.
    """
    loss_of = task.loss(train, recipe)
    torch.manual_seed(recipe.seed)  # dropout
    epochs: list[Epoch] = []
    best: Epoch | None = None
    weights: dict[str, Tensor] = {}
    best_logits = torch.empty(0)
    for index, phase in enumerate(recipe.phases):
        depth, before = net.set_depth(phase.depth), len(epochs)
        feed = source(net, train, dev, recipe, index)
        trained = [p for p in net.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=phase.lr, weight_decay=recipe.weight_decay, fused=True
        )
        steps = phase.epochs * max(1, -(-len(train) // recipe.batch))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _cosine(steps))
        for _ in range(phase.epochs):
            started, number = time.perf_counter(), len(epochs) + 1
            loss = _train_epoch(net, feed, loss_of, optimiser, schedule, number)
            logits = _logits(net, feed.forward, feed.dev())
            score = task.score(logits, dev)
            if not math.isfinite(score):
                raise Diverged(f"{task.monitor} is {score} after epoch {number}")
            epoch = Epoch(number, index + 1, depth, loss, score, time.perf_counter() - started)
            epochs.append(epoch)
            if best is None or score > best.score:
                best, best_logits = epoch, logits
                weights = {name: value.clone() for name, value in net.body.state_dict().items()}
            on_epoch(epoch)
            if recipe.patience and number - max(best.number, before) >= recipe.patience:
                break
    assert best is not None  # a Recipe has at least one epoch
    net.body.load_state_dict(weights)
    return Fit(tuple(epochs), best, weights, best_logits)


def predict(net: Network, split: Split) -> Tensor:
    """Logits (N, K), float32, in the split's order; nothing is augmented."""
    device = next(net.parameters()).device
    return _logits(net, net, plain_batches(split, EVALUATION_BATCH, device))


@torch.inference_mode()
def _logits(net: Network, forward: Callable[[Tensor], Tensor], dev: Iterable[Tensor]) -> Tensor:
    """Logits of every batch, by `net` in eval mode; its mode is left as it was."""
    was_training = net.training
    net.eval()
    logits = [forward(x).float() for x in dev]
    net.train(was_training)
    return torch.cat(logits)


def _train_epoch(
    net: Network,
    feed: Feed,
    loss_of: Loss,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    number: int,
) -> float:
    """One pass; the mean loss. Losses stay on the device until the end: no step waits."""
    net.train()
    losses: list[Tensor] = []
    for x, labels_n in feed.train(number):
        loss = loss_of(feed.forward(x), labels_n)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        schedule.step()
        losses.append(loss.detach())
    values = torch.stack(losses).cpu()
    finite = torch.isfinite(values)
    if not finite.all():
        step = int((~finite).nonzero()[0]) + 1
        raise Diverged(f"the loss is {values[step - 1].item()} at step {step} of epoch {number}")
    return float(values.mean())


def _cosine(steps: int) -> Callable[[int], float]:
    """The learning rate's factor: from 1 down to 0 along half a cosine."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
