"""Features instead of pixels: the same numbers to the bit, whatever is kept, shared or lost."""

import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mura_tune.config import load_config
from mura_tune.networks.device import evaluation_batch
from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.recipe import Recipe, apply_values
from mura_tune.training.batches import Split
from mura_tune.training.feature_cache import FeatureMemory, FeatureStore
from mura_tune.training.feeds import FeatureSource, halve_network, pixel_feed
from mura_tune.training.fit import FitResult, fit
from mura_tune.training.tasks import ABNORMALITY_TASK

CPU = torch.device("cpu")


def recipe(**values: object) -> Recipe:
    small = {
        "arch": "cnn",
        "size": 32,
        "pretrained": "none",
        "batch": 10,
        "head.epochs": 1,
        "finetune.epochs": 2,
        "finetune.lr": 1e-3,
    }
    return apply_values(load_config("default").recipe, small | values, "test")


def split(n: int, name: str, seed: int) -> Split:
    """Noise with a brighter half where the label is 1; two views a study."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 200, (n, 32, 32), dtype=np.uint8)
    labels = np.arange(n) // 2 % 2
    images[labels == 1, 16:] += 40
    studies = np.array([f"s{i // 2:03d}" for i in range(n)])
    paths = np.array([f"{i}.png" for i in range(n)])
    return Split(name, torch.from_numpy(images), torch.from_numpy(labels), studies, studies, paths)


# Sizes that divide unevenly: batches of 9 and 8, and a second evaluation batch.
TRAIN, DEV = split(34, "train", 0), split(evaluation_batch(CPU) + 6, "dev", 1)


def network(given: Recipe) -> Network:
    return build_network(given.arch, pretrained=given.pretrained, seed=given.seed)


def trained(given: Recipe, **source: FeatureSource) -> FitResult:
    return fit(network(given), TRAIN, DEV, given, ABNORMALITY_TASK, **source)


@functools.cache
def afresh(given: Recipe) -> FitResult:
    """From pixels; for one recipe once."""
    return trained(given)


def assert_same(one: FitResult, other: FitResult) -> None:
    timeless = [[dataclasses.replace(e, seconds=0.0) for e in f.epochs] for f in (one, other)]
    assert timeless[0] == timeless[1]
    assert torch.equal(one.logits, other.logits)
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def seen_by_stem(given: Recipe, source: FeatureSource) -> int:
    """Images through the first convolution in one fit."""
    net, seen = network(given), 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    next(m for m in net.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(count)
    fit(net, TRAIN, DEV, given, ABNORMALITY_TASK, source=source)
    return seen


@pytest.mark.parametrize(
    ("arch", "depth"), [("cnn", 0), ("cnn", 1), ("cnn", 2), ("cnn", 99), ("resnet10t", 1)]
)
def test_scores_and_weights_are_the_same_to_the_bit(tmp_path: Path, arch: str, depth: int) -> None:
    given = recipe(**{"arch": arch, "finetune.depth": depth})
    source = FeatureSource(FeatureStore(tmp_path))
    assert_same(trained(given, source=source), afresh(given))  # computed and kept
    assert_same(trained(given, source=source), afresh(given))  # read
    memory = FeatureMemory(FeatureStore(tmp_path), 10**8)
    assert_same(trained(given, source=FeatureSource(memory)), afresh(given))  # read, and held
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert_same(trained(given, source=FeatureSource(memory)), afresh(given))  # from memory
    assert memory.bytes
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("depth", [0, 1])
def test_a_second_trial_sees_no_pixel(tmp_path: Path, depth: int) -> None:
    source = FeatureSource(FeatureStore(tmp_path))
    first = recipe(**{"finetune.depth": depth})
    # Train once an epoch; dev once for each depth that occurs, whatever the number of epochs.
    assert seen_by_stem(first, source) == 3 * len(TRAIN) + len({0, depth}) * len(DEV)
    other = recipe(**{"finetune.depth": depth, "finetune.lr": 1e-2, "class_weight": 2.0})
    assert seen_by_stem(other, source) == 0


@pytest.mark.parametrize("values", [{"augment": 0.75}, {"seed": 1}, {"batch": 12}])
def test_other_views_are_computed_and_dev_is_not(tmp_path: Path, values: dict[str, object]) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(build_network("cnn").body.state_dict(), weights)  # the seed then decides views alone
    base = {"finetune.depth": 0, "pretrained": str(weights)}
    source = FeatureSource(FeatureStore(tmp_path / "features"))
    seen_by_stem(recipe(**base), source)
    given = recipe(**base, **values)
    assert seen_by_stem(given, source) == 3 * len(TRAIN)
    assert_same(trained(given, source=source), afresh(given))


def test_other_weights_are_other_features(tmp_path: Path) -> None:
    source = FeatureSource(FeatureStore(tmp_path))
    trained(recipe(**{"finetune.depth": 0}), source=source)
    given = recipe(seed=1, **{"finetune.depth": 0})
    assert seen_by_stem(given, source) == 3 * len(TRAIN) + len(DEV)
    assert_same(trained(given, source=source), afresh(given))


def test_other_pixels_are_another_entry(tmp_path: Path) -> None:
    source, given = FeatureSource(FeatureStore(tmp_path)), recipe(**{"finetune.depth": 0})
    trained(given, source=source)
    other = split(34, "train", 5)
    runs = [
        fit(build_network("cnn", seed=0), other, DEV, given, ABNORMALITY_TASK, **extra)
        for extra in ({}, {"source": source})
    ]
    assert_same(*runs)


def test_stages_that_an_earlier_phase_trained_are_never_taken_from_the_store(
    tmp_path: Path,
) -> None:
    given = recipe(**{"head.depth": 2, "finetune.depth": 1})
    source = FeatureSource(FeatureStore(tmp_path))
    trained(recipe(**{"finetune.depth": 1}), source=source)  # the same views, initial weights
    kept = sorted(file.name for file in tmp_path.glob("*.bin"))
    assert_same(trained(given, source=source), afresh(given))
    assert sorted(file.name for file in tmp_path.glob("*.bin")) == kept


@pytest.mark.parametrize("budget", [0, 10_000, 60_000])
def test_a_tiny_budget_changes_nothing_but_time(tmp_path: Path, budget: int) -> None:
    source = FeatureSource(FeatureStore(tmp_path, budget=budget))
    for depth in (0, 1, 0):
        given = recipe(**{"finetune.depth": depth})
        assert_same(trained(given, source=source), afresh(given))
        assert sum(file.stat().st_size for file in tmp_path.glob("*.bin")) <= budget


@pytest.mark.parametrize(
    ("arch", "side"),
    [
        ("cnn", 32),
        ("resnet18", 32),
        ("densenet121", 32),
        ("efficientnet_b0", 32),
        ("convnext_atto", 32),
        ("vit_tiny_patch16_224", 224),
    ],
)
def test_the_halves_make_the_whole_at_every_depth(arch: str, side: int) -> None:
    net = build_network(arch)
    x = torch.rand(2, 1, side, side)
    assert torch.equal(net.eval()(x), net.body(x))
    digests = []
    for depth in range(len(net.stages)):
        net.set_depth(depth)
        cut = halve_network(net.train())
        assert cut is not None
        features = cut.frozen(x)
        assert not features.requires_grad
        net.eval()
        assert torch.equal(cut.rest(features), net(x))
        digests.append(cut.digest)
    assert len(set(digests)) == len(digests)
    net.set_depth(99)
    assert halve_network(net) is None


def test_the_digest_is_of_the_frozen_stages_alone() -> None:
    net = build_network("resnet18")
    net.set_depth(1)

    def digest() -> str:
        cut = halve_network(net)
        assert cut is not None
        return cut.digest

    before = digest()
    with torch.no_grad():
        net.body.fc.weight.add_(1)
        net.body.layer4[0].bn1.running_mean.add_(1)
    assert digest() == before
    net.body.layer3[0].bn1.running_mean.add_(1)
    assert digest() != before


def test_a_network_of_unknown_steps_goes_the_way_of_pixels(tmp_path: Path) -> None:
    net = build_network("mobilenetv3_small_050")
    net.set_depth(0)
    assert halve_network(net) is None
    given = recipe(arch="mobilenetv3_small_050", **{"finetune.epochs": 0})
    feed = FeatureSource(FeatureStore(tmp_path))(net, TRAIN, DEV, given, 0)
    assert feed.forward is net
    assert list(tmp_path.iterdir()) == []


def test_dropout_before_the_classifier_is_drawn_anew_each_epoch() -> None:
    net = build_network("resnet18")
    net.body.drop_rate = 0.5
    net.set_depth(0)
    assert halve_network(net) is None


def test_a_fit_that_is_stopped_midway_keeps_whole_epochs_only(tmp_path: Path) -> None:
    source, given = FeatureSource(FeatureStore(tmp_path)), recipe(**{"finetune.depth": 0})
    net = build_network("cnn", seed=0)
    net.set_depth(0)
    feed = source(net, TRAIN, DEV, given, 0)
    batches: Iterator[object] = iter(feed.train(1))
    next(batches)
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    del batches
    assert list(tmp_path.glob("*.tmp")) + list(tmp_path.glob("*.bin")) == []
    assert_same(trained(given, source=source), afresh(given))


def test_pixels_is_what_fit_takes_by_default() -> None:
    given = recipe(**{"finetune.depth": 1})
    explicit = fit(
        build_network("cnn", seed=0), TRAIN, DEV, given, ABNORMALITY_TASK, source=pixel_feed
    )
    assert_same(explicit, afresh(given))


def test_features_keep_the_layout_they_were_computed_in(tmp_path: Path) -> None:
    net: Network = build_network("resnet18")
    net.set_depth(1)
    given = recipe(arch="resnet18", **{"head.epochs": 0, "finetune.depth": 1})
    feed = FeatureSource(FeatureStore(tmp_path))(net, TRAIN, DEV, given, 0)
    first, again = (next(iter(list(feed.dev()))) for _ in range(2))
    assert torch.equal(first, again)
    assert first.stride() == again.stride()
