"""The one training function: a trial, a final run and every task are this call.

How far a run is after an epoch is a `State`; a `Memory` holds it, so that a killed run goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mura_tune.errors import Diverged
from mura_tune.networks.device import evaluation_batch
from mura_tune.networks.network import Network
from mura_tune.recipe import Phase, Recipe
from mura_tune.training import optim
from mura_tune.training.batches import Split, plain_batches
from mura_tune.training.feeds import Feed, Source, pixel_feed
from mura_tune.training.graphs import captured
from mura_tune.training.losses import Loss, add_consistency, require_map
from mura_tune.training.tasks import Task


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
class State:
    """A run after an epoch: all that the next one depends on, as plain values and tensors.

    The tensors are the run's own and change with its next step: what keeps them, copies them.

    Attributes:
        epochs: those behind it.
        best: the best of them; `weights` and `logits` (N, K) of dev are its own.
        parts: what each part of the run says of itself (`state_dict`), by name.
        generators: states of torch's random generators, by kind of device.
    """

    epochs: tuple[Epoch, ...]
    best: Epoch
    weights: Mapping[str, Tensor]
    logits: Tensor
    parts: Mapping[str, dict[str, Any]]
    generators: Mapping[str, Tensor]


class Stateful(Protocol):
    """A part of a run that remembers, as torch's networks, optimisers and schedules do."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class Memory(Protocol):
    """Keeps the last state of one run."""

    def load(self) -> State | None:
        """The state to go on from; None: from the start."""

    def save(self, state: State) -> None:
        """Keep `state` in place of the one before."""


class NoMemory:
    """Keeps nothing: a run that is cut off starts again."""

    def load(self) -> State | None:
        return None

    def save(self, state: State) -> None:
        pass


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """States of the generators that a run on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Let them go on from `states`, which `generator_states` gave."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


NO_MEMORY = NoMemory()
BatchLoss = Callable[[Tensor, Tensor], Tensor]  # a batch's x and labels -> mean loss ()


@dataclass(frozen=True, eq=False)
class FitResult:
    """Every epoch, the best one by dev score (the first among equals), and what it left."""

    epochs: tuple[Epoch, ...]
    best: Epoch
    weights: dict[str, Tensor]  # a clone, on the network's device; the network holds them too
    logits: Tensor  # (N, K) float32, dev's, by the weights of the best epoch


def ignore_epoch(epoch: Epoch) -> None:
    """The `on_epoch` that does nothing."""


def fit(
    net: Network,
    train: Split,
    dev: Split,
    recipe: Recipe,
    task: Task,
    *,
    on_epoch: Callable[[Epoch], None] = ignore_epoch,
    source: Source = pixel_feed,
    memory: Memory = NO_MEMORY,
) -> FitResult:
    """Train `net` in place through the recipe's phases; it ends with the weights of the best epoch.

    The device is wherever `net` lives. The same seed on the same device and threads gives the
    same weights, bit for bit on a CPU, in one go or from a state that `memory` held.

    Args:
        on_epoch: called after every epoch, those that `memory` held too; what it raises ends the
            run (how tuning prunes).
        source: where each phase's batches come from; it changes the time, not the numbers.
        memory: holds the state to start from, if any, and is given one after every epoch.

    Raises:
        Diverged: a loss or score that is not a finite number, with the step named.
        InputError: a recipe with consistency, and a network without a feature map.
    """
    device = next(net.parameters()).device
    targets = task.targets(train).to(device)
    torch.manual_seed(recipe.seed)  # dropout
    epochs: list[Epoch] = []
    best: Epoch | None = None
    weights: dict[str, Tensor] = {}
    best_logits = torch.empty(0)
    if held := memory.load():
        epochs, best = list(held.epochs), held.best
        weights = {name: value.to(device) for name, value in held.weights.items()}
        best_logits = held.logits.to(device)
        net.body.load_state_dict(held.parts["net"])
        set_generators(held.generators, device)
        for epoch in epochs:
            on_epoch(epoch)
    for index, phase in enumerate(recipe.phases):
        if epochs and epochs[-1].phase > index + 1:
            continue
        depth, before = net.set_depth(phase.depth), sum(e.phase <= index for e in epochs)
        feed = source(net, train, dev, recipe, index)
        optimiser = optim.make_optimiser(net, recipe, index)
        judge = _judge(net, feed, task.loss(train, recipe), recipe)
        step, forward = captured(_step(judge, optimiser), device), captured(feed.forward, device)
        steps = phase.epochs * max(1, -(-len(train) // recipe.batch))
        schedule = optim.Schedule(optimiser, recipe, steps)
        parts: dict[str, Stateful] = {"net": net.body, "optimiser": optimiser, "schedule": schedule}
        if held and held.epochs[-1].phase == index + 1:  # cut off in this phase
            for name, part in parts.items():
                part.load_state_dict(held.parts[name])
        while not _over(phase, recipe.patience, len(epochs), before, best):
            started, number = time.perf_counter(), len(epochs) + 1
            batches = ((x, targets[rows]) for x, rows in feed.train(number))
            loss = _train_epoch(net, batches, step, schedule, number)
            logits = _logits(net, forward, feed.dev())
            score = task.score(logits, dev)
            if not math.isfinite(score):
                raise Diverged(f"{task.monitor} is {score} after epoch {number}")
            epoch = Epoch(number, index + 1, depth, loss, score, time.perf_counter() - started)
            epochs.append(epoch)
            if best is None or score > best.score:
                best, best_logits = epoch, logits
                weights = {name: value.clone() for name, value in net.body.state_dict().items()}
            schedule.waited(number - max(best.number, before))
            states = {name: part.state_dict() for name, part in parts.items()}
            memory.save(
                State(tuple(epochs), best, weights, best_logits, states, generator_states(device))
            )
            on_epoch(epoch)
    assert best is not None  # a Recipe has at least one epoch
    net.body.load_state_dict(weights)
    return FitResult(tuple(epochs), best, weights, best_logits)


def predict(net: nn.Module, split: Split) -> Tensor:
    """Logits (N, K), float32, in the split's order; nothing is augmented."""
    device = next(net.parameters()).device
    return _logits(net, net, plain_batches(split, evaluation_batch(device), device))


