"""Does a start with another normalisation answer as it was made to, once that is folded in?

timm's own networks with three channels, by the preprocessing that timm names, against ours with one
channel, loaded from the same weights: with the normalisation folded in, and summed alone as if it
were ImageNet's. Weights are random ones, or ImageNet's where a package has them. `inside` compares
the first layers' output but for its border, where padding is seen, and `logits` the 1000 answers to
noise: the largest difference, as a share of the largest value. `radiographs` is the correlation of
the 1000 logits of a real radiograph, the least over images.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measure import REAL, arguments, is_here, opened
from safetensors.torch import save_file
from torch import Tensor, nn

from mura_tune.errors import InputError
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.networks.factory import build_network
from mura_tune.networks.imagenet import find_packaged_weights, load_packaged_weights
from mura_tune.networks.normalisation import MEAN, STD, own_normalisation
from mura_tune.networks.weights import copy_tensors

# A network, and a layer behind which the fold is whole.
UNPADDED = (
    ("vit_tiny_patch16_224", "patch_embed"),
    ("vit_xsmall_patch16_clip_224", "norm_pre"),
    ("eva02_tiny_patch14_224", "patch_embed"),
    ("flexivit_small", "patch_embed"),
    ("vit_pwee_patch16_reg1_gap_256", "patch_embed"),
    ("mixer_s32_224", "stem"),
    ("convnext_zepto_rms", "stem"),
    ("inception_v3", "Conv2d_1a_3x3"),
    ("vit_base_mci_224", "patch_embed.backbone"),
)
PADDED = (
    ("tf_efficientnet_lite0", "bn1"),
    ("tf_efficientnet_lite1", "bn1"),
    ("resnet18", "bn1"),
    ("efficientnet_b1", "bn1"),
    ("mobilevitv2_050", "stem"),
    ("fastvit_mci0", "stem.0"),
    ("tresnet_m", "body.conv1"),
)
LEFT = (("resnetv2_18", "stem"),)
GROUPS = (
    ("no layer pads the picture: equal", UNPADDED),
    ("the first layer pads: equal but for the border", PADDED),
    ("no bias, and no BatchNorm reads the first layer: the constant is lost", LEFT),
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=8, help="real radiographs")
    given = opened(parser)
    if not is_here(REAL):
        return
    given.images = 4 if given.quick else given.images
    paths = sorted(REAL.glob("valid/*/*/*/*.png"))[: given.images]
    columns = f"{'inside':>8} {'logits':>8} {'radiographs':>11}"
    print(f"{len(paths)} real radiographs")
    print(f"{'':36} {'folded in':^29}   {'summed alone':^29}")
    print(f"{'':28} {'mean':>3} {'std':>4} {columns}   {columns}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for title, arches in GROUPS:
            print(f"\n{title}")
            for arch, layer in arches[:1] if given.quick else arches:
                print(compare(arch, layer, paths, Path(folder)), flush=True)


@torch.inference_mode()
def compare(arch: str, layer: str, paths: list[Path], folder: Path) -> str:
    """One line of the table."""
    about = timm.get_pretrained_cfg(arch)
    assert about is not None
    size, own = about.input_size[-1], own_normalisation(arch)
    levels = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    pictures = [resize_to_square(read_image(path), size) for path in paths]
    views = torch.from_numpy(np.stack(pictures))[:, None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (own.mean, own.std))
    theirs: Any = timm.create_model(arch, num_classes=1000)
    if packaged := find_packaged_weights(arch):
        load_packaged_weights(theirs, packaged, arch)
    else:
        settle(theirs, (views - mean) / std)
    theirs.eval()
    save_file(copy_tensors(theirs.state_dict()), folder / "start.safetensors")
    expected = [answers(theirs, layer, (x - mean) / std) for x in (levels, views)]
    cells = []
    for kind in ("own", "common"):
        try:
            net = build_network(
                arch,
                size=size,
                outputs=1000,
                pretrained=str(folder / "start.safetensors"),
                normalisation=kind,
            ).body.eval()
        except InputError:  # TResNet's first layer reads 16 places of three channels
            cells.append(f"{'not loaded':>29}")
            continue
        net.get_classifier().load_state_dict(theirs.get_classifier().state_dict())
        found = [answers(net, layer, (x - MEAN) / STD) for x in (levels, views)]
        inside, logits = (gap(found[0][part], expected[0][part]) for part in (0, 1))
        alike = correlation(found[1][1], expected[1][1])
        cells.append(f"{inside:8.1e} {logits:8.1e} {alike:11.5f}")
    return f"{arch:28} {own.mean[0]:4.2f} {own.std[0]:4.2f} {cells[0]}   {cells[1]}"


def settle(net: Any, x: Tensor) -> None:
    """Give random weights to a network and, by a step over pictures, statistics to BatchNorms."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)  # a network that answers zero compares as equal
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.get_classifier().weight.normal_(std=0.05)
    net.train()(x)


def answers(net: Any, layer: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer puts out, but for a border of two places, and the logits (N, 1000)."""
    seen: list[Tensor] = []
    hook = net.get_submodule(layer).register_forward_hook(lambda m, i, out: seen.append(out))
    logits = net(x)
    hook.remove()
    first = seen[0]
    return first[..., 2:-2, 2:-2] if first.ndim == 4 else first, logits


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def correlation(found: Tensor, expected: Tensor) -> float:
    pairs = zip(found.numpy(), expected.numpy(), strict=True)
    return float(np.min([np.corrcoef(a, b)[0, 1] for a, b in pairs]))


if __name__ == "__main__":
    main()
