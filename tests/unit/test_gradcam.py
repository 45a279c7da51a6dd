"""Grad-CAM against its closed form, over backbones, and the number that doubts it."""

import pytest
import torch
import torch.nn.functional as F

from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network
from mura_tune.networks.gradcam import compute_gradcam, scale_maps, trace_faithfulness

X = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def test_over_a_mean_pool_it_is_the_class_activation_map() -> None:
    """Zhou et al. 2016: the classifier's weights over the channels of the last map."""
    net = build_network("test_resnet", seed=1).eval()
    net.body.get_classifier().weight.data.abs_()
    found = compute_gradcam(net, X)
    with torch.no_grad():
        features = net.body.forward_features(X)
        plain = (features * net.body.get_classifier().weight.view(1, -1, 1, 1)).sum(1)
    plain = F.interpolate(plain.relu()[:, None], size=(64, 64), mode="bilinear")[:, 0]
    assert torch.allclose(found * 4, plain, atol=1e-5)  # the mean is over 2 x 2 places


@pytest.mark.parametrize(
    "arch", ["cnn", "resnet18", "densenet121", "test_convnext", "test_mambaout"]
)
def test_any_network_with_a_map_is_explained_and_left_as_it_was(arch: str) -> None:
    net = build_network(arch, seed=0)
    before = {name: value.clone() for name, value in net.body.state_dict().items()}
    found = compute_gradcam(net, X)
    assert found.shape == (2, 64, 64)
    assert (found >= 0).all()
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.body.state_dict().items())


def test_a_network_without_a_map_is_refused_in_one_line() -> None:
    net = build_network("test_vit", seed=0)
    size = net.body.patch_embed.img_size
    with pytest.raises(InputError, match="VisionTransformer has no feature map"):
        compute_gradcam(net, torch.zeros(1, 1, *size))


def test_the_map_of_the_small_network_adds_up_to_its_logit() -> None:
    """Its head is linear where its maxima are: evidence for and against, and the bias, is all."""
    net = build_network("cnn", seed=2).eval()
    with torch.no_grad():
        features, bias = net.body.forward_features(X), net.body.fc.bias
    features.requires_grad_()
    logits = net.body.forward_head(features)
    (slope,) = torch.autograd.grad(logits.sum(), features)
    evidence = (slope * features).sum(1)
    assert torch.allclose(evidence.sum((1, 2)) + bias, logits[:, 0], atol=1e-5)
    small = evidence.detach().relu()[:, None]
    shown = F.interpolate(small, size=(64, 64), mode="bilinear")[:, 0]
    assert torch.allclose(compute_gradcam(net, X), shown, atol=1e-5)


def test_views_that_are_scaled_together_keep_their_ratio() -> None:
    found = scale_maps(torch.tensor([[[0.0, 4.0]], [[1.0, 2.0]]]))
    assert found.tolist() == [[[0, 1]], [[0.25, 0.5]]]
    assert scale_maps(torch.zeros(1, 2, 2)).amax() == 0


def test_a_view_does_not_change_its_neighbours_map() -> None:
    net = build_network("cnn", seed=0)
    assert torch.allclose(compute_gradcam(net, X)[1], compute_gradcam(net, X[1:])[0], atol=1e-5)


class Spot(torch.nn.Module):
    """Looks at the middle of the left half alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 24:40, 8:24].mean((2, 3)) - 4


def test_a_map_that_is_right_deletes_and_inserts_better_than_one_that_is_wrong() -> None:
    net = build_network("cnn")
    net.body = Spot()
    view = torch.full((1, 1, 64, 64), -4.0)
    view[:, :, 24:40, 8:24] = 8.0
    right, wrong = torch.zeros(64, 64), torch.zeros(64, 64)
    right[24:40, 8:24] = 1
    wrong[:, 40:] = 1
    good, bad = (trace_faithfulness(net, view, cam).areas() for cam in (right, wrong))
    assert good.deletion < good.random_deletion < 1
    assert good.deletion < bad.deletion - 0.3
    assert good.insertion > max(good.random_insertion, bad.insertion)
    assert (good.random_deletion, good.random_insertion) == (
        bad.random_deletion,
        bad.random_insertion,
    )
