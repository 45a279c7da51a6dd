"""How far a picture's features lie from those of a set of pictures: Mahalanobis' distance.

The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004 give the form), so
that few pictures suffice, and only its largest directions are kept, so that it takes little room.
Several depths of a network are joined as Lee et al. (2018) do, each with its own distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.estimates import Floats

DIRECTIONS = 32  # of the covariance that are kept, at most
SHRINKAGE = 0.1  # towards the identity; the choices are from benchmarks/limits.py
_LEAST = 1e-12  # of a variance: of features that are always 0


@dataclass(frozen=True, eq=False)
class FeatureDistribution:
    """A normal distribution of features, whose covariance differs from a multiple of the identity
    in K directions.

    Attributes:
        mean: (C,).
        directions: (K, C), of length 1, at right angles.
        variances: (K,) along them; `rest` in every other direction.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    variances: NDArray[np.float32]
    rest: float

    def __post_init__(self) -> None:
        k, c = self.directions.shape
        if self.mean.shape != (c,) or self.variances.shape != (k,):
            raise ValueError(
                f"mean {self.mean.shape}, variances {self.variances.shape}, "
                f"directions {self.directions.shape}"
            )
        if not (self.rest > 0 and (self.variances > 0).all()):
            raise ValueError("a variance that is not above 0")

    def measure(self, features_nc: NDArray[np.float32]) -> Floats:
        """Mahalanobis' distance of each row from the mean, (N,)."""
        apart_nc = features_nc.astype(np.float64) - self.mean
        along_nk = apart_nc @ self.directions.T.astype(np.float64)
        rest_n = np.maximum((apart_nc**2).sum(1) - (along_nk**2).sum(1), 0)
        return np.asarray(np.sqrt((along_nk**2 / self.variances).sum(1) + rest_n / self.rest))


def fit_distribution(features_nc: NDArray[np.float32]) -> FeatureDistribution:
    """The distribution of N rows of features, two at least."""
    n, c = features_nc.shape
    mean = features_nc.mean(0, dtype=np.float64).astype(np.float32)
    apart_nc = features_nc.astype(np.float64) - mean
    k = min(DIRECTIONS, n - 1, c)
    variances, directions = _largest_directions(apart_nc, k)
    total = float((apart_nc**2).sum()) / (n - 1)
    even = SHRINKAGE * total / c
    left = (total - float(variances.sum())) / (c - k) if c > k else 0.0
    floor = _LEAST + 1e-9 * float((mean.astype(np.float64) ** 2).mean())
    return FeatureDistribution(
        mean=mean,
        directions=np.ascontiguousarray(directions, np.float32),
        variances=((1 - SHRINKAGE) * variances + even + floor).astype(np.float32),
        rest=float(np.float32((1 - SHRINKAGE) * max(left, 0.0) + even + floor)),
    )


def _largest_directions(apart_nc: Floats, k: int) -> tuple[Floats, Floats]:
    """The K largest variances of centred rows, and their directions (K, C)."""
    n, c = apart_nc.shape
    if c <= n:
        values, vectors = np.linalg.eigh(apart_nc.T @ apart_nc)
        directions = vectors[:, ::-1][:, :k].T
    else:
        values, vectors = np.linalg.eigh(apart_nc @ apart_nc.T)
        directions = vectors[:, ::-1][:, :k].T @ apart_nc
        lengths = np.sqrt((directions**2).sum(1, keepdims=True))
        directions = directions / np.where(lengths > 0, lengths, 1)
    return np.maximum(values[::-1][:k], 0) / (n - 1), directions


def join_distances(distances_nl: Floats, scales_l: Floats) -> Floats:
    """One distance of each row from its distances at L depths, (N,): the root of their mean square,
    each over the scale of its depth."""
    return np.asarray(np.sqrt(((distances_nl / scales_l) ** 2).mean(1)))


def largest_by_study(distances_n: Floats, inverse_n: NDArray[np.int64]) -> Floats:
    """The largest distance of each study's views, (M,); `inverse_n` is each view's study."""
    largest = np.zeros(int(inverse_n.max()) + 1)
    with np.errstate(invalid="ignore"):  # a study with a NaN is NaN
        np.maximum.at(largest, inverse_n, distances_n)
    return largest


def choose_bound(distances_m: Sequence[float] | Floats, share: float) -> tuple[float, float]:
    """A bound that a new distance of the same kind exceeds with a probability of `share` or less.

    It is the k-th least of M distances, k = ceil((M + 1) (1 - share)), as in split conformal
    prediction (Vovk et al. 2005). Where M is too small for that it is the largest.

    Returns:
        The bound, and the probability that it is exceeded, 1 - k / (M + 1).
    """
    ordered = np.sort(np.asarray(distances_m, dtype=np.float64))
    m = len(ordered)
    k = min(m, int(np.ceil((m + 1) * (1 - share) - 1e-9)))
    return float(ordered[k - 1]), 1 - k / (m + 1)
