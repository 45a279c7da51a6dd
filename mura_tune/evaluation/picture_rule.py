"""The rule of the picture: whether a study looks like a release's radiographs, by no network.

A small network from random weights hardly sees texture; what the plain numbers of a picture are
depends on no weights (`networks.features.describe_pictures`). A release stores their distribution
over train and dev, and the bound beyond which a study is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.evaluation.cross_fit import fold_patients
from mura_tune.metrics.distances import (
    FeatureDistribution,
    choose_bound,
    fit_distribution,
    largest_by_study,
)
from mura_tune.metrics.estimates import Floats
from mura_tune.networks.device import evaluation_batch
from mura_tune.networks.features import describe_pictures
from mura_tune.training.batches import Split, plain_batches

MOST_VIEWS = 2000  # that a distribution rests on, evenly spaced
LEAST_VIEWS = 8  # fewer say nothing about a distribution
LEAST_SCALE = 1e-6  # of distances that are all 0, such as those of features that never change
_ARRAYS = "pictures."  # before the names of a rule's arrays


@dataclass(frozen=True, eq=False)
class PictureRule:
    """What a release's radiographs look like, and how far a study may lie from them.

    Attributes:
        distribution: of `describe_pictures` over the views of train and dev.
        bound: a study whose distance is larger is refused.
        share: the probability that a new study like those of train and dev is refused.
        studies: of train and dev, that chose the bound.
    """

    distribution: FeatureDistribution
    bound: float
    share: float
    studies: int

    def measure(self, x_nchw: Tensor) -> Floats:
        """The distance of each view over the bound, (N,): more than 1 is beyond it."""
        return self.distribution.measure(describe_pictures(x_nchw)) / self.bound

    def describe(self) -> str:
        """How the bound was chosen, as a clause that follows the one about features."""
        return (
            "; by its picture alone, whatever the network, with one of about "
            f"{self.share:.3f}: {self.studies} studies of train and dev chose that bound, each "
            "measured without its patient's fold"
        )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of a file of features, by name."""
        arrays = {
            "mean": self.distribution.mean,
            "directions": self.distribution.directions,
            "variances": self.distribution.variances,
            "rest": np.array(self.distribution.rest),
            "bound": np.array(self.bound),
            "share": np.array(self.share),
            "studies": np.array(self.studies),
        }
        return {f"{_ARRAYS}{name}": np.ascontiguousarray(one) for name, one in arrays.items()}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> PictureRule | None:
        """The rule that `to_arrays` stored; None from a file that has none.

        Raises:
            KeyError, ValueError, TypeError: arrays of something else.
        """
        own = {
            name.removeprefix(_ARRAYS): one
            for name, one in arrays.items()
            if name.startswith(_ARRAYS)
        }
        if not own:
            return None
        bound, share, studies = (own[name].item() for name in ("bound", "share", "studies"))
        if not (bound > 0 and 0 <= share <= 1 and studies > 0):
            raise ValueError(f"bound {bound}, share {share}, studies {studies}")
        distribution = FeatureDistribution(
            mean=own["mean"].astype(np.float32),
            directions=own["directions"].astype(np.float32),
            variances=own["variances"].astype(np.float32),
            rest=own["rest"].item(),
        )
        return PictureRule(distribution, bound, share, int(studies))


def choose_picture_rule(everyone: Split, share: float) -> PictureRule | None:
    """Choose how far the pictures of a study may lie from those of train and dev.

    Patients are dealt to folds, and each view is measured by the distribution of the views of the
    other folds. So every study helps to choose the bound, where only dev's can say how far a
    trained network's features may lie.

    Args:
        everyone: the views of train and dev.
        share: of new studies like these that may be refused.

    Returns:
        The rule; None where a fold leaves fewer than LEAST_VIEWS.
    """
    split = everyone.take(sample_studies(everyone))
    device = split.labels.device
    batches = plain_batches(split, evaluation_batch(device), device)
    described_nc = np.concatenate([describe_pictures(x_nchw) for x_nchw in batches])
    folds_n = fold_patients(split.patients, split.labels.cpu().numpy(), seed=0)
    distances_n = np.empty(len(split))
    for fold in np.unique(folds_n):
        own = folds_n == fold
        if (~own).sum() < LEAST_VIEWS:
            return None
        distances_n[own] = fit_distribution(described_nc[~own]).measure(described_nc[own])
    names, inverse = np.unique(split.studies, return_inverse=True)
    bound, refused = choose_bound(largest_by_study(distances_n, inverse), share)
    distribution = fit_distribution(described_nc)
    return PictureRule(distribution, max(bound, LEAST_SCALE), refused, len(names))


def sample_studies(split: Split) -> NDArray[np.int64]:
    """The rows of whole studies, evenly spaced by name: of all, or of about MOST_VIEWS views."""
    names, inverse = np.unique(split.studies, return_inverse=True)
    count = min(len(names), max(1, len(names) * MOST_VIEWS // max(1, len(split))))
    chosen = np.linspace(0, len(names) - 1, count).astype(np.int64)
    return np.flatnonzero(np.isin(inverse, chosen))
