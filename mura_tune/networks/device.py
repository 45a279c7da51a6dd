"""Devices: the one that a name means, its memory for pixels, its precision and batch size."""

from __future__ import annotations

import contextlib
import os

import torch

from mura_tune.errors import InputError


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is the first GPU where there is one, else the CPU.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: write cpu, cuda, cuda:1 or auto") from None
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise InputError(
            f"--device {name}: this machine has {gpus} CUDA device(s); use cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: write cpu, cuda, cuda:1 or auto")
    return device


def choose_devices(names: str) -> tuple[torch.device, ...]:
    """Return the devices of names with commas between them; `all` means every GPU.

    Raises:
        InputError: no such device here.
    """
    if names != "all":
        return tuple(choose_device(name) for name in names.split(","))
    gpus = torch.cuda.device_count()
    if not gpus:
        raise InputError("--devices all: this machine has no CUDA device; write cpu or auto")
    return tuple(torch.device("cuda", number) for number in range(gpus))


def pixel_memory(device: torch.device, workers: int = 1) -> int:
    """Return how many bytes one split's pixels may take in each of the workers on a device.

    Together they take half of a GPU's free memory, or a quarter of the machine's, which leaves
    memory for train and dev, and for the networks.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2 // workers
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // workers


def feature_memory(device: torch.device, workers: int = 1) -> int:
    """Return how many bytes of frozen stages' features each of the workers on a device may hold.

    Together they hold a quarter of a GPU's free memory. On a CPU they hold nothing: the system
    keeps the files of features in memory as it is.
    """
    return torch.cuda.mem_get_info(device)[0] // 4 // workers if device.type == "cuda" else 0


def precision(device: torch.device) -> torch.dtype:
    """Return the type that convolutions run in.

    It is bfloat16 where a GPU has it in hardware (compute capability 8 and up), else float32: a CPU
    that emulates bfloat16 was 24 times slower.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Run the operations inside at `precision(device)`."""
    dtype = precision(device)
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def evaluation_batch(device: torch.device) -> int:
    """Return the batch size without gradients: it fits a CPU's cache, or keeps a GPU busy."""
    return 32 if device.type == "cpu" else 128
