"""The scale of a network's input: ours for every network, theirs folded into pretrained weights.

Every network reads one grey channel, (level - MEAN) / STD of levels from 0 to 1. Weights that were
trained elsewhere expect three channels with means and deviations of their own. For a grey picture
the layer that reads them is exactly one of ours, with other weights and another constant: these are
what `fold_normalisation` makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mura_tune.networks.hybrid import backbone_name

# ImageNet's means and deviations, by which most programs normalise three channels, and what they
# average to. Their average makes `exports.expand_to_three_channels` exact.
RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN, STD = 0.449, 0.226

# Layers that standardise their weights, which undoes a factor. Such weights sum to zero, so that
# one constant for all channels reaches nothing behind them either.
STANDARDISING = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)


@dataclass(frozen=True)
class Normalisation:
    """The mean and the deviation of each channel, of levels from 0 to 1."""

    mean: tuple[float, float, float] = RGB_MEAN
    std: tuple[float, float, float] = RGB_STD


IMAGENET_NORMALISATION = Normalisation()


def own_normalisation(arch: str) -> Normalisation:
    """Return what timm's weights of `arch` expect; ImageNet's for a network that is none of timm's.

    A tag in the name (`vit_base_patch16_224.mae`) picks the weights; otherwise they are those that
    timm prefers.
    """
    backbone = backbone_name(arch)
    about = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone.partition(".")[0]) else None
    if about is None:
        return IMAGENET_NORMALISATION
    return Normalisation(_triple(about.mean), _triple(about.std))


def fold_normalisation(
    body: nn.Module, weights: Mapping[str, Tensor], theirs: Normalisation, side: int
) -> dict[str, Tensor]:
    """Return the weights of an RGB network for the same network with one grey channel of our scale.

    With u ours, channel c reads (STD u + MEAN - mean_c) / std_c. Each channel's weights therefore
    count STD / std_c times, and are summed; what is left is a constant of each output, the weights'
    sum times (MEAN - mean_c) / std_c. It goes into the layer's bias, or off the running mean of
    the BatchNorm behind it, or, in a CLIP's Transformer, into what the position embedding adds to
    each patch. The answers are equal except where a layer pads with zeros, which mean another grey
    there and here.

    A layer that has none of these, such as the stem of a ResNetV2, loses the constant: it would
    need a tensor that timm's network lacks. A layer that standardises its weights is summed alone.

    Args:
        body: the grey network. It runs once, to see what follows its first layers.
        weights: by the names of `body`; those that read one channel already stay as they are.
        side: pixels a side of an image that `body` takes.
    """
    timms: Any = body  # torch types its attributes as Tensor or Module
    folded = dict(weights)
    grey = body.state_dict()
    stems = {
        name.removesuffix(".weight"): _by_colour(weights[name], grey[name])
        for name in grey
        if name in weights and _reads_rgb(weights[name], grey[name])
    }
    norms = _following_norms(body, list(stems), side) if stems else {}
    for name, rgb in stems.items():
        layer = body.get_submodule(name)
        if isinstance(layer, STANDARDISING):
            folded[f"{name}.weight"] = rgb.sum(2).to(weights[f"{name}.weight"].dtype)
            continue
        deviations = torch.tensor(theirs.std, dtype=torch.float64).view(1, 1, 3, 1, 1)
        offsets = MEAN - torch.tensor(theirs.mean, dtype=torch.float64).view(1, 1, 3, 1, 1)
        folded[f"{name}.weight"] = _like(weights[f"{name}.weight"], (rgb * STD / deviations).sum(2))
        constant = (rgb * offsets / deviations).sum((1, 2, 3, 4))
        bias, mean = f"{name}.bias", f"{norms.get(name)}.running_mean"
        if bias in weights:
            folded[bias] = _like(weights[bias], weights[bias] + constant)
        elif mean in weights:
            folded[mean] = _like(weights[mean], weights[mean] - constant)
        elif name == "patch_embed.proj" and _adds_positions(body) and "pos_embed" in weights:
            at_patches = grey["pos_embed"].shape[1] - timms.patch_embed.num_patches
            positions = weights["pos_embed"].double()
            positions[:, at_patches:] += constant
            folded["pos_embed"] = _like(weights["pos_embed"], positions)
    return folded


def _adds_positions(body: nn.Module) -> bool:
    """Whether a position embedding is added to just what `patch_embed.proj` puts out."""
    timms: Any = body
    return (
        isinstance(body, VisionTransformer)
        and isinstance(timms.pos_embed, nn.Parameter)
        and isinstance(timms.patch_embed.norm, nn.Identity)
    )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    return value.to(tensor.dtype)


def _reads_rgb(loaded: Tensor, grey: Tensor) -> bool:
    """Whether a convolution reads three channels, or three of each of several places of a picture
    (TResNet), where ours reads one."""
    return loaded.ndim == grey.ndim == 4 and loaded.shape[1] == 3 * grey.shape[1]


def _by_colour(rgb: Tensor, grey: Tensor) -> Tensor:
    """Weights (O, 3 I, h, w) as (O, I, 3, h, w), in double precision; the colours vary fastest."""
    places, height, width = grey.shape[1:]
    return rgb.double().reshape(-1, places, 3, height, width)


@torch.inference_mode()
def _following_norms(body: nn.Module, layers: Sequence[str], side: int) -> dict[str, str]:
    """Return the BatchNorm, by name, that reads exactly what each of these layers puts out."""
    outputs: dict[str, Tensor] = {}
    norms: dict[str, str] = {}

    def see_output(name: str) -> Any:
        return lambda module, inputs, output: outputs.update({name: output})

    def see_input(norm: str) -> Any:
        return lambda module, inputs: norms.update(
            {name: norm for name, output in outputs.items() if inputs[0] is output}
        )

    hooks = [body.get_submodule(name).register_forward_hook(see_output(name)) for name in layers]
    hooks += [
        module.register_forward_pre_hook(see_input(name))
        for name, module in body.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    training = body.training
    body.eval()(torch.zeros(1, 1, side, side))
    body.train(training)
    for hook in hooks:
        hook.remove()
    return norms