@torch.inference_mode()
def _logits(net: nn.Module, forward: Callable[[Tensor], Tensor], dev: Iterable[Tensor]) -> Tensor:
    """Logits of every batch, by `net` in eval mode; its mode is left as it was."""
    was_training = net.training
    net.eval()
    logits = [forward(x).float() for x in dev]
    net.train(was_training)
    return torch.cat(logits)


def _judge(net: Network, feed: Feed, loss_of: Loss, recipe: Recipe) -> BatchLoss:
    """The loss of a batch by its x and targets."""
    if not recipe.consistency:
        return lambda x, wanted: loss_of(feed.forward(x), wanted)
    require_map(net, recipe.size)
    return add_consistency(net, loss_of, recipe.consistency)


def _step(judge: BatchLoss, optimiser: torch.optim.Optimizer) -> BatchLoss:
    """One step of training: the loss of a batch, ahead of what it changes."""

    def step(x: Tensor, wanted: Tensor) -> Tensor:
        loss = judge(x, wanted)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        return loss.detach()

    return step


def _train_epoch(
    net: Network,
    batches: Iterable[tuple[Tensor, Tensor]],
    take_step: BatchLoss,
    schedule: optim.Schedule,
    number: int,
) -> float:
    """One pass; the mean loss. Losses stay on the device until the end: no step waits."""
    net.train()
    losses: list[Tensor] = []
    for x, wanted in batches:
        losses.append(take_step(x, wanted))
        schedule.step()
    values = torch.stack(losses).cpu()
    finite = torch.isfinite(values)
    if not finite.all():
        step = int((~finite).nonzero()[0]) + 1
        raise Diverged(f"the loss is {values[step - 1].item()} at step {step} of epoch {number}")
    return float(values.mean())


def _over(phase: Phase, patience: int, done: int, before: int, best: Epoch | None) -> bool:
    """Whether a phase that began after `before` epochs has had its own, or `patience` is out."""
    waited = done - max(best.number if best else 0, before)
    return done - before >= phase.epochs or (patience > 0 and waited >= patience)
