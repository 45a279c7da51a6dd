"""The one training function: a trial, a final run and every task are this call.

How far a run is after an epoch is a `State`; a `Memory` holds it, so that a killed run goes on.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mura_tune.errors import Diverged
from mura_tune.networks.device import evaluation_batch
from mura_tune.networks.network import Network
from mura_tune.recipe import Phase, Recipe
from mura_tune.training.batches import Split, plain_batches, view_weights
from mura_tune.training.compiling import Compiler, leave_uncompiled
from mura_tune.training.feeds import Feed, Source, pixel_feed
from mura_tune.training.graphs import captured
from mura_tune.training.optim import Stateful
from mura_tune.training.solver import SolvedPhase
from mura_tune.training.steps import SteppedPhase
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
        epoch: the one that the run would end with; `weights` and `logits` (N, K) of dev are its.
        parts: what each part of the run says of itself (`state_dict`), by name.
        generators: states of torch's random generators, by kind of device.
    """

    epochs: tuple[Epoch, ...]
    epoch: Epoch
    weights: Mapping[str, Tensor]
    logits: Tensor
    parts: Mapping[str, dict[str, Any]]
    generators: Mapping[str, Tensor]


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


class RunningPhase(Protocol):
    """One phase of a run, an epoch at a time.

    Attributes:
        parts: what its next epoch depends on beside the network, by name.
    """

    parts: dict[str, Stateful]

    def train(self, number: int) -> float:
        """Train an epoch, counted from 1 over all phases; the loss of train."""

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the network has the weights that are judged and chosen."""

    def waited(self, epochs: int) -> None:
        """Call it after each epoch: how many of this phase passed since the best one."""


# Whether a run ends with the weights of a new epoch rather than with those it would end with so
# far. By `best` equal scores leave the earlier ones.
KEEP_RULES: Mapping[str, Callable[[Epoch, Epoch], bool]] = {
    "best": lambda new, best: new.score > best.score,
    "last": lambda new, best: True,
}


@dataclass(frozen=True, eq=False)
class FitResult:
    """Every epoch, the one that the recipe's `keep` names, and what that one left."""

    epochs: tuple[Epoch, ...]
    epoch: Epoch
    weights: dict[str, Tensor]  # a clone, on the network's device; the network holds them too
    logits: Tensor  # (N, K) float32, dev's, by these weights


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
    compiler: Compiler = leave_uncompiled,
) -> FitResult:
    """Train `net` in place through the recipe's phases; it ends with the weights that `keep` names.

    The device is wherever `net` lives. The same seed on the same device and threads gives the
    same weights, bit for bit on a CPU, in one go or from a state that `memory` held.

    Args:
        on_epoch: called after every epoch, those that `memory` held too; what it raises ends the
            run (how tuning prunes).
        source: where each phase's batches come from; it changes the time, not the numbers.
        memory: holds the state to start from, if any, and is given one after every epoch.
        compiler: of the pass through the network; it changes the time, and numbers by rounding.

    Raises:
        Diverged: a loss or score that is not a finite number, with the step named.
        InputError: a recipe with consistency, and a network without a feature map; a recipe with
            a solved head, and a network whose head cannot be.
    """
    device = next(net.parameters()).device
    targets = task.targets(train).to(device)
    torch.manual_seed(recipe.seed)  # dropout
    net.flip_test = recipe.flip_test
    if recipe.frozen_statistics:
        net.freeze_statistics()
    epochs: list[Epoch] = []
    chosen: Epoch | None = None
    weights: dict[str, Tensor] = {}
    chosen_logits = torch.empty(0)
    if held := memory.load():
        epochs, chosen = list(held.epochs), held.epoch
        weights = {name: value.to(device) for name, value in held.weights.items()}
        chosen_logits = held.logits.to(device)
        net.body.load_state_dict(held.parts["net"])
        set_generators(held.generators, device)
        for epoch in epochs:
            on_epoch(epoch)
    for index, phase in enumerate(recipe.phases):
        if epochs and epochs[-1].phase > index + 1:
            continue
        depth, before = net.set_depth(phase.depth), sum(e.phase <= index for e in epochs)
        feed = source(net, train, dev, recipe, index)
        running = _start_phase(net, feed, train, targets, recipe, task, index, compiler)
        forward = captured(feed.forward, device)
        parts: dict[str, Stateful] = {"net": net.body, **running.parts}
        if held and held.epochs[-1].phase == index + 1:  # cut off in this phase
            for name, part in parts.items():
                part.load_state_dict(held.parts[name])
        while not _over(phase, recipe.patience, epochs, before):
            started, number = time.perf_counter(), len(epochs) + 1
            loss = running.train(number)
            with running.averaged():
                logits = _logits(net, forward, feed.dev())
                score = task.score(logits, dev)
                if not math.isfinite(score):
                    raise Diverged(f"{task.monitor} is {score} after epoch {number}")
                epoch = Epoch(number, index + 1, depth, loss, score, time.perf_counter() - started)
                epochs.append(epoch)
                if chosen is None or KEEP_RULES[recipe.keep](epoch, chosen):
                    chosen, chosen_logits = epoch, logits
                    weights = {name: value.clone() for name, value in net.body.state_dict().items()}
            running.waited(_waited(epochs, before))
            states = {name: part.state_dict() for name, part in parts.items()}
            memory.save(
                State(
                    tuple(epochs), chosen, weights, chosen_logits, states, generator_states(device)
                )
            )
            on_epoch(epoch)
    assert chosen is not None  # a Recipe has at least one epoch
    net.body.load_state_dict(weights)
    return FitResult(tuple(epochs), chosen, weights, chosen_logits)


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


def _start_phase(
    net: Network,
    feed: Feed,
    train: Split,
    targets: Tensor,
    recipe: Recipe,
    task: Task,
    index: int,
    compiler: Compiler,
) -> RunningPhase:
    """Phase `index` of the recipe, from the network as it is."""
    loss_of = task.loss(train, recipe)
    if not recipe.phases[index].solved:
        weights = torch.from_numpy(view_weights(train, recipe)).to(targets.device, torch.float32)
        return SteppedPhase(net, feed, targets, weights, loss_of, recipe, index, compiler)
    classes = task.classes(train.labels.cpu().numpy(), train.area_labels.cpu().numpy())
    outputs = task.outputs(len(train.areas))
    return SolvedPhase(net, feed, train, targets, classes, loss_of, recipe, outputs)


def _over(phase: Phase, patience: int, epochs: Sequence[Epoch], before: int) -> bool:
    """Whether a phase that began after `before` epochs has had its own, or `patience` is out."""
    done = len(epochs) - before
    return done >= phase.epochs or (patience > 0 and _waited(epochs, before) >= patience)


def _waited(epochs: Sequence[Epoch], before: int) -> int:
    """How many epochs of a phase that began after `before` passed since the best of the run."""
    best = max(epochs, key=lambda epoch: epoch.score).number if epochs else 0  # the first of equals
    return len(epochs) - max(best, before)
