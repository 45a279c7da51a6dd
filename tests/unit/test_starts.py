"""Where weights come from: ImageNet's, a file's or a release's, verified before they are used."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mura_tune.errors import InputError
from mura_tune.networks import starts
from mura_tune.networks.factory import build_network
from mura_tune.networks.heads import AreaHead
from mura_tune.networks.normalisation import MEAN, STD
from mura_tune.release.exports import expand_to_three_channels
from mura_tune.release.release import save_release
from mura_tune.release_format.manifest import Manifest, parse_manifest


def rgb(arch: str) -> torch.nn.Module:
    """A three-channel network of timm's with weights and statistics that no two layers share."""
    torch.manual_seed(0)
    net = timm.create_model(arch, num_classes=1000)
    for name, value in net.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
    return net.eval()


def rgb_weights(folder: Path, drop: str = "", add: str = "", arch: str = "resnet18") -> Path:
    state = {name: value for name, value in rgb(arch).state_dict().items() if name != drop}
    if add:
        state[add] = torch.zeros(1)
    save_file(state, str(folder / "weights.safetensors"))
    return folder / "weights.safetensors"


@pytest.mark.parametrize(
    "arch", ["resnet18", "resnet50", "densenet121", "densenet169", "efficientnet_b0"]
)
def test_an_rgb_file_loads_summed_and_equals_grey_in_three_channels(
    arch: str, tmp_path: Path
) -> None:
    theirs = rgb(arch)
    grey = build_network(arch, size=48, pretrained=str(rgb_weights(tmp_path, arch=arch))).eval()
    levels = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    x = (levels - MEAN) / STD
    with torch.inference_mode():
        ours, expected = (
            grey.body.forward_features(x),
            theirs.forward_features(x.expand(-1, 3, -1, -1)),
        )
    assert expected.std() > 1e-3
    assert torch.allclose(ours, expected, atol=1e-5, rtol=1e-5)


def expects(arch: str) -> tuple[Tensor, Tensor]:
    """The mean and deviation of each channel that timm names for its weights of a network."""
    about = timm.get_pretrained_cfg(arch)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (about.mean, about.std))
    return mean, std


@torch.inference_mode()
def first_maps(net: Any, layer: str, x: Tensor) -> Tensor:
    """What a layer puts out, but for its border, where zeros beside the picture count."""
    seen: list[Tensor] = []
    hook = net.get_submodule(layer).register_forward_hook(lambda m, i, output: seen.append(output))
    net.eval().forward_features(x)
    hook.remove()
    return seen[0][..., 2:-2, 2:-2] if seen[0].ndim == 4 else seen[0]


# The constant of the fold goes into a bias, into the statistics of a BatchNorm, or, in CLIP's
# Transformers, into the position embedding.
@pytest.mark.parametrize(
    ("arch", "layer", "size"),
    [
        ("test_vit", "norm", 64),
        ("vit_xsmall_patch16_clip_224", "norm", 224),
        ("test_convnext", "stages.0", 64),
        ("test_resnet", "conv1.1", 64),
    ],
)
def test_rgb_weights_answer_as_with_their_own_normalisation(
    arch: str, layer: str, size: int, tmp_path: Path
) -> None:
    theirs = rgb(arch)
    path = str(rgb_weights(tmp_path, arch=arch))
    levels = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    mean, std = expects(arch)
    expected = first_maps(theirs, layer, (levels - mean) / std)
    folded, summed = (
        first_maps(
            build_network(arch, size=size, pretrained=path, normalisation=kind).body,
            layer,
            (levels - MEAN) / STD,
        )
        for kind in ("own", "common")
    )
    assert torch.allclose(folded, expected, atol=1e-4)
    assert not torch.allclose(summed, expected, atol=1e-2)


def test_a_stem_that_standardises_its_weights_is_summed_alone(tmp_path: Path) -> None:
    """A factor on its weights changes nothing, and they sum to zero."""
    path = str(rgb_weights(tmp_path, arch="test_nfnet"))
    folded, summed = (
        build_network("test_nfnet", size=64, pretrained=path, normalisation=kind).body.state_dict()
        for kind in ("own", "common")
    )
    for name in ("stem.conv1.weight", "stem.conv1.bias"):
        assert torch.allclose(folded[name], summed[name], atol=1e-6)


@pytest.mark.parametrize("arch", ["test_vit", "hybrid-test_resnet"])
def test_weights_of_ours_are_not_folded(arch: str, tmp_path: Path) -> None:
    """Neither one channel's nor those of our export in three, which names ImageNet's."""
    body = build_network(arch, size=64, seed=3).body
    grey = {n: v for n, v in body.state_dict().items() if not n.startswith(("head.", "fc."))}
    torch.save(grey, tmp_path / "grey.pt")
    rgb_of_ours = {
        name: expand_to_three_channels(value) if value.ndim == 4 and value.shape[1] == 1 else value
        for name, value in grey.items()
    }
    assert any(rgb_of_ours[name].shape != value.shape for name, value in grey.items())
    about = {"arch": arch, "recipe_digest": "0123456789ab"}
    torch.save({"model_state": rgb_of_ours, **about}, tmp_path / "export.pt")
    for name in ("grey.pt", "export.pt"):
        net = build_network(
            arch, size=64, pretrained=str(tmp_path / name), normalisation="own", seed=1
        )
        for tensor, value in grey.items():
            assert torch.allclose(net.body.state_dict()[tensor], value, atol=1e-6), tensor


