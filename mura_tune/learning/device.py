"""Which device a name means, and whether this machine has it."""

from __future__ import annotations

import torch

from mura_tune.errors import InputError


def device_of(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU.

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
