"""Splits and batches: the views of a split with their pixels, and the order an epoch sees them in.

The order, the augmentation and the batches of an epoch depend on (seed, epoch) alone. Pixels lie on
the device when they fit there, else in the cache's file.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.data.pixels import MAPPED_ROWS, unmap_pages
from mura_tune.metrics.estimates import Names
from mura_tune.networks.device import pixel_memory
from mura_tune.networks.normalisation import MEAN, STD
from mura_tune.recipe import Recipe
from mura_tune.training.augment import augment, draw_uniform

if TYPE_CHECKING:  # prediction needs no table of studies, so it does not load pandas
    from mura_tune.data.prepare import Prepared

RowNumbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stratum:
    """The views of one class, study by study.

    Attributes:
        rows: (V,) row numbers, a study's side by side.
        starts: (M,) where each study begins in `rows`.
        counts: (M,) how many views it has.
    """

    rows: RowNumbers
    starts: RowNumbers
    counts: RowNumbers

    def draw(self, n: int, rng: np.random.Generator) -> RowNumbers:
        """`n` rows with replacement: a study, each as likely, then one of its views."""
        study = rng.integers(len(self.starts), size=n)
        view = rng.integers(self.counts[study])
        rows: RowNumbers = self.rows[self.starts[study] + view]
        return rows


@dataclass(frozen=True, eq=False)
class Order:
    """The order of one epoch.

    Attributes:
        rows: (N,) row numbers of train, in the order in which they are seen.
        draws: (N,) which row of `draw_uniform` augments each of them.
    """

    rows: RowNumbers
    draws: RowNumbers


def group_by_label(labels: RowNumbers, studies: Names) -> tuple[Stratum, ...]:
    """One stratum for each label that occurs; a study belongs to its first view's."""
    strata = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(studies[rows], kind="stable")]
        _, starts, counts = np.unique(studies[rows], return_index=True, return_counts=True)
        strata.append(Stratum(rows, starts, counts))
    return tuple(strata)


def natural_order(split: Split, rng: np.random.Generator) -> Order:
    """Every view once, with the draw that is its own."""
    rows = rng.permutation(len(split))
    return Order(rows, rows)


def balanced_order(split: Split, rng: np.random.Generator) -> Order:
    """As many views as there are, an equal share from each class, see `Stratum.draw`.

    A view that comes twice is augmented anew: draws go with places in the order.
    """
    n, classes = len(split), split.strata
    shares = [len(share) for share in np.array_split(np.arange(n), len(classes))]
    rows = [stratum.draw(k, rng) for stratum, k in zip(classes, shares, strict=True)]
    return Order(rng.permutation(np.concatenate(rows)), np.arange(n))


SAMPLING_ORDERS: Mapping[str, Callable[[Split, np.random.Generator], Order]] = {
    "natural": natural_order,
    "balanced": balanced_order,
}


def epoch_order(split: Split, *, sampling: str, seed: int, epoch: int) -> Order:
    """What an epoch sees: a function of the split, the sampling's name, seed and epoch alone."""
    return SAMPLING_ORDERS[sampling](split, np.random.default_rng((seed, epoch, 1)))


def view_shares(split: Split, recipe: Recipe) -> NDArray[np.float64]:
    """How large a part of an epoch's loss each view is expected to be, before the class weight:
    how often it is seen, times its weight. (N,), sum 1."""
    return SAMPLING_SHARES[recipe.sampling](split) * view_weights(split, recipe)