def test_a_vit_of_another_size_is_resampled(tmp_path: Path) -> None:
    at_64 = build_network("vit_tiny_patch16_224", size=64).body.state_dict()
    torch.save(at_64, tmp_path / "vit.pt")
    body = build_network("vit_tiny_patch16_224", size=96, pretrained=str(tmp_path / "vit.pt")).body
    assert body.pos_embed.shape == (1, 1 + 6 * 6, 192)
    assert torch.equal(body.pos_embed[:, :1], at_64["pos_embed"][:, :1])
    assert torch.equal(body.blocks[3].attn.qkv.weight, at_64["blocks.3.attn.qkv.weight"])


def manifest_with(outputs: int) -> Manifest:
    values = {"schema": 2, "area": "ALL", "arch": "cnn", "preprocessing": {"size": 32}}
    return parse_manifest({**values, "outputs": outputs}, "for a test")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    manifest = manifest_with(outputs=2)
    save_release(
        tmp_path / "ALL",
        build_network("cnn", outputs=2, seed=5),
        manifest,
        {},
    )
    return tmp_path / "ALL"


def test_a_release_of_ours_is_a_start_but_for_its_head(release: Path) -> None:
    net = build_network("cnn", pretrained=str(release), seed=1)
    theirs, fresh = build_network("cnn", outputs=2, seed=5), build_network("cnn", seed=1)
    for name, value in net.body.state_dict().items():
        source = fresh if name in net.head else theirs
        assert torch.equal(value, source.body.state_dict()[name]), name


def test_a_multi_task_release_is_a_start_of_its_own_arch_for_any_task(tmp_path: Path) -> None:
    """Its head has other tensors than a linear one; neither task takes the head of a start."""
    manifest = manifest_with(outputs=3)
    theirs = build_network("cnn", outputs=3, seed=5, head=AreaHead)
    save_release(tmp_path / "ALL", theirs, manifest, {})
    for head in (None, AreaHead):
        net = build_network("cnn", outputs=3, seed=1, head=head, pretrained=str(tmp_path / "ALL"))
        fresh = build_network("cnn", outputs=3, seed=1, head=head)
        for name, value in net.body.state_dict().items():
            source = fresh if name in net.head else theirs
            assert torch.equal(value, source.body.state_dict()[name]), name


def test_a_start_of_another_network_is_refused_by_name(release: Path) -> None:
    with pytest.raises(InputError, match="a release of cnn, not of resnet18; write arch: cnn"):
        build_network("resnet18", pretrained=str(release))


@pytest.mark.parametrize("name", ["model.safetensors", "bundle.json", "SHA256SUMS"])
def test_a_damaged_release_is_no_start(release: Path, name: str) -> None:
    content = bytearray((release / name).read_bytes())
    content[len(content) // 2] ^= 1
    (release / name).write_bytes(content)
    with pytest.raises(InputError, match=r"not as released|no whole release"):
        build_network("cnn", pretrained=str(release))
    (release / name).unlink()
    with pytest.raises(InputError, match=r"no whole release|and missing"):
        build_network("cnn", pretrained=str(release))


def test_a_digest_is_of_the_weights_and_of_nothing_else(release: Path, tmp_path: Path) -> None:
    weights = (release / "model.safetensors").read_bytes()
    (tmp_path / "copy.safetensors").write_bytes(weights)
    expected = hashlib.sha256(weights).hexdigest()
    for source in (release, tmp_path / "copy.safetensors"):
        assert starts.start_digest(str(source), "cnn") == expected
    assert starts.start_digest("imagenet", "resnet18") is None
    assert starts.start_digest("none", "tf_efficientnet_lite0") is None
    with pytest.raises(InputError, match=r"nowhere\.pt: no such file"):
        starts.start_digest("nowhere.pt", "cnn")


@pytest.mark.parametrize(
    ("drop", "add", "told"),
    [
        ("layer3.0.conv1.weight", "", "missing tensor layer3.0.conv1.weight"),
        ("", "layer9.weight", "foreign tensor layer9.weight"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_tensor(
    tmp_path: Path, drop: str, add: str, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        build_network("resnet18", pretrained=str(rgb_weights(tmp_path, drop, add)))


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_of_something_else_is_refused_unrun(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pt"
    if content is None:
        torch.save({"a": Evil(tmp_path / "ran")}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pt"):
        build_network("cnn", pretrained=str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arch", "pretrained", "told"),
    [
        ("resnet19", "none", "near it: resnet"),
        ("cnn", "imagenet", "has no ImageNet weights"),
        ("cnn", "nowhere.pt", "nowhere.pt: no such file"),
    ],
)
def test_what_cannot_be_had_is_told(arch: str, pretrained: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        build_network(arch, pretrained=pretrained)
