"""A stored question and its answer: does a release still say what it said where it was made?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.networks.network import Model
from mura_tune.release_format.manifest import Manifest
from mura_tune.training.batches import to_input

REFERENCE_TOLERANCE = (
    1e-4  # of a logit, and of its size where that is above 1: what rounding may differ by
)


def compute_reference_logits(net: Model, size: int) -> tuple[tuple[float, ...], ...]:
    """The logits (3, K) of `_question`, by a copy of `net` on the CPU."""
    reader = copy.deepcopy(net).cpu().eval()
    with torch.inference_mode():
        logits: Tensor = reader(to_input(_question(size), torch.device("cpu")))
    return tuple(tuple(float(value) for value in row) for row in logits)


def check_reference_logits(net: Model, manifest: Manifest, source: object) -> float | None:
    """The largest difference from the stored answer; None for a release that stored none.

    Raises:
        InputError: it is beyond TOLERANCE, or the answer has another form.
    """
    if manifest.reference_logits is None:
        return None
    stored = torch.tensor(manifest.reference_logits, dtype=torch.float64)
    computed = torch.tensor(
        compute_reference_logits(net, manifest.preprocessing.size), dtype=torch.float64
    )
    if stored.shape != computed.shape:
        raise InputError(
            f"{source}: golden holds logits {tuple(stored.shape)}, and the network "
            f"gives {tuple(computed.shape)}; fetch the release again"
        )
    gap = float((computed - stored).abs().max())
    if not bool(
        ((computed - stored).abs() <= REFERENCE_TOLERANCE * stored.abs().clamp_min(1)).all()
    ):
        raise InputError(
            f"{source}: here the network's logits differ by {gap:.2g} from those "
            "stored with it: another version of a library computes something else; "
            "install those that bundle.json names under versions"
        )
    return gap


def _question(size: int) -> Tensor:
    """Three pictures (3, S, S) by formulas that no library can change: grey, a ramp, a pattern."""
    number = torch.arange(size * size, dtype=torch.int64).view(size, size)
    ramp = number * 255 // (size * size - 1)
    pattern = (number * 2654435761 % 2**32) >> 24  # Knuth's multiplicative hash
    return torch.stack((torch.full_like(ramp, 128), ramp, pattern)).to(torch.uint8)