def view_weights(split: Split, recipe: Recipe) -> NDArray[np.float64]:
    """What each view's loss is multiplied by, (N,), mean 1.

    With `weigh: study` a view has 1 / the views of its study, times what makes the mean 1: studies
    count alike. Balanced sampling draws studies alike, so that its views weigh 1 either way.
    """
    if recipe.weigh == "view" or recipe.sampling == "balanced":
        return np.ones(len(split))
    _, study, counts = np.unique(split.studies.astype(str), return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = len(split) / len(counts) / counts[study]
    return weights


def _natural_shares(split: Split) -> NDArray[np.float64]:
    return np.full(len(split), 1 / len(split))


def _balanced_shares(split: Split) -> NDArray[np.float64]:
    """Of `balanced_order`: a class, a study of it and a view of that study, each as likely."""
    shares = np.zeros(len(split))
    for stratum in split.strata:
        views = np.repeat(stratum.counts, stratum.counts)
        shares[stratum.rows] = 1 / (len(split.strata) * len(stratum.starts) * views)
    return shares


SAMPLING_SHARES: Mapping[str, Callable[[Split], NDArray[np.float64]]] = {
    "natural": _natural_shares,
    "balanced": _balanced_shares,
}


def cut_into_batches(rows: RowNumbers, size: int) -> list[RowNumbers]:
    """`rows` cut into batches of at most `size`, as equal as they can be, so that none is too
    small for BatchNorm."""
    return np.array_split(rows, max(1, -(-len(rows) // size)))


READ_AHEAD_BYTES = (
    8 * 2**20
)  # bytes read ahead where a split does not fit: five batches of 32 at 224 px


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Pixels (N, S, S) that stay in the cache's file; indexing copies rows to a CPU tensor.

    Attributes:
        stored: (M, S, S) uint8, usually mapped from a file.
        rows: (N,) which of them, in which order.
    """

    stored: NDArray[np.uint8]
    rows: NDArray[np.int64]

    dtype = torch.uint8
    device = torch.device("cpu")

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.stored.shape[1:]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Tensor:
        rows = self.rows[index if isinstance(index, slice) else np.asarray(index)]
        pixels = np.empty((len(rows), *self.stored.shape[1:]), np.uint8)
        for start in range(0, len(rows), MAPPED_ROWS):
            chunk = slice(start, start + MAPPED_ROWS)
            pixels[chunk] = self.stored[rows[chunk]]
            unmap_pages(self.stored)
        return torch.from_numpy(pixels)


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a dataset. A row is a view; the views of a study share its name and label.

    Attributes:
        name: train, dev or test.
        pixels: (N, S, S) uint8, on the device when it fits there, else in the cache's file.
        labels: (N,) int64, on the device.
        studies: (N,) study names.
        patients: (N,) patient names.
        paths: (N,) image paths, as the dataset writes them.
        areas: names of the dataset's areas, in order.
        area_labels: (N,) int64, which of `areas` a view shows, on the device; empty without areas.
    """

    name: str
    pixels: Tensor | OnDisk
    labels: Tensor
    studies: Names
    patients: Names
    paths: Names
    areas: tuple[str, ...] = ()
    area_labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        n = len(self.pixels)
        if self.areas and len(self.area_labels) != n:
            raise ValueError(f"area_labels has {len(self.area_labels)} rows, pixels {n}")
        for column in ("labels", "studies", "patients", "paths"):
            if len(getattr(self, column)) != n:
                raise ValueError(f"{column} has {len(getattr(self, column))} rows, pixels {n}")
        if self.pixels.dtype != torch.uint8 or len(self.pixels.shape) != 3:
            raise ValueError(
                f"pixels are {self.pixels.dtype} {tuple(self.pixels.shape)}; "
                "they must be uint8 (N, S, S)"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: RowNumbers) -> Split:
        """The split of some of its rows."""
        numbers = rows.tolist()
        return replace(
            self,
            pixels=self.pixels[numbers],
            labels=self.labels[numbers],
            studies=self.studies[rows],
            patients=self.patients[rows],
            paths=self.paths[rows],
            area_labels=self.area_labels[numbers] if self.areas else self.area_labels,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the pixels and their order, computed once: what two runs must share."""
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        step = max(1, READ_AHEAD_BYTES // (self.pixels.shape[1] * self.pixels.shape[2]))
        for start in range(0, len(self), step):
            digest.update(self.pixels[start : start + step].cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @functools.cached_property
    def strata(self) -> tuple[Stratum, ...]:
        """The split's views by label and study, computed once."""
        return group_by_label(self.labels.cpu().numpy(), self.studies)


def load_split(
    prepared: Prepared, name: str, device: torch.device, budget: int | None = None
) -> Split:
    """The split `name` (train, dev or test) of a prepared area.

    Args:
        budget: bytes of pixels that may lie on `device`; a larger split stays in the cache's file
            and is streamed. None takes what `device.pixel_memory` returns.
    """
    frame = prepared.frame.iloc[prepared.rows(name)]
    rows = frame["row"].to_numpy()
    pixels: Tensor | OnDisk = OnDisk(prepared.pixels, rows)
    if len(rows) * prepared.pixels[0].size <= (pixel_memory(device) if budget is None else budget):
        pixels = torch.from_numpy(prepared.pixels[rows]).to(device)
    area_numbers = {area: number for number, area in enumerate(prepared.areas)}
    return Split(
        name=name,
        pixels=pixels,
        labels=torch.from_numpy(frame["label"].to_numpy(dtype=np.int64, copy=True)).to(device),
        studies=frame["study"].to_numpy(object),
        patients=frame["patient"].to_numpy(object),
        paths=frame["path"].to_numpy(object),
        areas=prepared.areas,
        area_labels=torch.tensor([area_numbers[area] for area in frame["area"]]).to(device),
    )


def to_input(pixels_nhw: Tensor, device: torch.device) -> Tensor:
    """uint8 (N, S, S) as float32 (N, 1, S, S) on the networks' input scale."""
    out = torch.empty(pixels_nhw.shape, device=device).copy_(pixels_nhw)
    return torch.add(torch.tensor(-MEAN / STD), out, alpha=1 / (255 * STD), out=out).unsqueeze_(1)


def training_batches(
    split: Split,
    *,
    size: int,
    seed: int,
    epoch: int,
    strength: float,
    device: torch.device,
    sampling: str = "natural",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented (x (B, 1, S, S), rows (B,) of the split), those of `epoch_order` in batches."""
    order = epoch_order(split, sampling=sampling, seed=seed, epoch=epoch)
    batches = cut_into_batches(order.rows, size)
    sizes = [len(rows) for rows in batches]
    # The whole epoch's draws and rows at once: a step then copies nothing from the host.
    u_nd = torch.from_numpy(draw_uniform(seed, epoch, len(split))[order.draws]).to(device)
    rows_n = torch.from_numpy(order.rows).to(device)
    augmentation = (torch.split(u_nd, sizes), torch.split(rows_n, sizes))
    for pixels, u, rows in zip(_pixels(split, batches, device), *augmentation, strict=True):
        yield augment(pixels.to(device), u, strength).sub_(MEAN).div_(STD), rows


def plain_batches(split: Split, size: int, device: torch.device) -> Iterator[Tensor]:
    """The images in their order, not augmented: x (B, 1, S, S)."""
    starts = range(0, len(split), size)
    if _resident(split, device):  # slices: drawn rows would be copied first
        batches = (split.pixels[start : start + size] for start in starts)
    else:
        rows = [np.arange(start, min(start + size, len(split))) for start in starts]
        batches = (pixels for pixels in _pixels(split, rows, device))
    for pixels in batches:
        yield to_input(pixels, device)


def _resident(split: Split, device: torch.device) -> bool:
    return isinstance(split.pixels, Tensor) and split.pixels.device == device


def _pixels(
    split: Split, batches: Sequence[NDArray[np.int64]], device: torch.device
) -> Iterator[Tensor]:
    """Each batch's pixels (B, S, S), uint8, on `device`."""
    sizes = [len(rows) for rows in batches]
    if _resident(split, device):
        order = torch.from_numpy(np.concatenate(batches)).to(device)
        for index in torch.split(order, sizes):
            yield split.pixels[index]
        return
    per = max(1, READ_AHEAD_BYTES // (max(sizes) * split.pixels.shape[1] * split.pixels.shape[2]))
    chunks = [batches[i : i + per] for i in range(0, len(batches), per)]

    def load(chunk: Sequence[NDArray[np.int64]]) -> Tensor:
        taken = split.pixels[torch.from_numpy(np.concatenate(chunk))]
        return taken.pin_memory() if device.type == "cuda" else taken

    with ThreadPoolExecutor(1) as pool:  # one chunk ahead, while the device trains on this one
        ahead = pool.submit(load, chunks[0])
        for number, chunk in enumerate(chunks):
            taken = ahead.result().to(device, non_blocking=True)
            if number + 1 < len(chunks):
                ahead = pool.submit(load, chunks[number + 1])
            yield from torch.split(taken, [len(rows) for rows in chunk])
