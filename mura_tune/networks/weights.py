"""Files of weights: read without running code, and refused by name where they do not fit."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.text import printable

# Under which names training scripts put a state dict beside their epoch, optimiser and scores.
WRAPPERS = ("model_state", "model_state_dict", "state_dict", "model")
# What numpy's scalars are pickled by (a script's best AUC, say): they make numbers, no calls.
_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    np.float64(0).__reduce__()[0],
    np.dtype,
    *sorted({type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}, key=lambda kind: kind.__name__),
]
# torchvision's DenseNets before 2019; no name of today has a point in this place.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_COUNT = "num_batches_tracked"  # of BatchNorm: older files lack it, and no answer depends on it
_UNFOLDED = 4  # times its file's size is what a state dict may take: ties are stored once


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, see `read_checkpoint`."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file by name, and the other entries beside torch's state dict.

    The file is a `.safetensors` file, or a state dict saved by torch.

    Raises:
        InputError: no such file, not a file of weights, or one that would run code when loaded.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), {}
        with torch.serialization.safe_globals(_SCALARS):
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: {_unread(error)}") from None
    except MemoryError:
        raise
    except Exception as error:
        # safetensors, zipfile and torch's unpickler each raise errors of their own for a file that
        # is none of weights; the message quotes what it was.
        if isinstance(error, OSError) and error.filename:
            raise
        reason = printable(str(error).partition("\n")[0]) or type(error).__name__
        raise InputError(f"{path}: not a file of weights: {reason}") from None
    state, beside = _state_dict(raw, path)
    _require_plain(state, path)
    return state, {k: v.item() if isinstance(v, np.generic) else v for k, v in beside.items()}


def read_shapes(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file by name, on the meta device.

    Only the header of the file is read.

    Raises:
        InputError: no such file, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            shapes = {name: file.get_slice(name).get_shape() for name in names}
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file: {printable(error)}") from None
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def rename_tensors(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: object
) -> dict[str, Tensor]:
    """Return the weights under the names that the network expects.

    Prefixes of wrappers (`module.`, `model.`, `_orig_mod.`, in any order) go, old DenseNets
    get the names of today, and a count of batches that an old file lacks becomes 0.

    Raises:
        InputError: the network is there twice, under two prefixes.
    """
    named = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in weights.items()}
    prefix = _prefix(named, expected, source)
    named = {name.removeprefix(prefix): value for name, value in named.items()}
    for name, value in expected.items():
        if name.endswith(_COUNT) and name not in named:
            named[name] = torch.zeros(value.shape, dtype=value.dtype)
    return named


def sum_to_one_channel(loaded: Tensor, expected: Tensor) -> Tensor:
    """Sum an RGB stem to one channel where `expected` has one: this is exact for grey input."""
    rgb = (
        loaded.ndim == 4 and loaded.shape[1] == 3 and expected.ndim == 4 and expected.shape[1] == 1
    )
    return loaded.sum(1, keepdim=True) if rgb else loaded


def check_tensor_names(
    loaded: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> None:
    """Raise InputError naming the first missing, foreign or misshapen tensor, and how many."""
    missing = [name for name in expected if name not in loaded]
    foreign = [name for name in loaded if name not in expected]
    shapes = [
        f"{name} is {tuple(loaded[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in loaded and loaded[name].shape != expected[name].shape
    ]
    for fault, names in (("missing", missing), ("foreign", foreign), ("misshapen", shapes)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(printable(f"{source}: {fault} tensor {names[0]}{more}"))


def check_finite_weights(weights: Mapping[str, Tensor], source: object) -> None:
    """Raise InputError naming the first tensor with a NaN or an infinity, and how many have one.

    A network with such a weight answers NaN, which compares as *not abnormal* with any threshold.
    """
    broken = [
        name
        for name, value in weights.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise InputError(
            printable(
                f"{source}: not every number in tensor {broken[0]}{more} is finite; "
                "the training that made it diverged, or the file is damaged"
            )
        )


def copy_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies on the CPU, no two of which share memory: safetensors refuses that.

    CoaT is a network that has modules under two names; each name gets a copy.
    """
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }


def _state_dict(raw: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the one state dict in the content of a file, and the entries beside it."""
    beside: dict[str, Any] = {}
    while isinstance(raw, Mapping) and not _is_state_dict(raw):
        inner = [key for key in WRAPPERS if isinstance(raw.get(key), Mapping)]
        inner = [key for key in inner if _is_state_dict(raw[key])] or inner
        if len(inner) > 1:
            raise InputError(
                f"{path}: holds several state dicts ({', '.join(inner)}); "
                "save the one that is meant alone"
            )
        if not inner:
            break
        beside = {str(name): value for name, value in raw.items() if name != inner[0]}
        raw = raw[inner[0]]
    if not isinstance(raw, Mapping) or not _is_state_dict(raw):
        keys = ", ".join(str(key) for key in raw) if isinstance(raw, Mapping) else ""
        about = f"its keys are {keys}" if keys else f"it is of type {type(raw).__name__}"
        raise InputError(printable(f"{path}: holds no state dict (names to tensors); {about}"))
    return dict(raw), beside


def _is_state_dict(raw: Mapping[Any, Any]) -> bool:
    return bool(raw) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in raw.items())


def _require_plain(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are more than numbers in memory, or far more than their file."""
    for name, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise InputError(printable(f"{path}: {name} is no plain tensor of numbers"))
    total, size = sum(value.nbytes for value in state.values()), path.stat().st_size
    if total > _UNFOLDED * size:
        raise InputError(f"{path}: {size} bytes that would take {total} in memory; refused")


def _unread(error: pickle.UnpicklingError) -> str:
    """Say why torch refused to unpickle a file, by the class or function that the file names."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named is None:
        return "not a plain file of tensors; refused unread"
    return (
        f"not a plain file of tensors: it holds a {named[1]}, which only running code would make; "
        "refused unread; save the network's state_dict() alone"
    )


def _prefix(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: object) -> str:
    """Return the prefix before the network's own names: the one that fits most of them."""
    first = next(iter(expected), "")
    candidates = {name.removesuffix(first) for name in weights if name.endswith(f".{first}")}
    fitting = {prefix: sum(prefix + name in weights for name in expected) for prefix in candidates}
    own = sum(name in weights for name in expected)
    most = max(fitting.values(), default=0)
    if own >= most:
        return ""
    best = sorted(prefix for prefix, count in fitting.items() if count == most)
    if len(best) > 1:
        raise InputError(
            printable(
                f"{source}: the network is there {len(best)} times, under {' and '.join(best)}; "
                "save the one that is meant alone"
            )
        )
    return best[0]
