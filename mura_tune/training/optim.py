"""What moves the weights through one phase: the optimiser and its learning rates' schedule, and
the average of weights that is kept in their place."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe

MOMENTUM = 0.9  # of SGD
OPTIMISER_CLASSES: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": functools.partial(torch.optim.SGD, momentum=MOMENTUM),
}


class Stateful(Protocol):
    """A part of a run that remembers, as torch's networks, optimisers and schedules do."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


def make_optimiser(net: Network, recipe: Recipe, phase: int) -> torch.optim.Optimizer:
    """The recipe's optimiser of what trains in `net` at its present depth, a group a learning rate.

    The head has the phase's; the stage that is d stages below it has `layer_decay` ** d of that
    (Bao et al. 2021, BEiT, section 3.2). `weight_decay` is decoupled in AdamW, and a term of the
    gradient in Adam and SGD.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in net.body.named_parameters():
        if parameter.requires_grad:
            rate = recipe.phases[phase].lr * recipe.layer_decay ** net.distance(name)
            groups.setdefault(rate, []).append(parameter)
    made = OPTIMISER_CLASSES[recipe.optimiser](
        [{"params": params, "lr": rate} for rate, params in groups.items()],
        lr=recipe.phases[phase].lr,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    for group in made.param_groups:
        if "capturable" in group:  # Adam's word for a step that a CUDA graph may hold
            group["capturable"] = group["params"][0].is_cuda
    return made


class Schedule:
    """Sets an optimiser's learning rates: each group's own, times a factor that all share.

    `cosine` takes the factor from 1 to 0 along half a cosine (Loshchilov and Hutter 2017, without
    restarts); `constant` leaves it at 1; `plateau` multiplies it by `plateau_factor` whenever
    another `plateau_patience` epochs passed without a better dev score. With `warmup` it rises
    linearly before that, so that the first of w steps has 1 / w of it (Goyal et al. 2017).

    Args:
        steps: of the whole phase.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> None:
        self.optimiser, self.recipe, self.steps = optimiser, recipe, steps
        self.rising = round(recipe.warmup * steps)
        self.peaks = [float(group["lr"]) for group in optimiser.param_groups]
        self.done, self.lowered = 0, 1.0
        self._set()

    def step(self) -> None:
        """Call it after each step of the optimiser."""
        self.done += 1
        self._set()

    def waited(self, epochs: int) -> None:
        """Call it after each epoch: how many of this phase passed since the best one."""
        patience = self.recipe.plateau_patience
        if self.recipe.schedule == "plateau" and epochs and epochs % patience == 0:
            self.lowered *= self.recipe.plateau_factor
            self._set()

    def factor(self) -> float:
        """Of the step to come."""
        if self.done < self.rising:
            return (self.done + 1) / self.rising
        if self.recipe.schedule != "cosine":
            return self.lowered
        falling = max(1, self.steps - self.rising)
        return 0.5 * (1 + math.cos(math.pi * min(self.done - self.rising, falling) / falling))

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, for whoever goes on from here."""
        return {"done": self.done, "lowered": self.lowered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.done, self.lowered = state["done"], state["lowered"]
        self._set()

    def _set(self) -> None:
        factor = self.factor()
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            _set_rate(group, peak * factor)


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """Give a group its learning rate; on a GPU in place, since a captured step reads it there."""
    device, old = group["params"][0].device, group["lr"]
    if device.type != "cuda":
        group["lr"] = rate
    elif isinstance(old, Tensor) and old.device == device:
        old.fill_(rate)
    else:
        group["lr"] = torch.tensor(rate, device=device)


class WeightAverage:
    """An exponential moving average of what a network's steps change (Polyak and Juditsky 1992).

    The statistics of BatchNorm are averaged as the weights are. After n steps, the weights before
    the first one still count exp(-n / (epochs x steps)).

    Args:
        epochs: the time constant, above 0; a step's weights count 1 / e after so many epochs.
        steps: of one epoch.
    """

    def __init__(self, net: Network, epochs: float, steps: int) -> None:
        named = [(name, p) for name, p in net.body.named_parameters() if p.requires_grad]
        statistics = [(name, b) for name, b in net.body.named_buffers() if b.is_floating_point()]
        self._weights: dict[str, Tensor] = {
            name: value.detach() for name, value in [*named, *statistics]
        }
        self._averages = {name: value.clone() for name, value in self._weights.items()}
        self._share = 1 - math.exp(-1 / (epochs * steps))

    def update(self) -> None:
        """Call it after each step. Nothing waits for the device."""
        averages, weights = list(self._averages.values()), list(self._weights.values())
        torch._foreach_lerp_(averages, weights, self._share)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averages inside, and its own weights again afterwards."""
        own = {name: value.clone() for name, value in self._weights.items()}
        _copy(self._averages, self._weights)
        try:
            yield
        finally:
            _copy(own, self._weights)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._averages)

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        _copy(state, self._averages)


@torch.no_grad()
def _copy(values: dict[str, Tensor], into: dict[str, Tensor]) -> None:
    for name, value in values.items():
        into[name].copy_(value)
