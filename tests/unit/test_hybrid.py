"""The hybrid of a convolutional stem and a Transformer behaves as any other network does."""

import pytest
import torch

from mura_tune.networks.factory import build_network
from mura_tune.networks.gradcam import compute_gradcam
from mura_tune.networks.hybrid import AttentionPool, Embed, Hybrid
from mura_tune.training.feeds import halve_network


def test_hybrid_alone_has_a_densenet121_stem() -> None:
    with torch.device("meta"):
        net = build_network("hybrid")
    assert isinstance(net.body, Hybrid)
    assert type(net.body.stem).__name__ == "DenseNet"
    assert len(net.stages) == 6 + 2  # norm5, behind the last block, is a group of the stem's own


def test_stem_stages_come_first_then_a_stage_an_encoder_layer() -> None:
    net = build_network("hybrid-resnet18")
    *stem, first, last = net.stages
    assert [stage[0].split(".")[1] for stage in stem] == [
        "conv1",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]
    assert {name.split(".")[0] for name in first} == {"embed", "encoder"}
    assert {name.split(".")[0] for name in last} == {"encoder", "norm", "pool"}
    assert net.head == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("stem", ["resnet18", "efficientnet_b0", "convnext_atto"])
@pytest.mark.parametrize("size", [32, 72])
def test_any_stem_at_any_size_is_cut_and_explained(stem: str, size: int) -> None:
    net = build_network(f"hybrid-{stem}", size=size)
    x = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    net.set_depth(1)
    cut = halve_network(net)
    net.eval()
    assert cut is not None
    assert torch.equal(cut.rest(cut.frozen(x)), net(x))
    assert torch.allclose(net(x), net.body(x))
    speaks_for = compute_gradcam(net, x)
    with torch.no_grad():
        net.body.fc.weight.neg_()
    assert speaks_for.shape == (2, size, size)
    assert (
        speaks_for + compute_gradcam(net, x)
    ).amax() > 0  # each place speaks for one or the other


def test_places_are_told_apart_and_look_at_one_another() -> None:
    """A map turned upside down, and a change in one corner, reach every other place."""
    torch.manual_seed(0)
    embed, x = Embed(4, 64), torch.randn(1, 4, 7, 7)
    turned = embed(x.flip(2)).flip(2)
    assert not torch.allclose(embed(x), turned)
    with torch.no_grad():
        embed.position.zero_()
    assert torch.allclose(embed(x), embed(x.flip(2)).flip(2), atol=1e-6)

    net = build_network("hybrid-resnet18").eval()
    layer = net.body.encoder[0]
    one = torch.randn(1, 256, 3, 3)
    other = one.clone()
    other[:, :, 0, 0] += torch.randn(256)
    assert (layer(one) != layer(other)).any(1).all()


def test_the_pool_is_a_mean_weighted_by_its_scores() -> None:
    pool, x = AttentionPool(8), torch.randn(2, 8, 3, 3)
    with torch.no_grad():
        pool.score.weight.zero_()
    assert torch.allclose(pool(x), x.mean((2, 3)), atol=1e-6)
    with torch.no_grad():
        pool.score.weight[0, 0] = 1e4  # all weight where the first channel is largest
    place = x[:, 0].flatten(1).argmax(1)
    assert torch.allclose(pool(x), x.flatten(2)[torch.arange(2), :, place], atol=1e-5)
