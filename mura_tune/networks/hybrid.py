"""A convolutional stem whose map becomes tokens for a small Transformer, shaped as timm's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from timm.models import group_parameters
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mura_tune.errors import InputError

HYBRID = "hybrid"
STEM = "densenet121"  # what `hybrid` alone stands for; `hybrid-resnet18` names another
GRID = 7  # side of the learned position map: what a stem of stride 32 makes of 224 px


def backbone_name(arch: str) -> str:
    """Return the name of the timm network in `hybrid-STEM` or `hybrid`; any other name as it is."""
    kind, _, stem = arch.partition("-")
    return (stem or STEM) if kind == HYBRID else arch


class Hybrid(nn.Module):
    """Stem, encoder, attention pooling, classifier; works at any size that the stem takes.

    The encoder lets places of the map look at one another: a joint is compared with its
    neighbours before anything is pooled.

    Args:
        stem: a timm network without its classifier; its last features must be a map. (Typed as Any:
            torch types every attribute of a Module as Tensor or Module, timm's methods among them.)
        width: channels of a token; a multiple of 64, the channels of an attention head.
        layers: of the encoder; each is a stage of its own behind the stem's stages.
        num_classes: K, the length of the output.
    """

    def __init__(self, stem: Any, width: int = 256, layers: int = 2, num_classes: int = 1) -> None:
        super().__init__()
        self.stem = stem
        self.embed = Embed(self.stem.num_features, width)
        self.encoder = nn.Sequential(*(Layer(width) for _ in range(layers)))
        self.norm = LayerNorm2d(width)
        self.pool = AttentionPool(width)
        self.num_features = width
        self.fc = nn.Linear(width, num_classes)

    def forward_features(self, x_nchw: Tensor) -> Tensor:
        """The encoded map (N, C, H, W); raises InputError if the stem gives no map."""
        map_nchw: Tensor = self.stem.forward_features(x_nchw)
        if not isinstance(map_nchw, Tensor) or map_nchw.ndim != 4:  # CoaT gives a list
            raise InputError(
                f"hybrid: {type(self.stem).__name__} gives no feature map; "
                "name a convolutional stem, such as hybrid-resnet18"
            )
        if getattr(self.stem, "output_fmt", "NCHW") == "NHWC":  # Swin and its like
            map_nchw = map_nchw.permute(0, 3, 1, 2)
        encoded: Tensor = self.norm(self.encoder(self.embed(map_nchw)))
        return encoded

    def forward_head(self, x_nchw: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (N, K) from the encoded map, or what the classifier takes, (N, C)."""
        pooled = self.pool(x_nchw)
        output: Tensor = pooled if pre_logits else self.fc(pooled)
        return output

    def forward(self, x_nchw: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_nchw))

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """Parameter groups in timm's form: the stem's own, then one for each encoder layer.

        The embedding goes with the encoder's first layer, norm and pooling with its last.
        """
        matcher = self.stem.group_matcher(coarse=coarse)
        of_stem: dict[str, float] = group_parameters(self.stem, matcher, reverse=True)
        first = 1 + max(of_stem.values())

        def group(name: str) -> float:
            module, _, rest = name.partition(".")
            if module == "stem":
                return of_stem[rest]
            if module == "embed":
                return first
            return first + float(rest.split(".")[0]) if module == "encoder" else float("inf")

        return group


class Embed(nn.Module):
    """Channels to the encoder's width, and where each place is: a learned map, interpolated."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, 1)
        self.position = nn.Parameter(torch.empty(1, width, GRID, GRID))
        nn.init.trunc_normal_(self.position, std=0.02)  # ViT's

    def forward(self, x_nchw: Tensor) -> Tensor:
        position: Tensor = self.position
        if x_nchw.shape[-2:] != position.shape[-2:]:
            position = F.interpolate(
                position, size=x_nchw.shape[-2:], mode="bilinear", align_corners=False
            )
        embedded: Tensor = self.project(x_nchw) + position
        return embedded


class Layer(nn.Module):
    """One of timm's Transformer blocks over the places of a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = Block(width, num_heads=width // 64, qkv_bias=True)

    def forward(self, x_nchw: Tensor) -> Tensor:
        tokens_nlc: Tensor = self.block(x_nchw.flatten(2).transpose(1, 2))
        return tokens_nlc.transpose(1, 2).view(x_nchw.shape)


class AttentionPool(nn.Module):
    """The mean over places, weighted by a learned score of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, x_nchw: Tensor) -> Tensor:
        tokens_nlc = x_nchw.flatten(2).transpose(1, 2)
        scores_nl1: Tensor = self.score(tokens_nlc)
        return (scores_nl1.softmax(dim=1) * tokens_nlc).sum(1)
