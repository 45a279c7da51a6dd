"""Pixels on the device, and batches that are the same for the same (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.learning.augment import augment, draws

if TYPE_CHECKING:  # prediction needs no table of studies, so it does not load pandas
    from mura_tune.data.prepare import Prepared

# One grey channel normalised by the mean of ImageNet's three means and deviations: with the RGB
# stem summed this equals a grey image copied to three channels.
MEAN, STD = 0.449, 0.226


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset. A row is a view; views of a study share its name and label.

    Attributes:
        name: train, dev or test.
        pixels: (N, S, S) uint8, on the device when it fits there.
        labels: (N,) int64, beside the pixels.
        studies: (N,) study names.
        patients: (N,) patient names.
        paths: (N,) image paths, as the dataset writes them.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    studies: NDArray[np.str_]
    patients: NDArray[np.str_]
    paths: NDArray[np.str_]

    def __post_init__(self) -> None:
        n = len(self.pixels)
        for what in ("labels", "studies", "patients", "paths"):
            if len(getattr(self, what)) != n:
                raise ValueError(f"{what} has {len(getattr(self, what))} rows, pixels {n}")
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 3:
            raise ValueError(f"pixels are {self.pixels.dtype} {tuple(self.pixels.shape)}; "
                             "they must be uint8 (N, S, S)")  # fmt: skip

    def __len__(self) -> int:
        return len(self.pixels)


def split_of(prepared: Prepared, part: str, device: torch.device) -> Split:
    """One part (train, dev or test) of a prepared area, its pixels on `device`."""
    rows = prepared.rows(part)
    frame = prepared.frame.iloc[rows]
    return Split(
        name=part,
        pixels=torch.from_numpy(prepared.pixels[rows]).to(device),
        labels=torch.from_numpy(frame["label"].to_numpy(dtype=np.int64, copy=True)).to(device),
        studies=frame["study"].to_numpy(dtype=str),
        patients=frame["patient"].to_numpy(dtype=str),
        paths=frame["path"].to_numpy(dtype=str),
    )


def to_float(pixels_nhw: Tensor, device: torch.device) -> Tensor:
    """uint8 (N, S, S) as float32 (N, 1, S, S) in [0, 1] on `device`."""
    return pixels_nhw.to(device).float().div_(255).unsqueeze_(1)


def normalise(x_nchw: Tensor) -> Tensor:
    """[0, 1] to the networks' input scale."""
    return (x_nchw - MEAN) / STD


def training_batches(
    split: Split, *, size: int, seed: int, epoch: int, strength: float, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented (x (B, 1, S, S), labels (B,)) in an order drawn from (seed, epoch).

    Batches are as equal as they can be, so that none is too small for BatchNorm.
    """
    n = len(split)
    order = np.random.default_rng((seed, epoch, 1)).permutation(n)
    u_nd = draws(seed, epoch, n)
    for rows in np.array_split(order, max(1, -(-n // size))):
        index = torch.from_numpy(rows).to(split.pixels.device)
        x = to_float(split.pixels[index], device)
        u = torch.from_numpy(u_nd[rows]).to(device)
        yield normalise(augment(x, u, strength)), split.labels[index].to(device)


def plain_batches(split: Split, size: int, device: torch.device) -> Iterator[Tensor]:
    """The images in their order, not augmented: x (B, 1, S, S)."""
    for start in range(0, len(split), size):
        yield normalise(to_float(split.pixels[start : start + size], device))
