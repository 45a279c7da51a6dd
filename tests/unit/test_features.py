"""The features that a pass pools on its way leave its logits as they are, to the bit."""

import pytest
import torch
from torch import nn

from mura_tune.networks.factory import build_network
from mura_tune.networks.features import answer_with_features
from mura_tune.networks.network import Ensemble


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
