"""Familiarity: whether a study looks like the radiographs that a release was trained on.

A network answers any picture. What its training radiographs look like is stored with a release: the
distribution of the network's pooled features at each depth. A view's distance is the root of the
mean square of its Mahalanobis distances at the depths, each over the median of dev's views there,
or how far the picture itself lies (`picture_rule`), whichever is farther beyond its own bound. A
study's distance is that of its least familiar view. Beyond the bound that was chosen on dev's
studies the release abstains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.evaluation.picture_rule import LEAST_SCALE, LEAST_VIEWS, MOST_VIEWS, PictureRule
from mura_tune.metrics.distances import (
    FeatureDistribution,
    choose_bound,
    fit_distribution,
    join_distances,
    largest_by_study,
)
from mura_tune.metrics.estimates import DRAWS, Estimate, Floats, Names, resample, share_interval
from mura_tune.networks.device import evaluation_batch
from mura_tune.networks.features import Features, answer_with_features
from mura_tune.networks.network import Model
from mura_tune.release_format.entries import FamiliarityEntry
from mura_tune.release_format.metrics_entries import UnfamiliarEntry
from mura_tune.training.batches import Split, plain_batches

FILE = "training_features.safetensors"
UNFAMILIAR = "not like the radiographs this was trained on"
SHARE = 0.0125  # of new studies like dev's that may be refused by features, and as many by pictures
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, eq=False)
class FamiliarityRule:
    """What a release's training radiographs look like to its network, and how far a study may lie
    from them.

    Attributes:
        depths: L distributions of pooled features; see `networks.features`.
        scales: (L,) median distance of dev's views at each depth.
        threshold: a study whose distance is larger is refused.
        share: the probability that a new study like dev's is refused, at most.
        studies: of dev, that chose the threshold.
        views: of train, that the distributions rest on.
        pictures: what the radiographs look like before any network; None in older releases, whose
            distances are of features alone.
    """

    depths: tuple[FeatureDistribution, ...]
    scales: Floats
    threshold: float
    share: float
    studies: int
    views: int
    pictures: PictureRule | None = None

    def measure(self, x_nchw: Tensor, features: Features) -> Floats:
        """The distance of each view, (N,), from its pooled features and its picture.

        A picture at its bound has the distance `threshold`.

        Raises:
            InputError: features of another network.
        """
        distances_n = join_distances(measure_depths(self.depths, features), self.scales)
        if self.pictures is None:
            return distances_n
        return np.maximum(distances_n, self.threshold * self.pictures.measure(x_nchw))

    def entry(self) -> FamiliarityEntry:
        """The entry of a manifest; what else there is stands in the file that it names."""
        return FamiliarityEntry(
            file=FILE,
            threshold=self.threshold,
            share=self.share,
            studies=self.studies,
            views=self.views,
            rule=self._describe(),
        )

    def _describe(self) -> str:
        """How the threshold was chosen, as a clause for people."""
        by, share, more = "", self.share, ""
        if self.pictures is not None:
            by, share, more = " by features", share - self.pictures.share, self.pictures.describe()
        return (
            f"a new study like those of dev lies beyond it{by} with a probability of {share:.3f} "
            f"or less, over draws of dev (split conformal){more}"
        )

    def to_bytes(self) -> bytes:
        """The content of the file."""
        arrays: dict[str, NDArray[np.generic]] = {"scales": np.asarray(self.scales, np.float32)}
        arrays["rests"] = np.array([one.rest for one in self.depths], np.float32)
        for number, one in enumerate(self.depths):
            arrays[f"{number}.mean"] = one.mean
            arrays[f"{number}.directions"] = np.ascontiguousarray(one.directions)
            arrays[f"{number}.variances"] = one.variances
        if self.pictures is not None:
            arrays |= self.pictures.to_arrays()
        return safetensors.numpy.save(arrays)

    @staticmethod
    def from_bytes(content: bytes, entry: FamiliarityEntry, source: object) -> FamiliarityRule:
        """The rule that `entry` and `to_bytes` stored.

        Raises:
            InputError: a file that holds something else; `source` opens the message.
        """
        try:
            arrays = safetensors.numpy.load(content)
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise ValueError("a number that is not finite")
            scales, rests = arrays["scales"].astype(np.float64), arrays["rests"].tolist()
            if scales.ndim != 1 or len(scales) != len(rests) or not (scales > 0).all():
                raise ValueError(f"{len(rests)} depths, scales {scales.tolist()}")
            depths = tuple(
                FeatureDistribution(
                    mean=arrays[f"{number}.mean"],
                    directions=arrays[f"{number}.directions"],
                    variances=arrays[f"{number}.variances"],
                    rest=rest,
                )
                for number, rest in enumerate(rests)
            )
            pictures = PictureRule.from_arrays(arrays)
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{source}: damaged ({error}); fetch the release again") from None
        return FamiliarityRule(
            *(depths, scales, entry.threshold, entry.share, entry.studies, entry.views),
            pictures=pictures,
        )


@dataclass(frozen=True, eq=False)
class TrainedFeatures:
    """What one network's training views look like to it, and how far other views lie from them.

    Attributes:
        depths: L distributions; none where there are too few views, or no pooled features.
        distances: (N, L) of views that the network, or that of their fold, was not trained on.
        views: of train, that `depths` rest on.
    """

    depths: tuple[FeatureDistribution, ...]
    distances: Floats
    views: int


def measure_features(net: Model, train: Split, dev: Split) -> TrainedFeatures:
    """What train looks like to a network, and how far dev's views lie from it."""
    depths = fit_depths(net, train)
    distances = measure_split(net, depths, dev) if depths else np.empty((len(dev), 0))
    return TrainedFeatures(depths, distances, len(sample_rows(len(train))))


