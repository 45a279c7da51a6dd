"""Consistency: the maps are the classifier's, turning there and back is nothing, and it trains."""

import math
from pathlib import Path

import pytest
import torch
from test_fit import DEV, TRAIN, recipe, split

from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network
from mura_tune.training import losses
from mura_tune.training.batches import to_input
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource
from mura_tune.training.fit import fit
from mura_tune.training.tasks import ABNORMALITY_TASK

CPU = torch.device("cpu")
X = to_input(split(6, side=96).pixels, CPU)


def turn(degrees: float, flip: float = 1.0) -> torch.Tensor:
    return losses.rotation_matrices(torch.tensor([math.radians(degrees)]), torch.tensor([flip]))


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "efficientnet_b0"])
def test_a_linear_heads_map_is_the_class_activation_map(arch: str) -> None:
    net = build_network(arch).eval()
    features = losses.feature_map(net, X)
    found = losses.class_maps(net, features)
    head = net.body.get_classifier()
    by_hand = torch.einsum("nchw,c->nhw", features, head.weight[0]) + head.bias
    assert found.shape == (6, 1, 3, 3)
    assert torch.allclose(found[:, 0], by_hand, atol=1e-5)
    assert torch.allclose(found.mean((1, 2, 3)), net(X)[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    "arch", ["cnn", "hybrid-resnet18", "convnext_atto", "mobilenetv3_small_050"]
)
def test_every_network_with_a_map_has_one_that_trains_it(arch: str) -> None:
    net = build_network(arch).train()
    judge = losses.add_consistency(net, 1.0)
    torch.manual_seed(0)
    loss = judge(X, lambda logits: 0 * logits.sum())
    loss.backward()
    assert 0 < loss.item() <= 2
    slopes = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(slope.isfinite().all() for slope in slopes)
    assert sum(float(slope.abs().sum()) > 0 for slope in slopes) > len(slopes) / 2


def test_a_channels_last_map_is_read_as_one() -> None:
    net = build_network("swin_tiny_patch4_window7_224", size=224).eval()
    maps = losses.class_maps(net, losses.feature_map(net, torch.rand(2, 1, 224, 224)))
    assert maps.shape == (2, 1, 7, 7)


def test_turning_moves_the_picture_and_the_transpose_moves_it_back() -> None:
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    spot = torch.exp(-((xx - 0.4) ** 2 + yy**2) / 0.08)[None, None]
    for move, place in ((turn(30), (0.346, -0.2)), (turn(0, -1), (-0.4, 0.0))):
        moved = losses.move(spot, move)
        total = moved.sum()
        found = (float((moved[0, 0] * xx).sum() / total), float((moved[0, 0] * yy).sum() / total))
        assert found == pytest.approx(place, abs=0.02)
        assert torch.allclose(losses.move(moved, move.transpose(1, 2)), spot, atol=0.03)


def test_what_comes_in_from_outside_is_black() -> None:
    moved = losses.move(
        to_input(torch.full((1, 32, 32), 255, dtype=torch.uint8), CPU),
        turn(30),
        outside=losses.BLACK,
    )
    assert moved[0, 0, 0, 0] == pytest.approx(losses.BLACK)
    assert moved[0, 0, 16, 16] == pytest.approx((1 - 0.449) / 0.226, rel=1e-4)


def test_disagreement_knows_equal_unrelated_and_opposite_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200, 1, 7, 7, generator=generator) for _ in range(2))
    seen = torch.ones_like(a)
    assert losses.disagreement(a, a + 3, seen) == pytest.approx(0, abs=1e-10)
    assert losses.disagreement(a, b, seen) == pytest.approx(1, abs=0.05)
    assert losses.disagreement(a, -a, seen) == pytest.approx(2)
    one, tenth = (losses.disagreement(k * a, k * b, seen) for k in (1.0, 0.1))
    assert tenth == pytest.approx(float(one))
    assert losses.disagreement(0 * a, 0 * b, seen) == 0


def test_a_map_that_turns_with_its_view_agrees_and_one_that_stays_does_not() -> None:
    moves = torch.cat([turn(25), turn(-20, -1)])
    smooth = torch.nn.functional.interpolate(
        torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)),
        size=28,
        mode="bicubic",
    )
    turned = losses.compare_maps(smooth, losses.move(smooth, moves), moves)
    stayed = losses.compare_maps(smooth, smooth, moves)
    assert turned < 0.05 < 0.5 < stayed


def test_it_makes_maps_agree() -> None:
    given = {"size": 96, "head.epochs": 0, "finetune.epochs": 6, "finetune.lr": 3e-3}
    train, dev = split(48, side=96), split(24, "dev", 1, side=96)
    x = to_input(dev.pixels, CPU)
    moves = turn(20).expand(len(x), 2, 2)
    ends = []
    for weight in (0.0, 2.0):
        net = build_network("cnn", seed=0)
        fit(net, train, dev, recipe(consistency=weight, **given), ABNORMALITY_TASK)
        net.eval()
        views = (x, losses.move(x, moves, outside=losses.BLACK))
        with torch.no_grad():
            here, there = (losses.class_maps(net, losses.feature_map(net, view)) for view in views)
        ends.append(float(losses.compare_maps(here, there, moves)))
    assert ends[1] < 0.8 * ends[0]


def test_the_same_seed_draws_the_same_turns_and_frozen_stages_stay() -> None:
    given = recipe(size=96, consistency=0.5, **{"finetune.epochs": 1, "finetune.depth": 1})
    train, dev = split(20, side=96), split(12, "dev", 1, side=96)
    before = {k: v.clone() for k, v in build_network("cnn", seed=0).body.state_dict().items()}
    one, again = (
        fit(build_network("cnn", seed=0), train, dev, given, ABNORMALITY_TASK).weights
        for _ in range(2)
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    changed = {name for name in one if not torch.equal(one[name], before[name])}
    assert {name.split(".")[0] for name in changed} <= {"stages", "fc"}
    assert {name.split(".")[1] for name in changed if name.startswith("stages")} <= {"3"}


@pytest.mark.parametrize("depth", [0, 1])
def test_features_are_not_shared_where_views_are_turned(tmp_path: Path, depth: int) -> None:
    given = recipe(consistency=0.5, **{"finetune.depth": depth})
    net = build_network("cnn")
    net.set_depth(given.phases[1].depth)
    feed = FeatureSource(FeatureStore(tmp_path))(net, TRAIN, DEV, given, 1)
    assert feed.forward is net
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arch", "size", "told"),
    [
        ("vit_tiny_patch16_224", 224, "VisionTransformer has no feature map (its features"),
        ("cnn", 32, "at 32 px the last feature map of SmallCNN has a single place"),
    ],
)
def test_a_network_without_a_map_is_refused(arch: str, size: int, told: str) -> None:
    given = recipe(arch=arch, size=size, consistency=0.5)
    train = split(4, side=size)
    with pytest.raises(InputError) as refused:
        fit(build_network(arch), train, train, given, ABNORMALITY_TASK)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
