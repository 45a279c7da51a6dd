"""How far a run is after an epoch, and what keeps that so that a killed run goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


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


class Part(Protocol):
    """A part of a run that remembers, as torch's networks, optimisers and schedules do."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class Memory(Protocol):
    """Keeps the last state of one run."""

    def load(self) -> State | None:
        """The state to go on from; None: from the start."""

    def save(self, state: State) -> None:
        """Keep `state` in place of the one before."""


class Forgetful:
    """Keeps nothing: a run that is cut off starts again."""

    def load(self) -> State | None:
        return None

    def save(self, state: State) -> None:
        pass


def generators(device: torch.device) -> dict[str, Tensor]:
    """States of the generators that a run on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Let them go on from `states`, which `generators` gave."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