class FoldFeatures:
    """The same of patient folds: each view is measured by the network that did not know it.

    Args:
        everyone: the views of all folds.
    """

    def __init__(self, everyone: Split) -> None:
        self._everyone = everyone
        self._row_of = {path: row for row, path in enumerate(everyone.paths)}
        self._folds: list[tuple[list[int], Floats]] = []

    def add(self, net: Model, train: Split, dev: Split) -> None:
        """Measure the views of a fold, `dev`, by its network."""
        rows = [self._row_of[path] for path in dev.paths]
        self._folds.append((rows, measure_features(net, train, dev).distances))

    def join(self, net: Model) -> TrainedFeatures:
        """The distances of all folds, for a network that was trained on everyone."""
        depths = fit_depths(net, self._everyone)
        distances = np.full((len(self._everyone), len(depths)), np.nan)
        for rows, own in self._folds:
            if own.shape[1] != len(depths):  # a fold of too few views
                return TrainedFeatures((), np.empty((len(distances), 0)), 0)
            distances[rows] = own
        return TrainedFeatures(depths, distances, len(sample_rows(len(self._everyone))))


def measure_depths(depths: Sequence[FeatureDistribution], features: Features) -> Floats:
    """The distance of each view at each of L depths, (N, L).

    Raises:
        InputError: features of another network.
    """
    if [one.shape[1] for one in features] != [len(one.mean) for one in depths]:
        raise InputError(f"{FILE}: of another network; fetch or make the release again")
    arrays = [one.float().cpu().numpy() for one in features]
    return np.stack([depth.measure(x) for depth, x in zip(depths, arrays, strict=True)], axis=1)


def fit_depths(net: Model, train: Split) -> tuple[FeatureDistribution, ...]:
    """The distributions of the pooled features of train's views; none from fewer than LEAST_VIEWS,
    or of a network without such features."""
    rows = sample_rows(len(train))
    if len(rows) < LEAST_VIEWS:
        return ()
    _, batches = _answer_split(
        net, train.take(rows), lambda _, features: [one.cpu().numpy() for one in features]
    )
    return tuple(fit_distribution(np.concatenate(parts)) for parts in zip(*batches, strict=True))


def sample_rows(views: int) -> NDArray[np.int64]:
    """The rows of at most MOST_VIEWS of so many views, evenly spaced."""
    return np.unique(np.linspace(0, views - 1, min(views, MOST_VIEWS)).astype(np.int64))


def measure_split(net: Model, depths: Sequence[FeatureDistribution], split: Split) -> Floats:
    """The distance of each view of a split at each depth, (N, L)."""
    _, batches = _answer_split(net, split, lambda _, features: measure_depths(depths, features))
    return np.concatenate(batches)


