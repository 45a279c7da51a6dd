"""Which rows of train an epoch sees, in which order, and which draw of augmentation each gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mura_tune.learning.metrics import Names

if TYPE_CHECKING:  # it imports this module
    from mura_tune.learning.batches import Split

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stratum:
    """The views of one class, study by study.

    Attributes:
        rows: (V,) row numbers, a study's side by side.
        starts: (M,) where each study begins in `rows`.
        counts: (M,) how many views it has.
    """

    rows: Rows
    starts: Rows
    counts: Rows

    def draw(self, n: int, rng: np.random.Generator) -> Rows:
        """`n` rows with replacement: a study, each as likely, then one of its views."""
        study = rng.integers(len(self.starts), size=n)
        view = rng.integers(self.counts[study])
        rows: Rows = self.rows[self.starts[study] + view]
        return rows


@dataclass(frozen=True, eq=False)
class Order:
    """An epoch: `rows` (N,) of train in their order, and which of N `draws` augments each, (N,)."""

    rows: Rows
    draws: Rows


def strata(labels: Rows, studies: Names) -> tuple[Stratum, ...]:
    """One stratum for each label that occurs; a study belongs to its first view's."""
    found = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(studies[rows], kind="stable")]
        _, starts, counts = np.unique(studies[rows], return_index=True, return_counts=True)
        found.append(Stratum(rows, starts, counts))
    return tuple(found)


def natural(split: Split, rng: np.random.Generator) -> Order:
    """Every view once, with the draw that is its own."""
    rows = rng.permutation(len(split))
    return Order(rows, rows)


def balanced(split: Split, rng: np.random.Generator) -> Order:
    """As many views as there are, an equal share from each class, see `Stratum.draw`.

    A view that comes twice is augmented anew: draws go with places in the order.
    """
    n, classes = len(split), split.strata
    shares = [len(part) for part in np.array_split(np.arange(n), len(classes))]
    parts = [stratum.draw(k, rng) for stratum, k in zip(classes, shares, strict=True)]
    return Order(rng.permutation(np.concatenate(parts)), np.arange(n))


SAMPLINGS: Mapping[str, Callable[[Split, np.random.Generator], Order]] = {
    "natural": natural,
    "balanced": balanced,
}


def order_of(split: Split, *, sampling: str, seed: int, epoch: int) -> Order:
    """What an epoch sees: a function of the split, the sampling's name, seed and epoch alone."""
    return SAMPLINGS[sampling](split, np.random.default_rng((seed, epoch, 1)))


def in_batches(rows: Rows, size: int) -> list[Rows]:
    """`rows` cut into batches of at most `size`, as equal as they can be, so that none is too
    small for BatchNorm."""
    return np.array_split(rows, max(1, -(-len(rows) // size)))
