"""The features that a pass pools on its way leave its logits as they are, to the bit."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mura_tune.networks.factory import build_network
from mura_tune.networks.features import answer_with_features, describe_pictures
from mura_tune.networks.network import Ensemble
from mura_tune.training.batches import to_input

CPU = torch.device("cpu")
QUANTILES, TEXTURE = 7, 10  # where the texture begins: after a deviation, two correlations
NOTHING = math.log(0.002)


@pytest.fixture(scope="module")
def x_nchw() -> torch.Tensor:
    return torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arch", "depths"),
    [("cnn", 4), ("resnet10t", 5), ("mobilenetv3_small_050", 1), ("hybrid-resnet10t", 6)],
)
@torch.inference_mode()
def test_logits_are_those_of_the_network(arch: str, depths: int, x_nchw: torch.Tensor) -> None:
    net = build_network(arch, size=32, seed=0).eval()
    logits, features = answer_with_features(net, x_nchw)
    assert torch.equal(logits, net(x_nchw))
    assert len(features) >= depths
    for one in features:
        assert one.shape[0] == 3
        assert one.shape[1] % 2 == 0
        assert one.dtype == torch.float32
        assert not torch.equal(one[0], one[1])  # they are of the view


@torch.inference_mode()
def test_a_depth_is_the_mean_and_the_deviation_of_its_channels(x_nchw: torch.Tensor) -> None:
    net = build_network("cnn", size=32, seed=0).eval()
    maps: list[torch.Tensor] = []
    stages: nn.Module = net.body.stages
    hook = stages[-1].register_forward_hook(lambda module, given, output: maps.append(output))
    _, features = answer_with_features(net, x_nchw)
    hook.remove()
    (last,) = maps
    mean, deviation = last.mean((2, 3)), last.var((2, 3), correction=0).sqrt()
    pooled = torch.cat((mean, deviation), 1)
    torch.testing.assert_close(features[-1], pooled, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_members_and_mirror_images_are_joined(x_nchw: torch.Tensor) -> None:
    first, second = (build_network("cnn", size=32, seed=seed).eval() for seed in (0, 1))
    both = Ensemble([first, second]).eval()
    logits, features = answer_with_features(both, x_nchw)
    assert torch.equal(logits, both(x_nchw))
    _, of_first = answer_with_features(first, x_nchw)
    _, of_second = answer_with_features(second, x_nchw)
    assert all(map(torch.equal, features, (*of_first, *of_second)))
    first.flip_test = True
    logits, features = answer_with_features(first, x_nchw)
    assert torch.equal(logits, first(x_nchw))
    _, again = answer_with_features(first, x_nchw.flip(-1))
    torch.testing.assert_close(features, again)  # a view and its mirror image are one


# ---- before any network ----


def describe(*pixels: np.ndarray) -> np.ndarray:
    squares = torch.from_numpy(np.stack(pixels).astype(np.uint8))
    return describe_pictures(to_input(squares, CPU))


def test_a_frame_of_one_grey_has_its_level_and_no_texture() -> None:
    (numbers,) = describe(np.full((64, 64), 51))
    assert numbers.shape == (26,)
    np.testing.assert_allclose(numbers[:QUANTILES], 0.2, atol=1e-6)
    np.testing.assert_allclose(numbers[QUANTILES:TEXTURE], 0, atol=1e-6)
    np.testing.assert_allclose(numbers[TEXTURE:], NOTHING, atol=1e-3)


def test_stripes_have_the_gradient_and_the_laplacian_of_stripes() -> None:
    stripes = np.tile([0, 255], (64, 32))  # across 1, down 0
    (numbers,) = describe(stripes)
    mean, root, laplacian, its_root = np.exp(numbers[TEXTURE:][:4]) - 0.002
    assert mean == pytest.approx(1 / 2, abs=1e-3)
    assert root == pytest.approx(math.sqrt(1 / 2), abs=1e-3)
    assert laplacian == pytest.approx(1 / 2, abs=1e-3)
    assert its_root == pytest.approx(1 / 2, abs=1e-3)
    np.testing.assert_allclose(numbers[TEXTURE + 4 :], NOTHING, atol=1e-3)  # grey at half size


def test_level_and_gradient_go_together_where_what_is_bright_is_rough() -> None:
    rough = np.random.default_rng(0).integers(120, 220, (64, 64))
    rough[:, :32] = 10
    together, against = describe(rough, 230 - rough)[:, QUANTILES + 1 : TEXTURE]
    assert (together > 0.7).all()
    np.testing.assert_allclose(against, -together, atol=0.05)


@pytest.mark.parametrize(("side", "scales"), [(32, 3), (64, 4), (224, 4)])
def test_as_many_scales_as_a_side_has(side: int, scales: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, side, side))
    numbers = describe(*noise)
    assert numbers.shape == (2, TEXTURE + 4 * scales)
    np.testing.assert_allclose(numbers[1:], describe(noise[1]), rtol=1e-5)
    mirrored = describe(*noise[:, :, ::-1])
    np.testing.assert_allclose(mirrored[:, :QUANTILES], numbers[:, :QUANTILES], atol=0.05)
    np.testing.assert_allclose(mirrored[:, TEXTURE:], numbers[:, TEXTURE:], atol=1e-4)
