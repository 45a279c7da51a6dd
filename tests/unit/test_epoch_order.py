"""Sampling: what an epoch sees is drawn from seed and epoch alone, and balanced is balanced."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from test_feeds import DEV, assert_same, network
from test_feeds import recipe as small

from mura_tune.recipe import with_values
from mura_tune.training import losses
from mura_tune.training.batches import (
    Split,
    cut_into_batches,
    epoch_order,
    training_batches,
    view_shares,
    view_weights,
)
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource, pixel_feed
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK

CPU = torch.device("cpu")
VIEWS = (1, 3, 2, 5, 1, 4, 2, 2, 6, 1, 1, 2)  # of each study; the last three are abnormal


def skewed() -> Split:
    """Twelve studies, three of them abnormal; image i is a picture of brightness i."""
    study = np.repeat(np.arange(12), VIEWS)
    n = len(study)
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None] * 8, (n, 32, 32)).copy()
    names = np.array([f"s{i:02d}" for i in study])
    labels = torch.from_numpy((study >= 9).astype(np.int64))
    return Split("train", torch.from_numpy(images), labels, names, names, names)


TRAIN = skewed()


def drawn(epoch: int, sampling: str = "balanced", seed: int = 0) -> np.ndarray:
    return epoch_order(TRAIN, sampling=sampling, seed=seed, epoch=epoch).rows


def test_natural_is_every_view_once_in_the_order_it_always_had() -> None:
    rows = drawn(4, "natural", seed=3)
    assert rows.tolist() == np.random.default_rng((3, 4, 1)).permutation(30).tolist()


def test_balanced_has_as_many_views_and_half_of_them_are_abnormal() -> None:
    for epoch in range(1, 30):
        rows = drawn(epoch)
        assert len(rows) == len(TRAIN)
        assert int(TRAIN.labels[rows].sum()) == 15


def test_each_study_of_a_class_and_each_of_its_views_are_as_likely() -> None:
    rows = np.concatenate([drawn(epoch) for epoch in range(1, 801)])
    of_study = Counter(TRAIN.studies[rows].tolist())
    for names, each in (
        ([f"s{i:02d}" for i in range(9)], 12000 / 9),
        (["s09", "s10", "s11"], 4000),
    ):
        assert all(of_study[name] == pytest.approx(each, rel=0.12) for name in names)
    views = Counter(rows[TRAIN.studies[rows] == "s08"].tolist())
    assert len(views) == 6
    assert all(count == pytest.approx(12000 / 54, rel=0.3) for count in views.values())


def test_it_depends_on_seed_and_epoch_alone() -> None:
    assert np.array_equal(drawn(2), drawn(2))
    assert not np.array_equal(drawn(2), drawn(3))
    assert not np.array_equal(drawn(2), drawn(2, seed=1))


def test_a_view_that_comes_twice_is_augmented_anew() -> None:
    order = epoch_order(TRAIN, sampling="balanced", seed=0, epoch=1)
    twice = next(row for row, count in Counter(order.rows.tolist()).items() if count > 1)
    x = torch.cat(
        [
            x
            for x, _ in training_batches(
                TRAIN, size=8, seed=0, epoch=1, strength=1.0, device=CPU, sampling="balanced"
            )
        ]
    )
    first, second = np.flatnonzero(order.rows == twice)[:2]
    assert not torch.equal(x[first], x[second])


def test_batches_hold_the_rows_that_were_drawn() -> None:
    x = torch.cat(
        [
            x
            for x, _ in training_batches(
                TRAIN, size=8, seed=0, epoch=5, strength=0.0, device=CPU, sampling="balanced"
            )
        ]
    )
    brightness = ((x[:, 0, 0, 0] * 0.226 + 0.449) * 255 / 8).round().int().tolist()
    assert brightness == drawn(5).tolist()
    assert [len(rows) for rows in cut_into_batches(drawn(5), 8)] == [8, 8, 7, 7]


def test_the_class_weight_is_not_balanced_twice() -> None:
    assert losses.positive_weight(TRAIN, small(class_weight=1.5)) == 1.5 * 26 / 4
    given = small(sampling="balanced", class_weight=1.5)
    assert losses.positive_weight(TRAIN, given) == 1.5


def test_studies_count_alike_where_the_recipe_weighs_studies() -> None:
    given = small(weigh="study", class_weight=1.5)
    assert losses.positive_weight(TRAIN, given) == 1.5 * 9 / 3
    weights = view_weights(TRAIN, given)
    of_study = Counter[str]()
    for name, weight in zip(TRAIN.studies, weights, strict=True):
        of_study[name] += weight
    assert list(of_study.values()) == pytest.approx([30 / 12] * 12)
    assert view_shares(TRAIN, given).sum() == pytest.approx(1)
    assert set(view_weights(TRAIN, small())) == {1.0}
    balanced = small(weigh="study", sampling="balanced")
    assert set(view_weights(TRAIN, balanced)) == {1.0}


@pytest.mark.parametrize("weigh", ["view", "study"])
def test_an_epoch_has_the_mean_loss_of_its_weighed_views(weigh: str) -> None:
    """Three batches of ten views, and steps so small that no weight moves."""
    given = small(weigh=weigh, batch=10, augment=0.0, class_weight=2.0)
    given = with_values(given, {"head.epochs": 1, "head.lr": 1e-12, "finetune.epochs": 0})
    net = network(given)
    losses_n = losses.binary_loss(TRAIN, given)(predict(net, TRAIN), TRAIN.labels).double().numpy()
    counts = Counter(TRAIN.studies)
    by_study = [30 / 12 / counts[name] for name in TRAIN.studies]
    expected = np.dot(losses_n, by_study if weigh == "study" else np.ones(30)) / 30
    found = fit(net, TRAIN, DEV, given, ABNORMALITY_TASK).epochs[0].loss
    assert found == pytest.approx(expected, rel=1e-5)


def test_features_and_pixels_give_the_same_weights(tmp_path: Path) -> None:
    given = small(sampling="balanced", **{"finetune.depth": 0})
    source = FeatureSource(FeatureStore(tmp_path))
    afresh, kept, read = (
        fit(network(given), TRAIN, DEV, given, ABNORMALITY_TASK, source=one)
        for one in (pixel_feed, source, source)
    )
    assert_same(kept, afresh)
    assert_same(read, afresh)
    natural = small(**{"finetune.depth": 0})  # nor is one kept for the other
    assert_same(
        fit(network(natural), TRAIN, DEV, natural, ABNORMALITY_TASK, source=source),
        fit(network(natural), TRAIN, DEV, natural, ABNORMALITY_TASK),
    )


def test_corrected_labels_are_other_features(tmp_path: Path) -> None:
    given = small(sampling="balanced", **{"finetune.depth": 0})
    source = FeatureSource(FeatureStore(tmp_path))
    fit(network(given), TRAIN, DEV, given, ABNORMALITY_TASK, source=source)
    labels = TRAIN.labels.clone()
    labels[TRAIN.studies == "s03"] = 1
    corrected = dataclasses.replace(TRAIN, labels=labels)
    assert corrected.fingerprint == TRAIN.fingerprint
    assert_same(
        fit(network(given), corrected, DEV, given, ABNORMALITY_TASK, source=source),
        fit(network(given), corrected, DEV, given, ABNORMALITY_TASK),
    )
