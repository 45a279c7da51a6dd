"""A small network for CPUs and small images, shaped like timm's so that nothing treats it apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """A stem and four stages of 3x3 convolutions, pooled by mean and by maximum.

    A fracture line fills a few pixels: the mean alone would drown it, the maximum keeps it.

    Args:
        widths: channels of the stem and of each stage; each halves the map's side.
        num_classes: K, the length of the output.
    """

    def __init__(self, widths: Sequence[int] = (16, 24, 48, 96, 128), num_classes: int = 1) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.stem = nn.Sequential(_conv(1, widths[0], 2), _conv(widths[0], widths[0], 1))
        self.stages = nn.ModuleList(nn.Sequential(_conv(a, b, 2), _conv(b, b, 1)) for a, b in pairs)
        self.num_features = 2 * widths[-1]
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x_nchw: Tensor) -> Tensor:
        """The last feature map, (N, C, H, W)."""
        x_nchw = self.stem(x_nchw)
        for stage in self.stages:
            x_nchw = stage(x_nchw)
        return x_nchw

    def forward_head(self, x_nchw: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (N, K) from the last feature map, or what the classifier takes, (N, 2 C)."""
        pooled = torch.cat((x_nchw.mean((2, 3)), x_nchw.amax((2, 3))), dim=1)
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_nchw))

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups in timm's form: the stem, then one group a stage."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}


def _conv(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
    )
