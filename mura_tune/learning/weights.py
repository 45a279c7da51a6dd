"""Files of weights: read without running code, and refused by name where they do not fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mura_tune.errors import InputError


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a state dict saved by torch; see the next."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file by name, and what a file of torch's holds beside its state dict.

    Raises:
        InputError: no such file, not a file of weights, or one that would run code when loaded.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), {}
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: not a plain file of tensors; refused unread") from None
    except Exception as error:  # each reader has its own; all mean that the file is no good
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: not a file of weights: {reason}") from None
    beside: dict[str, Any] = {}
    for key in ("model_state", "state_dict", "model"):
        if isinstance(raw, Mapping) and isinstance(raw.get(key), Mapping):
            beside = {name: value for name, value in raw.items() if name != key}
            raw = raw[key]
    if not isinstance(raw, Mapping) or not all(isinstance(v, Tensor) for v in raw.values()):
        raise InputError(f"{path}: holds no state dict (names to tensors)")
    return dict(raw), beside


def one_channel(given: Tensor, wanted: Tensor) -> Tensor:
    """An RGB stem summed to one channel where `wanted` has one: exact for grey input."""
    rgb = given.ndim == 4 and given.shape[1] == 3 and wanted.ndim == 4 and wanted.shape[1] == 1
    return given.sum(1, keepdim=True) if rgb else given


def check_keys(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Raise InputError naming the first missing, foreign or misshapen tensor, and how many."""
    missing = [name for name in wanted if name not in given]
    foreign = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    for what, names in (("missing", missing), ("foreign", foreign), ("misshapen", shapes)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{source}: {what} tensor {names[0]}{more}")