def choose_rule(
    members: Sequence[TrainedFeatures], studies_n: Names, pictures: PictureRule | None
) -> FamiliarityRule | None:
    """Choose how far a study may lie, on views that the networks were not trained on.

    Args:
        members: one network, or the members of an ensemble in their order.
        studies_n: the study of each view whose distances they have.
        pictures: what the radiographs look like before any network, where that is known.

    Returns:
        The rule; None where a member has no depths.
    """
    if not all(member.depths for member in members):
        return None
    depths = tuple(depth for member in members for depth in member.depths)
    distances_nl = np.concatenate([member.distances for member in members], axis=1)
    medians = np.maximum(np.median(distances_nl, axis=0), LEAST_SCALE)
    scales = medians.astype(np.float32).astype(np.float64)  # as they are stored
    names, inverse = np.unique(studies_n, return_inverse=True)
    distances_m = largest_by_study(join_distances(distances_nl, scales), inverse)
    bound, share = choose_bound(distances_m, SHARE)
    if pictures is not None:
        share = min(1.0, share + pictures.share)  # of both, however they depend
    return FamiliarityRule(
        *(depths, scales, max(bound, LEAST_SCALE), share, len(names), members[0].views),
        pictures=pictures,
    )


def predict_with_distances(
    net: Model, split: Split, rule: FamiliarityRule | None
) -> tuple[Tensor, Floats | None]:
    """The logits (N, K) of a split's views, as `fit.predict` gives them, and their distances (N,);
    None without a rule."""
    if rule is None:
        from mura_tune.training.fit import predict  # `mura infer` starts without it

        return predict(net, split), None
    logits, distances = _answer_split(net, split, rule.measure)
    return logits, np.concatenate(distances)


@torch.inference_mode()
def _answer_split(
    net: Model, split: Split, use: Callable[[Tensor, Features], ResultT]
) -> tuple[Tensor, list[ResultT]]:
    """The logits of a split's views, and what `use` makes of each batch and its features."""
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    logits, results = [], []
    for x_nchw in plain_batches(split, evaluation_batch(device), device):
        own, features = answer_with_features(net, x_nchw)
        logits.append(own.float())
        results.append(use(x_nchw, features))
    net.train(was_training)
    return torch.cat(logits), results


def find_unfamiliar(
    distances_n: Floats | None, split: Split, rule: FamiliarityRule | None
) -> NDArray[np.bool_]:
    """Which studies are refused, in the order of their names, (M,); none without a rule."""
    names, inverse = np.unique(split.studies, return_inverse=True)
    if rule is None or distances_n is None:
        return np.zeros(len(names), dtype=bool)
    familiar = largest_by_study(distances_n, inverse) <= rule.threshold
    return np.asarray(~familiar)  # NaN is refused, as in answers


def count_unfamiliar(
    distances_n: Floats | None, split: Split, rule: FamiliarityRule | None
) -> UnfamiliarEntry | None:
    """How many of a split's studies are refused; None without a rule."""
    if rule is None or distances_n is None:
        return None
    return estimate_unfamiliar(find_unfamiliar(distances_n, split, rule), split)


def estimate_unfamiliar(unfamiliar_m: NDArray[np.bool_], split: Split) -> UnfamiliarEntry:
    """The count of studies that are refused, with the interval of their share by patient."""
    _, first = np.unique(split.studies, return_index=True)
    patients = split.patients[first]
    flags = unfamiliar_m.astype(np.float64)
    count, share = len(np.unique(patients)), float(flags.mean())
    drawn = resample(lambda weights: weights @ flags / weights.sum(1), patients, DRAWS, 0)
    low, high = share_interval(share, drawn, count)
    return UnfamiliarEntry(
        studies=int(flags.sum()), share=Estimate(share, low, high, len(flags), count)
    )


def describe_unfamiliar(unfamiliar: UnfamiliarEntry | None) -> str:
    """The count as a clause for people; "" where it is not known."""
    if unfamiliar is None:
        return ""
    refused = "1 study" if unfamiliar.studies == 1 else f"{unfamiliar.studies} studies"
    return f"{refused} refused, {UNFAMILIAR}: {unfamiliar.share.brief()}"
